"""unmix from Python: sweeps on models and on rows, and a run folder as an object."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_model_folder

import unmix
from unmix.activations.arrays import split
from unmix.cli import main
from unmix.errors import UserError
from unmix.front import Run, columns

FEW: dict[str, Any] = {
    "features": 32,
    "steps": 30,
    "quiet": True,
    "training": {"batch_tokens": 64, "selection": "fp32", "dense": "fp32", "border": 0.2, "checkpoint_every": 10},
    "activations.chunk_sequences": 2,
}


@pytest.fixture(scope="module")
def x_RD() -> np.ndarray:
    random = np.random.default_rng(0)
    codes = random.exponential(size=(3000, 40)) * (random.random((3000, 40)) < 0.1)
    return (codes @ random.normal(size=(40, 16)) + 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def run(x_RD: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    return unmix.sweep(activations=x_RD, l0=[4, 8], name="rows", runs=folder, **FEW)


def weights(run: Any, member: str) -> dict[str, torch.Tensor]:
    return load_file(run.members[member] / "sae_weights.safetensors")


def same(a: Any, b: Any, member: str) -> bool:
    one, other = weights(a, member), weights(b, member)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_says_what_it_is(run: Run):
    assert list(run.members) == ["l0-4", "l0-8"]
    assert run.choice == "l0-8"
    assert run.choices == {"activations": "l0-8"}
    assert run.recipe.sae.features == 32
    assert "2 dictionaries (l0-4, l0-8); chosen: l0-8" in repr(run)
    assert repr(unmix.open_run(run.folder)) == repr(run)


def test_metrics_are_columns(run: Run):
    found = run.metrics()
    assert len({len(column) for column in found.values()}) == 1
    assert found["step"][-1] == 30
    assert set(found["member"]) == {"l0-4", "l0-8"}


def test_a_column_is_of_one_type(run: Run):
    """As data frames want it; pandas and polars themselves: tests/interop/test_peers_frames."""
    for found in (run.metrics(), run.evaluation()):
        assert all(len({type(value) for value in column} - {type(None)}) <= 1 for column in found.values())
    rows = [{"l1": 1, "dead": None, "member": "a"}, {"l1": 0.5, "dead": 0.25}, {"step": 3, "halted": True}]
    mixed = columns(rows)
    assert mixed["l1"] == [1.0, 0.5, None]
    assert [type(value) for value in mixed["l1"]] == [float, float, type(None)]
    assert (mixed["step"], mixed["dead"], mixed["halted"]) == ([None, None, 3], [None, 0.25, None], [None, None, True])


def test_what_was_held_out_is_what_the_saved_dictionary_gives(run: Run, x_RD: np.ndarray):
    """Explained variance and L0 by hand, over rows that no batch held."""
    _, held_R = split(len(x_RD), 0.1, 0)
    x_HD = torch.from_numpy(x_RD[held_R]).double()
    found = run.evaluation()
    for name, variance, l0, tokens in zip(
        found["member"], found["explained_variance"], found["l0"], found["tokens"], strict=True
    ):
        sae = run.sae(name)
        error = (sae(x_HD.float()).double() - x_HD).square().sum()
        assert variance == pytest.approx(1 - (error / (x_HD - x_HD.mean(0)).square().sum()).item(), abs=1e-6)
        assert l0 == pytest.approx((sae.encode(x_HD.float()) > 0).sum(1).double().mean().item())
        assert tokens == len(held_R)
    assert "delta_ce" not in found


def test_the_page_of_a_run_on_rows(run: Run):
    page = run.report().read_text()
    assert "There was no language model, so there is no cross-entropy" in page
    assert "ΔCE" not in page.partition("<h2>Held out")[2].partition("</section>")[0]
    assert not (run.folder / "norms.json").exists()


def test_the_folder_claims_no_model(run: Run):
    made = json.loads((run.members["l0-4"] / "cfg.json").read_text())["metadata"]
    assert made["model_name"] is None
    assert made["context_size"] is None
    assert "unmix_recipe" not in made


def test_a_run_on_rows_is_not_evaluated_on_the_default_model(run: Run, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(run.folder), "--model", "embedded"]) == 2
    assert "came without model and text" in capsys.readouterr().err


def test_the_kind_of_array_changes_no_bit(run: Run, x_RD: np.ndarray, tmp_path: Path):
    np.save(tmp_path / "x.npy", x_RD)
    kinds = {"tensor": torch.from_numpy(x_RD), "file": tmp_path / "x.npy", "mapping": {"activations": x_RD}}
    for name, kind in kinds.items():
        other = unmix.sweep(activations=kind, l0=[4, 8], name=name, runs=tmp_path, evaluate=False, **FEW)
        assert same(run, other, "l0-8"), name


def test_a_file_by_the_command_line(run: Run, x_RD: np.ndarray, tmp_path: Path):
    np.save(tmp_path / "x.npy", x_RD)
    words = (
        f"sweep --name cli --runs {tmp_path} --activations.rows {tmp_path}/x.npy --l0 4 8 --features 32 --steps 30 "
        "--training.batch_tokens 64 --training.selection fp32 --training.dense fp32 --training.border 0.2 "
        "--training.checkpoint_every 10 --activations.chunk_sequences 2"
    )
    assert main(words.split()) == 0
    other = unmix.open_run(tmp_path / "cli")
    assert same(run, other, "l0-4")
    assert other.evaluation()["explained_variance"] == run.evaluation()["explained_variance"]
    assert main(["evaluate", str(other.folder)]) == 0  # from the file again
    assert other.evaluation()["explained_variance"] == run.evaluation()["explained_variance"]


@pytest.mark.parametrize("kind", ["array", "list"])
def test_a_run_that_was_stopped_is_resumed_to_the_same_bits(
    kind: str, x_RD: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from unmix.cli.progress import Progress

    given: Any = x_RD if kind == "array" else list(torch.from_numpy(x_RD).split(100))
    whole = unmix.sweep(activations=given, l0=4, name="whole", runs=tmp_path, evaluate=False, **FEW)
    calls = 0

    def stop(self: Progress) -> bool:
        nonlocal calls
        calls += 1
        return calls == 13

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "stop", stop)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 13"):
            unmix.sweep(activations=given, l0=4, name="stopped", runs=tmp_path, evaluate=False, **FEW)
    with pytest.raises(UserError, match="are not those that"):
        unmix.sweep(activations=x_RD[:2500], l0=4, name="stopped", runs=tmp_path, evaluate=False, **FEW)
    resumed = unmix.sweep(activations=given, l0=4, name="stopped", runs=tmp_path, evaluate=False, **FEW)
    assert same(whole, resumed, "l0-4")


def test_rows_that_were_handed_over_are_asked_for_again(run: Run):
    (run.folder / "members/l0-4").rename(run.folder / "members/aside")  # so that something is left to train
    try:
        with pytest.raises(UserError, match=r"handed over in Python; call unmix.sweep\(activations=…\)"):
            unmix.sweep(l0=[4, 8], name="rows", runs=run.folder.parent, **FEW, **{"activations.rows": "given"})
    finally:
        (run.folder / "members/aside").rename(run.folder / "members/l0-4")


def test_other_rows_under_the_name_of_a_finished_run_are_not_taken_for_its_own(
    run: Run, x_RD: np.ndarray, tmp_path: Path
):
    """Nothing is left to train, so nothing else would look at them: the old dictionaries came back for new rows."""
    again: dict[str, Any] = {"l0": [4, 8], "name": "rows", "runs": run.folder.parent, **FEW}
    others = x_RD[::-1].copy()
    for given in (others, list(torch.from_numpy(others).split(100)), x_RD[:, :8]):
        with pytest.raises(UserError, match=r"the activations are not those that .*rows was made .* another name, or"):
            unmix.sweep(activations=given, **again)
    before = run.metrics()
    assert unmix.sweep(activations=x_RD, **again).metrics() == before


def test_a_file_of_other_rows_is_not_taken_for_that_of_a_finished_run(x_RD: np.ndarray, tmp_path: Path):
    common: dict[str, Any] = {"activations": tmp_path / "x.npy", "l0": 4, "name": "file", "runs": tmp_path, **FEW}
    np.save(tmp_path / "x.npy", x_RD)
    before = unmix.sweep(**common).metrics()
    np.save(tmp_path / "x.npy", x_RD[::-1])
    with pytest.raises(UserError, match=r"the activations are not those that .*file was made .* another --name, or"):
        unmix.sweep(**common)
    (tmp_path / "x.npy").unlink()  # its work is done
    assert unmix.sweep(**common).metrics() == before


def test_a_run_is_read_from_another_working_directory(
    x_RD: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = unmix.sweep(activations=x_RD, l0=4, name="near", **FEW)
    assert repr(run).startswith("Run(runs/near: 1 dictionaries (l0-4)")
    before = run.metrics(), run.evaluation()
    monkeypatch.chdir("elsewhere")
    assert (run.metrics(), run.evaluation()) == before
    assert run.evaluation()["member"] == ["l0-4"]


def test_the_home_of_the_user_is_no_folder_called_tilde(
    x_RD: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = unmix.sweep(activations=x_RD, l0=4, name="near", runs="~/runs", evaluate=False, **FEW)
    assert run.folder == tmp_path / "home/runs/near"
    assert repr(unmix.open_run("~/runs/near")) == repr(run)
    np.save("x.npy", x_RD)
    words = "--activations.rows x.npy --l0 4 --features 8 --training.batch_tokens 64 --no-evaluate --steps 2 --name cli"
    assert main(["sweep", "--runs=~/runs", *words.split()]) == 0
    assert (tmp_path / "home/runs/cli/run.yaml").exists()
    assert not (tmp_path / "~").exists()
    assert main(["verify", "~nobody-of-this-name"]) == 2
    assert "~nobody-of-this-name is neither a run" in capsys.readouterr().err


def test_keys_of_the_section_activations_are_no_rows(overrides: dict[str, Any], tmp_path: Path):
    """As of any other section: `training={"lr": 1e-3}`."""
    keys = overrides | {"training.l1": [1.0], "training.steps": 10}
    section = {key.partition(".")[2]: keys.pop(key) for key in [*keys] if key.startswith("activations.")}
    common: dict[str, Any] = {"runs": tmp_path, "quiet": True, "evaluate": False}
    run = unmix.sweep(activations=section, **common, **keys)
    assert run.recipe.activations.sequence_length == section["sequence_length"] == 16
    dotted = {f"activations.{key}": value for key, value in section.items()}
    assert same(run, unmix.sweep(**common, **keys | dotted | {"name": "dotted"}), "l1-1")
    further = keys | {"name": "dotted", "activations.sequence_length": 16}  # as advice is typed behind a call
    assert same(run, unmix.sweep(activations=section | {"sequence_length": 32}, **common, **further), "l1-1")


def test_a_generator(x_RD: np.ndarray, tmp_path: Path):
    def batches() -> Iterator[torch.Tensor]:
        yield from torch.from_numpy(x_RD).split(100)

    run = unmix.sweep(activations=batches(), l0=4, name="made", runs=tmp_path, **FEW)
    assert run.evaluation()["tokens"] == [512]


def test_a_generator_is_not_trained_on_from_rows_that_have_gone_by(x_RD: np.ndarray, tmp_path: Path):
    """That is said before the sweep and not after it; a second call has the rows again."""

    def batches() -> Iterator[torch.Tensor]:
        yield from torch.from_numpy(x_RD).split(100)

    common: dict[str, Any] = {"l0": 4, "name": "made", "runs": tmp_path, "evaluate": False, **FEW}
    further = {"choice": {"extend_to": FEW["steps"] + 2}}
    with pytest.raises(UserError, match=r"extend_to = .* a generator gives its rows once; leave it out and give it to"):
        unmix.sweep(activations=batches(), **common, **further)
    assert not (tmp_path / "made" / "run.yaml").exists()
    unmix.sweep(activations=batches(), **common)
    run = unmix.sweep(activations=batches(), **common, **further)
    assert "l0-4-extended" in run.members


def test_token_ids_in_a_list_are_token_ids(x_RD: np.ndarray, tmp_path: Path):
    ids = [n % 7 for n in range(len(x_RD))]
    common: dict[str, Any] = {"l0": 4, "runs": tmp_path, "evaluate": False, **FEW, "activations.special_ids": [3]}
    listed = unmix.sweep(activations=(x_RD, ids), name="listed", **common)
    arrays = unmix.sweep(activations=(x_RD, np.array(ids)), name="arrays", **common)
    assert listed.metrics()["explained_variance"] == arrays.metrics()["explained_variance"]


@pytest.mark.parametrize("what", ["activations", "targets"])
def test_a_row_that_is_not_finite_is_named(what: str, x_RD: np.ndarray, tmp_path: Path):
    row = int(split(len(x_RD), 0.1, 0)[0][1200])
    given = {"activations": x_RD.copy(), "targets": x_RD.copy()}
    given[what][row, 5] = np.nan
    common = {**FEW, "activations.chunk_sequences": 100}  # all rows are in the first chunk
    with pytest.raises(UserError, match=rf"row {row:,} of the {what} of activations is not finite, and 1 of the "):
        unmix.sweep(**given, l0=4, name="bad", runs=tmp_path, **common)


def test_a_model_and_a_corpus(overrides: dict[str, Any], tmp_path: Path):
    run = unmix.sweep(runs=tmp_path, quiet=True, **overrides | {"training.l1": [1.0], "training.steps": 10})
    assert list(run.members) == ["l1-1"]
    assert run.evaluation()["delta_ce"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lo": 5}, "unknown keyword lo; known here: architecture, model"),
        ({"training": {"steeps": 5}}, "unknown key training.steeps; did you mean steps"),
        ({"steps": 5, "training": {"steps": 6}}, r"steps = 5 and training\.steps = 6 are both given; leave out one"),
        ({"activations": 3.0}, "float is no tensor"),
        (
            {"activations": {"sequence_length": 64, "chunks": 2}},
            r"unknown key activations\.chunks; did you mean chunk_s",
        ),
        ({"activations": {"a": [[1.0]]}}, "a: list is no tensor and no numpy array"),
        ({"activations": np.zeros((9, 2), np.float32), "hook": ["a", "b"]}, "is of one hook, and 2 are named"),
        ({"activations": {"a": np.zeros((9, 2), np.float32)}, "hook": "b"}, "leave hook out"),
        ({"recipe": "no such recipe"}, "no recipe at no such recipe"),
    ],
)
def test_what_does_not_fit_is_one_line(keys: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        unmix.sweep(runs=tmp_path, quiet=True, **keys)


def test_no_run_is_one_line(tmp_path: Path, run: Run):
    with pytest.raises(UserError, match="is no run"):
        unmix.open_run(tmp_path)
    with pytest.raises(UserError, match="has no member 'l0-5'; it has l0-4, l0-8"):
        run.sae("l0-5")


def test_a_run_a_member_and_a_checkpoint_load_alike(run: Run):
    chosen = unmix.load_sae(run.folder)
    step = run.members["l0-8"]
    for path in (step, step.parent):
        other = unmix.load_sae(path)
        assert all(torch.equal(weight, chosen.weights[name]) for name, weight in other.weights.items())
    assert not any(weight.requires_grad for weight in chosen.parameters())
    assert unmix.load_sae(run.folder, dtype=torch.float64).W_dec.dtype == torch.float64
    assert chosen.cfg.hook == "activations"
    assert (chosen.cfg.step, chosen.cfg.training_tokens, chosen.cfg.asked) == (30, 30 * 64, {"l0": 8.0})
    row = run.evaluation()["member"].index("l0-8")
    assert chosen.cfg.metrics_of == "held_out (evaluation.json)"
    assert chosen.cfg.metrics["explained_variance"] == run.evaluation()["explained_variance"][row]
    assert (chosen.d_in, chosen.d_sae) == (16, 32)
    assert "32 features of 16, jumprelu, activations of a model not named" in repr(chosen)


def test_a_code_is_the_active_entries(run: Run, x_RD: np.ndarray):
    sae, x_BD = run.sae(), torch.from_numpy(x_RD[:50])
    code, f_BF = sae.code(x_BD), sae.encode(x_BD)
    again = torch.zeros_like(f_BF)
    for token in range(50):
        at = slice(code.starts_B1[token], code.starts_B1[token + 1])
        again[token, code.features_N[at]] = code.values_N[at]
    assert torch.equal(again, f_BF)
    assert len(code.values_N) == f_BF.count_nonzero()
    with pytest.raises(ValueError, match="not \\(B, D\\)"):
        sae.code(x_BD[0])


def test_features_are_changed_in_several_ways_at_once(run: Run, x_RD: np.ndarray):
    sae, x_BD = run.sae(), torch.from_numpy(x_RD[:50])
    f_BF = sae.encode(x_BD)
    a, b, c, d = f_BF.sum(0).topk(4).indices.tolist()
    wanted = f_BF.clone()
    wanted[:, a], wanted[:, b] = 0.0, 3.0
    wanted[:, c] += 0.5
    wanted[:, d] *= 2
    changed = unmix.steered(sae, ablate=[a], clamp={b: 3.0}, add={c: 0.5}, multiply={d: 2.0})(x_BD)
    torch.testing.assert_close(changed, x_BD - sae.decode(f_BF) + sae.decode(wanted), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=f"feature {a} is changed in two ways"):
        unmix.steered(sae, ablate=[a], add={a: 1.0})
    with pytest.raises(UserError, match="feature 99 is not there; the dictionary has 0 to 31"):
        unmix.steered(sae, ablate=[99])


def test_several_hooks_at_once_and_the_features_of_a_text():
    lm = unmix.load_model("embedded")
    ids = torch.tensor([lm.tokenizer.encode("<|endoftext|>import os")])
    plain = lm.logits(ids)
    with unmix.splice(lm.model, {"resid_post.3": torch.clone, "mlp_out.2": torch.clone}):
        assert torch.equal(lm.logits(ids), plain)
    x = lm.activations(ids, ["resid_post.3", "mlp_out.2"])
    with unmix.splice(lm.model, {"mlp_out.2": torch.zeros_like, "resid_post.3": lambda x: x * 2}):
        both = lm.logits(ids)
    with unmix.splice(lm.model, "mlp_out.2", torch.zeros_like), unmix.splice(lm.model, "resid_post.3", lambda x: x * 2):
        assert torch.equal(lm.logits(ids), both)
    from unmix.dictionary.model import new_dictionary
    from unmix.interop.origin import Origin

    sae = new_dictionary(x["resid_post.3"].shape[-1], 64, 0.1, 0)
    with pytest.raises(UserError, match="does not say where it reads"):
        unmix.top_features(lm, sae, "import os")
    sae.cfg = Origin(format="SAELens", architecture="standard", hook="blocks.3.attn.hook_z", head=1)
    with pytest.raises(UserError, match=r"reads head 1 of blocks\.3\.attn\.hook_z alone"):
        unmix.top_features(lm, sae, "import os")
    found = unmix.top_features(lm, sae, "import os", "resid_post.3", most=3)
    assert [token for token, _ in found][1:] == ["import", " os"]
    f_TF = sae.encode(lm.activations(ids, ["resid_post.3"])["resid_post.3"][0])
    assert [i for i, _ in found[-1][1]] == f_TF[-1].topk(3).indices.tolist()


def test_every_token_of_a_long_text_has_its_features_or_the_text_is_refused():
    """It was cut after 512 tokens, without a word."""
    from unmix.dictionary.model import new_dictionary

    lm = unmix.load_model(str(tiny_model_folder("llama")))
    lm.model.config.max_position_embeddings = 2048  # its positions are rotations, of any number
    sae, text = new_dictionary(lm.width, 24, 0.1, 0), "import os\n" * 100
    tokens = lm.tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) > 512
    assert len(unmix.top_features(lm, sae, text, "resid_post.0", most=1)) == 1 + len(tokens)
    with pytest.raises(UserError, match=r"the text is longer than .* can read, 2,048 tokens; give it in parts"):
        unmix.top_features(lm, sae, text * 5, "resid_post.0")
