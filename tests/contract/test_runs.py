"""All architectures in one sweep by the command line: alone, stopped and resumed, they have the same bits."""

import json
import shutil

import pytest
import safetensors
import torch
import yaml
from contract.cases import ARCHITECTURES, noise_of
from run_pairs import metrics, same, state, stopping

from unmix import config
from unmix.cli import main
from unmix.config.dictionary import TOPK
from unmix.interop.load import load_sae
from unmix.runlog import read_manifest

STEPS, L0 = 60, "5"


@pytest.fixture
def recipe(overrides, tmp_path):
    """On disk, without a sparsity: the command line gives it. Features are revived early."""
    overrides = overrides | {"training.revive_after_tokens": 200, "training.decay_fraction": 0.25}
    tree = {"name": overrides.pop("name")}
    for dotted, value in overrides.items():
        section, _, key = dotted.partition(".")
        tree.setdefault(section, {})[key] = value
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def sweep(recipe, tmp_path, monkeypatch):
    """A command line: the run folder of that name."""
    monkeypatch.chdir(tmp_path)

    def run(name, architectures, *more):
        words = ["sweep", recipe, "--train-only", "--name", name, "--architecture", *architectures, "--l0", L0, *more]
        assert main([str(word) for word in words]) == 0
        return tmp_path / "runs" / name

    return run


def batched(words):
    return zip(words[::2], words[1::2], strict=True)


def counts(folder, member, step):
    """What is not a tensor of a training state: the controller and the threshold among it."""
    path = folder / "members" / member / f"step-{step:09d}" / "training_state.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["state"])


def dictionary_bytes(folder, member):
    return (folder / "members" / member / f"step-{STEPS:09d}" / "sae_weights.safetensors").read_bytes()


def assert_same_member(mine, theirs, member, of_theirs=None):
    of_theirs = of_theirs or member
    assert same(state(mine, member, STEPS), state(theirs, of_theirs, STEPS)), member
    assert counts(mine, member, STEPS) == counts(theirs, of_theirs, STEPS), member
    assert dictionary_bytes(mine, member) == dictionary_bytes(theirs, of_theirs), member


PLAIN: tuple[list[str], list[str]] = (list(ARCHITECTURES), [])
NOISY = ([name for name in ARCHITECTURES if noise_of(name, 1.0)], ["--sae.noise", "0.5", "--sae.auxk", "0.1"])
PARTS = ["--sae.aligned", "true", "--sae.random_prefixes", "3", "--training.resample_every", "10"]
WITH_K: tuple[list[str], list[str]] = (["topk", "abstopk", "batchtopk"], [*PARTS, "--sae.multi_k", "0.125"])
WITHOUT_K: tuple[list[str], list[str]] = (
    [name for name in ARCHITECTURES if name not in TOPK],
    [*PARTS, "--sae.preactivation", "0.1"],
)
PORTABLE: tuple[list[str], list[str]] = (
    list(ARCHITECTURES),
    ["--training.kernels", "portable", "--training.dense", "fp32"],
)
IN_BF16: tuple[list[str], list[str]] = (PORTABLE[0], [*PORTABLE[1][:-1], "bf16"])
LATE: tuple[tuple[list[str], list[str]], ...] = (
    (["relu", "jumprelu"], [*PORTABLE[1], *NOISY[1]]),
    (WITH_K[0], [*PORTABLE[1], *WITH_K[1], "--sae.auxk", "0.1"]),
    (["tanh_relu", "jumprelu_quadratic", "gated"], [*PORTABLE[1], *WITHOUT_K[1], "--sae.auxk", "0.1"]),
)
"""By the portable kernels, some of each of these."""
KINDS = pytest.mark.parametrize(
    ("names", "more"),
    [PLAIN, NOISY, WITH_K, WITHOUT_K, PORTABLE],
    ids=["plain", "noise, auxk", "parts, k", "parts", "portable"],
)


@KINDS
def test_a_member_alone_has_the_bits_it_has_in_the_sweep(sweep, names, more):
    whole = sweep("whole", names, *more)
    assert list(read_manifest(whole / "run.yaml")["members"]) == [f"{name}-l0-5" for name in names]
    seen = set()
    for name in names:
        assert_same_member(whole, sweep(f"alone-{name}", [name], *more), f"{name}-l0-5", "l0-5")
        seen.add(dictionary_bytes(whole, f"{name}-l0-5"))
        found = counts(whole, f"{name}-l0-5", STEPS)
        assert found["controller"] is None or found["controller"]["batches"] == STEPS
    assert len(seen) == len(names)


@pytest.mark.parametrize(
    ("names", "more", "at"),
    [
        pytest.param(*PLAIN, 23, id="plain"),
        pytest.param(*NOISY, 50, id="noise, auxk"),
        pytest.param(*WITH_K, 50, id="parts, k"),
        pytest.param(*WITHOUT_K, 23, id="parts"),
        pytest.param(*PORTABLE, 50, id="portable"),
        pytest.param(*IN_BF16, 50, id="portable in bf16"),
        pytest.param(*LATE[0], 50, id="portable: noise, auxk"),
        pytest.param(*LATE[1], 23, id="portable: parts, k"),
        pytest.param(*LATE[2], 50, id="portable: parts"),
    ],
)
def test_stopped_and_resumed_has_the_bits_of_never_stopped(sweep, recipe, tmp_path, at, names, more):
    """Before and in the decay; controllers and thresholds go on from where they were."""
    whole = sweep("whole", names, *more)
    keys = {key.removeprefix("--"): yaml.safe_load(value) for key, value in batched(more)}
    keys |= {"sae.architecture": names[0]} | {f"variants.{name}.sae.architecture": name for name in names}
    cut = tmp_path / "runs" / "cut"
    stopping(config.load(recipe, keys | {"training.l0": [5.0], "training.l1": [], "name": "cut"}), cut, at)
    assert sweep("cut", names, *more) == cut
    for name in names:
        assert_same_member(whole, cut, f"{name}-l0-5")
    assert metrics(whole) == metrics(cut)


def test_two_sweeps_with_noise_save_dictionaries_that_have_none(sweep):
    """f of a saved dictionary is the same every time; what is logged of the noisy pass is called so."""
    names = NOISY[0]
    whole = sweep("noisy", names, "--sae.noise", "3")
    for name in names:
        sae = load_sae(whole / "members" / f"{name}-l0-5" / f"step-{STEPS:09d}")
        x = torch.randn(20, sae.width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(sae.encode(x), sae.encode(x))
        rows = [row for row in metrics(whole) if row["member"] == f"{name}-l0-5"]
        assert all("noisy_l0" in row for row in rows)


def test_a_sweep_of_architectures_is_given_in_another_order_and_more_of_them(sweep):
    """Which of them comes first says nothing that a weight depends on."""
    first = sweep("more", ["topk", "batchtopk"], "--sae.multi_k", "0.125")
    before = state(first, "topk-l0-5", STEPS)
    sweep("more", ["abstopk", "batchtopk", "topk"], "--sae.multi_k", "0.125")
    assert same(before, state(first, "topk-l0-5", STEPS))
    assert list(read_manifest(first / "run.yaml")["members"]) == ["topk-l0-5", "batchtopk-l0-5", "abstopk-l0-5"]


def test_the_portable_kernels_come_to_the_losses_of_the_fast_ones(sweep):
    """A step of them agrees to rounding (test_step.py), which Adam and the edge of being active make more of."""
    kinds = {"fast": [], "portable": PORTABLE[1], "in_bf16": IN_BF16[1]}
    runs = [sweep(name, PORTABLE[0], "--steps", "200", *words) for name, words in kinds.items()]
    fast, *others = [{row["member"]: row for row in metrics(run)} for run in runs]
    for ends in others:
        for member, row in fast.items():
            assert row["step"] == 200
            sampled = "training_loss" in row  # a dozen tokens as the saved dictionary takes them
            key = "training_loss" if sampled else "loss"
            assert ends[member][key] == pytest.approx(row[key], rel=0.03), member
            explained, much = row["explained_variance"], 0.03 if sampled else 0.01
            assert ends[member]["explained_variance"] == pytest.approx(explained, abs=much), member


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own
@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="no C++ compiler")
def test_a_compiled_sweep_comes_to_the_losses_of_one_that_is_not(sweep):
    """Its coefficient is another at each step, and it compiles once."""
    names = ["relu", "topk"]
    ends, stats = [], torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()
    stats.clear()
    for kind, words in {"plain": [], "compiled": ["--training.compile", "true"]}.items():
        run = sweep(kind, names, "--steps", "30", *PORTABLE[1], *words)
        ends.append({row["member"]: row for row in metrics(run)})
    assert ends[0].keys() == ends[1].keys()
    for member, row in ends[0].items():
        assert ends[1][member]["loss"] == pytest.approx(row["loss"], rel=0.01), member
    assert 2 <= stats["unique_graphs"] <= 3  # of two architectures, and of what tries it out
