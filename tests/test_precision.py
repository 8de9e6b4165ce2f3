"""What `auto` comes to: what was timed fastest; and that a run keeps what it began with."""

import json
import sys
import time
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from tiny_models import LAYERS, VOCABULARY, tiny_model_folder

from unmix import cache, config, kernels, precision
from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.kernels import trial
from unmix.kernels.trial import Shape, Times
from unmix.lm.model import load_language_model

WIDTHS = {"resid_post.0": 16}
TIMES = Times({"fp32": 5e-3, "bf16": 4e-3}, {"fp32": 3e-3, "bf16": 1e-3, "int8": 2e-3}, 8e-3, 64)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))


def recipe(**overrides):
    return config.load(
        None, {"training.l1": [1.0]} | {key.replace("__", "."): value for key, value in overrides.items()}
    )


def decided(found):
    return found.training.selection, found.training.dense, found.training.border


def as_timed(monkeypatch, **changed):
    """`trial.measure` that answers this, and the shapes that it was asked for."""
    asked = []

    def measure(shape):
        asked.append(shape)
        return TIMES._replace(**changed)

    monkeypatch.setattr(precision, "measure", measure)
    return asked


def test_auto_is_what_was_timed_fastest(monkeypatch):
    as_timed(monkeypatch)
    found, figures = precision.decide(recipe(), WIDTHS)
    assert decided(found) == ("bf16", "bf16", round(0.01 + 3e-3 / 0.1, 4))  # 7 ms for 7 % more active
    assert figures["dense"] == TIMES.dense
    assert figures["sparse"] == TIMES.sparse
    for figure in ("5", "4", "fp32 3", "int8 2", "dense steps are in bf16", "selection in bf16", "below 4.0% active"):
        assert figure in precision.said(found, figures)


def test_no_flag_of_the_processor_decides(monkeypatch):
    """bf16 timed slower is not taken, whatever instructions there are."""
    as_timed(monkeypatch, dense={"fp32": 5e-3, "bf16": 9e-3}, sparse={"fp32": 1e-3, "bf16": 3e-3, "int8": 2e-3})
    assert decided(precision.decide(recipe(), WIDTHS)[0])[:2] == ("fp32", "fp32")


def test_what_the_recipe_gives_is_taken_as_it_is(monkeypatch):
    asked = as_timed(monkeypatch)
    given = {"training__selection": "int8", "training__dense": "fp32", "training__border": 0.2}
    found, figures = precision.decide(recipe(**given), WIDTHS)
    assert decided(found) == ("int8", "fp32", 0.2)
    assert not figures
    assert not asked
    assert decided(precision.decide(recipe(training__dense="fp32"), WIDTHS)[0])[1] == "fp32"


def test_the_costliest_member_is_timed_once_a_machine(monkeypatch):
    asked = as_timed(monkeypatch)
    several = {"wide": {"sae": {"features": 300}}, "narrow": {"sae": {"features": 30, "nonlinearity": "tanh_relu"}}}
    noisy = {"training__batch_tokens": 96, "sae__noise": 0.5}
    for _ in range(2):
        precision.decide(recipe(variants=several, training__batch_tokens=96), {"a": 8, "b": 24})
        precision.decide(recipe(**noisy), WIDTHS)
    assert asked == [Shape(24, 300, 96, ("fp32", "bf16"), False), Shape(16, 8192, 96, ("fp32",), True)]


def test_a_damaged_note_of_the_cache_is_measured_anew(tmp_path):
    assert cache.remembered({"a": 1}, lambda: {"b": 2.5}) == {"b": 2.5}
    assert cache.remembered({"a": 1}, lambda: pytest.fail("measured again")) == {"b": 2.5}
    [note] = (tmp_path / "cache" / "measured").glob("*.json")
    for damaged in ("{", "[]", json.dumps({"what": {"a": 2}, "found": {}})):
        note.write_text(damaged)
        assert cache.remembered({"a": 1}, lambda: {"b": 3}) == {"b": 3}


@pytest.mark.parametrize(
    ("shape", "dense", "selecting"),
    [
        (Shape(24, 200, 64), {"fp32", "bf16"}, {"fp32", "bf16", "int8"}),
        (Shape(24, 200, 64, ("fp32",)), {"fp32"}, {"fp32", "bf16", "int8"}),
        (Shape(24, 200, 64, ("fp32",), noise=True), {"fp32"}, {"fp32"}),
    ],
)
def test_only_what_a_step_can_do_is_timed(shape, dense, selecting, monkeypatch):
    monkeypatch.setattr(trial, "HOPELESS", 1e9)
    found = trial.measure(shape)
    assert found.dense.keys() == dense
    assert found.sparse.keys() == selecting
    assert all(t > 0 for t in (*found.dense.values(), *found.sparse.values(), found.sparse_busy))
    assert trial.LEAST <= found.border <= trial.MOST


def test_a_format_without_instructions_for_it_is_given_up_at_once(monkeypatch):
    real = torch._int_mm

    def slow(*words, **more):
        time.sleep(0.05)
        return real(*words, **more)

    monkeypatch.setattr(torch, "_int_mm", slow)
    assert "int8" not in trial.measure(Shape(24, 200, 64)).sparse
    monkeypatch.delattr(torch, "_int_mm")
    assert "int8" not in trial.measure(Shape(24, 200, 64)).sparse


def test_the_border_is_where_both_kinds_take_the_same_time():
    share = TIMES.border
    sparse = 1e-3 + (share - trial.SETTLED) * 7e-3 / (trial.BUSY - trial.SETTLED)
    assert sparse == pytest.approx(4e-3)
    assert TIMES._replace(sparse_busy=0.5e-3).border == trial.MOST  # no slower when busy
    assert TIMES._replace(dense={"fp32": 1e-4}).border == trial.LEAST


def test_time_beyond_what_was_timed_follows_a_line(monkeypatch):
    """A step that takes 3 ms and 0.01 ms a token, timed over fewer tokens."""
    clock = iter(range(10**6))
    taken = [0.0]

    def step(rows):
        taken[0] += 3e-3 + 1e-5 * rows

    monkeypatch.setattr(trial.time, "perf_counter", lambda: next(clock) * 0 + taken[0])
    assert trial._times({"one": step}, 256, 4096)["one"] == pytest.approx(3e-3 + 4096e-5)
    assert trial._times({"one": step}, 256, 256)["one"] == pytest.approx(3e-3 + 256e-5)


def test_a_run_keeps_what_it_began_with_whatever_the_machine():
    began = recipe(model__matmul="bf16", training__selection="int8", training__dense="bf16", training__border=0.05)
    kept = precision.keep(recipe(), config.dump(began))
    assert kept.model.matmul == "bf16"
    assert decided(kept) == ("int8", "bf16", 0.05)
    before_there_were_any = {"model": {}, "training": {}}
    assert decided(precision.keep(recipe(), before_there_were_any)) == ("fp32", "fp32", 0.12)
    stored = recipe(activations__store="somewhere")
    assert precision.keep(stored, config.dump(began)).model.matmul == "auto"  # it decided when it was made


def test_the_faster_passes_of_the_model_are_taken(monkeypatch):
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    ids_NT = torch.randint(0, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0))
    hooks = [f"resid_post.{LAYERS - 1}"]
    before = lm.activations(ids_NT, hooks)[hooks[0]]
    for fast in ("fp32", "bf16"):
        rates = {"fp32": 100.0, "bf16": 100.0} | {fast: 200.0}
        with monkeypatch.context() as patch:
            patch.setenv("UNMIX_CACHE", f"{cache.cache_folder()}-{fast}")
            patch.setattr(precision, "rates", lambda *_: rates)  # noqa: B023
            assert precision.matmul(recipe(activations__hooks=hooks), lm, ids_NT) == (fast, rates)
    found = precision.matmul(recipe(activations__hooks=hooks), lm, ids_NT)[1]  # really timed
    assert found.keys() == {"fp32", "bf16"}
    assert all(rate > 0 for rate in found.values())
    assert torch.equal(lm.activations(ids_NT, hooks)[hooks[0]], before), "the model is not as it was"
    assert precision.matmul(recipe(model__matmul="bf16"), lm, ids_NT) == ("bf16", {})
    assert precision.matmul(recipe(model__dtype="bfloat16"), lm, ids_NT) == ("fp32", {})


def test_a_model_in_bf16_has_no_products_to_narrow():
    with pytest.raises(UserError, match="matmul = bf16 is for a model in float32"):
        recipe(model__dtype="bfloat16", model__matmul="bf16")


class OnGpu(NamedTuple):
    """As `gpu_trial.Times`, in milliseconds."""

    fp32: float
    tf32: float
    busy: float | None
    dense: float | None
    selection: str = "tf32"
    border: float = 0.0234


@pytest.fixture
def gpu(monkeypatch):
    """A GPU and its trial, by name only; the calls of the trial."""
    calls = []

    def measure(**words):
        calls.append(words)
        return OnGpu(2.0, 1.0, *((None, None) if words["of"] == "topk" else (4.0, 3.0)))

    trial = SimpleNamespace(measure=measure, Times=OnGpu, SETTLED=0.005, BUSY=0.04)
    monkeypatch.setitem(sys.modules, "unmix.kernels.gpu_trial", trial)
    monkeypatch.setattr(kernels, "gpu_trial", trial, raising=False)
    monkeypatch.setattr(precision, "resolve", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(precision, "find_spec", lambda name: object())
    monkeypatch.setattr(precision, "version", lambda name: "3.9")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")
    return calls


def test_on_a_gpu_the_border_is_where_its_steps_meet_and_the_figures_are_kept(gpu):
    for _ in range(2):
        found, figures = precision.decide(recipe(sae__features=300, sae__architecture="relu"), {"a": 8, "b": 24})
        assert (found.training.border, found.training.selection) == (0.0234, "tf32")
    batch = recipe().training.batch_tokens
    shape = {"width": 24, "features": 300, "tokens": batch, "of": "relu"}
    assert gpu == [shape | {"device": torch.device("cuda:0")}]
    assert json.loads(json.dumps(figures))["milliseconds"]["busy"] == 4.0
    said = precision.said(found, figures)
    for figure in (
        "NVIDIA Test",
        "at 0.5% active 2 selecting in fp32, 1 in tf32; at 4.0%, 4; dense 3.",
        "is in tf32",
        "below 2.3%",
    ):
        assert figure in said
    assert precision.keep(recipe(), config.dump(found)).training.border == 0.0234


@pytest.mark.parametrize(
    "given",
    [
        {"training__border": 0.3, "training__selection": "fp32"},
        {"sae__architecture": "gated", "training__dense": "fp32"},
    ],
)
def test_nothing_is_timed_on_a_gpu_where_nothing_is_to_be_decided(gpu, given):
    given = {"sae__architecture": "relu"} | given
    assert precision.decide(recipe(**given), WIDTHS)[1] == {}
    assert not gpu


def test_on_a_gpu_what_the_members_have_is_timed(gpu):
    found, figures = precision.decide(recipe(sae__architecture="jumprelu"), WIDTHS)
    assert (found.training.border, figures["of"]) == (0.0234, "jumprelu")
    both = {"a": {"sae": {"architecture": "jumprelu"}}, "b": {"sae": {"architecture": "relu"}}}
    assert precision.decide(recipe(variants=both), WIDTHS)[1]["of"] == "relu"
    found, figures = precision.decide(
        recipe(sae__architecture="batchtopk", training__l0=[8.0], training__l1=[]), WIDTHS
    )
    assert (found.training.border, found.training.selection, figures["of"]) == ("auto", "tf32", "topk")
    assert precision.said(found, figures).endswith("2 selecting in fp32, 1 in tf32. So selection is in tf32")
    assert [words["of"] for words in gpu] == ["jumprelu", "relu", "topk"]


@pytest.fixture
def portable(monkeypatch):
    """`portable_trial.measure` that finds bf16 twice as fast, and what it was asked for."""
    asked = []

    def measure(**words):
        asked.append(words)
        return {"rows": 64.0, "fp32": 4e-3, "bf16": 2e-3}

    monkeypatch.setattr(precision.portable_trial, "measure", measure)
    return asked


@pytest.mark.parametrize("kernels", ["portable", "none for the GPU"])
def test_of_the_portable_step_the_products_are_timed(gpu, portable, kernels, monkeypatch):
    given = {"training__kernels": "portable"} if kernels == "portable" else {}
    if not given:
        monkeypatch.setattr(precision, "find_spec", lambda name: None)
    found, figures = precision.decide(recipe(sae__architecture="relu", sae__features=300, **given), WIDTHS)
    assert decided(found) == ("auto", "bf16", "auto")
    assert not gpu
    batch = recipe().training.batch_tokens
    assert portable == [{"width": 16, "features": 300, "tokens": batch, "device": torch.device("cuda:0")}]
    assert json.loads(json.dumps(figures))["portable"] == {"fp32": 4e-3, "bf16": 2e-3}
    said = "measured here, ms per 64 tokens of a portable step: fp32 4, bf16 2. So its products are in bf16"
    assert precision.said(found, figures) == said
    assert precision.keep(recipe(), config.dump(found)).training.dense == "bf16"


def test_of_gated_on_a_gpu_the_portable_step_is_timed_beside_the_kernels_of_others(gpu, portable):
    alone, figures = precision.decide(recipe(sae__architecture="gated"), WIDTHS)
    assert (decided(alone), figures["auto"]) == (("auto", "bf16", "auto"), ["selection", "dense", "border"])
    assert not gpu
    both = {"a": {"sae": {"architecture": "gated"}}, "b": {"sae": {"architecture": "relu"}}}
    found, figures = precision.decide(recipe(variants=both), WIDTHS)
    assert decided(found) == ("tf32", "bf16", 0.0234)
    said = precision.said(found, figures)
    assert "steps sparse below 2.3% active; measured here, ms per 64 tokens of a portable step: fp32 4, bf16 2" in said
    again = precision.reopened(found, figures)
    assert decided(again) == ("auto", "auto", "auto")


def test_where_bf16_is_wrong_or_missing_the_portable_step_is_in_float32(monkeypatch):
    monkeypatch.setattr(precision.portable_trial, "measure", lambda **words: {"rows": 64.0, "fp32": 4e-3})
    found, figures = precision.decide(recipe(training__kernels="portable"), WIDTHS)
    assert (found.training.dense, figures["portable"]) == ("fp32", {"fp32": 4e-3})


def test_what_the_recipe_gives_the_portable_step_is_not_timed(portable):
    given = recipe(training__kernels="portable", training__dense="bf16")
    assert precision.decide(given, WIDTHS) == (given, {})
    assert not portable


def test_a_cache_that_cannot_be_written_ends_no_run_and_is_said_once(tmp_path, monkeypatch):
    """As where the home is read-only, of a run on rows or on a store, which needs no cache."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "file"))
    asked, said = as_timed(monkeypatch), []
    for _ in range(2):
        found, figures = precision.decide(recipe(), WIDTHS, said.append)
        assert decided(found)[:2] == ("bf16", "bf16")
        assert figures["dense"] == TIMES.dense
    assert len(asked) == 2, "it cannot have been remembered"
    [line] = said
    assert line.startswith(
        "warning: what was measured is not kept, and is measured again by the next run: cannot write "
    )
    assert "set UNMIX_CACHE to a folder with room" in line
    assert cache.remembered({"a": 1}, lambda: {"b": 2}) == {"b": 2}


def test_without_a_home_nothing_is_remembered_and_what_needs_the_cache_says_so(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UNMIX_CACHE")
    monkeypatch.setattr(cache.Path, "home", homeless)
    assert cache.remembered({"a": 1}, lambda: {"b": 2}) == {"b": 2}
    with pytest.raises(UserError, match=r"the cache has no place .*; set UNMIX_CACHE to a folder"):
        cache.cache_folder()


def test_the_model_s_products_are_decided_without_a_cache_too(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "file"))
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    monkeypatch.setattr(precision, "rates", lambda *_: {"fp32": 1.0, "bf16": 2.0})
    ids_NT, said = torch.zeros(2, 8, dtype=torch.int64), []
    assert precision.matmul(recipe(), lm, ids_NT, said.append) == ("bf16", {"fp32": 1.0, "bf16": 2.0})
    assert len(said) == 1
