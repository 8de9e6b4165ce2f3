"""`unmix.sweep(activations=x, targets=y)`: a run that trains transcoders, from rows to report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

import unmix
from unmix.cli import main
from unmix.errors import UserError
from unmix.front import Run
from unmix.runlog import read_manifest

D, E = 16, 10
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
    return (codes @ random.normal(size=(40, D)) + 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def y_RE(x_RD: np.ndarray) -> np.ndarray:
    W = np.random.default_rng(1).normal(size=(D, E))
    return (20 * np.maximum(x_RD @ W - 1, 0) - 40).astype(np.float32)


@pytest.fixture(scope="module")
def run(x_RD: np.ndarray, y_RE: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return unmix.sweep(activations=x_RD, targets=y_RE, l0=[4, 8], name="y", runs=tmp_path_factory.mktemp("r"), **FEW)


def weights(run: Run, member: str) -> dict[str, torch.Tensor]:
    return load_file(run.members[member] / "sae_weights.safetensors")


def same(a: Run, b: Run, member: str = "l0-4") -> bool:
    one, other = weights(a, member), weights(b, member)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_was_held_out_is_what_the_saved_transcoder_gives(run: Run, x_RD: np.ndarray, y_RE: np.ndarray):
    """Explained variance of y, cosine and L0 by hand, over rows that no batch held."""
    from unmix.activations.arrays import split

    _, held_R = split(len(x_RD), 0.1, 0)
    x_HD, y_HE = torch.from_numpy(x_RD[held_R]), torch.from_numpy(y_RE[held_R]).double()
    found = run.evaluation()
    for number, name in enumerate(found["member"]):
        sae = run.sae(name)
        assert (sae.d_in, sae.d_sae, sae.W_dec.shape) == (D, 32, (32, E))
        y_hat_HE = sae(x_HD).double()
        variance = 1 - ((y_hat_HE - y_HE).square().sum() / (y_HE - y_HE.mean(0)).square().sum()).item()
        assert found["explained_variance"][number] == pytest.approx(variance, abs=1e-5)
        assert found["cosine"][number] == pytest.approx(torch.cosine_similarity(y_hat_HE, y_HE).mean().item(), abs=1e-5)
        assert found["l0"][number] == pytest.approx((sae.encode(x_HD) > 0).sum(1).double().mean().item())
        assert found["tokens"][number] == len(held_R)
    [result] = json.loads((run.folder / "evaluation.json").read_text())["hooks"]
    assert (result["hook"], result["target_width"]) == ("activations", E)


def test_what_is_written_down(run: Run):
    manifest = read_manifest(run.folder / "run.yaml")
    assert manifest["recipe"]["activations"]["targets"] == "given"
    assert manifest["corpus"]["targets"] == "given"
    assert (manifest["hooks"]["activations"]["width"], manifest["hooks"]["activations"]["targets"]["width"]) == (D, E)
    facts = manifest["members"]["l0-4"]
    assert facts["target_scale"] > 0
    assert facts["target_scale"] != facts["scale"]
    assert 0 <= facts["target_outliers_share"] <= 1
    cfg = run.sae("l0-4").cfg
    assert cfg.transcoder
    assert "32 features of 16 -> 10, jumprelu" in repr(run.sae("l0-4"))
    config = json.loads((run.members["l0-4"] / "cfg.json").read_text())
    assert (config["architecture"], config["d_out"]) == ("jumprelu_transcoder", E)
    assert config["metadata"]["targets"] == "given"
    assert config["metadata"]["mask"]["rule"].endswith("leave y as it is there")


def test_a_run_without_targets_says_nothing_of_them(x_RD: np.ndarray, tmp_path: Path):
    run = unmix.sweep(activations=x_RD, l0=4, name="x", runs=tmp_path, **FEW)
    said = (run.folder / "run.yaml").read_text() + (run.members["l0-4"] / "cfg.json").read_text()
    assert not {"targets", "target_scale", "target_outliers_share"} & set(re.findall(r"\w+", said))
    assert "target_width" not in (run.folder / "evaluation.json").read_text()


def test_it_verifies_and_has_a_page(run: Run):
    assert main(["verify", str(run.folder)]) == 0
    page = run.report().read_text()
    assert "y is the target that was given for x" in page
    assert "‖ŷ − y‖²" in page
    assert "‖x̂ − x‖" not in page
    assert "targets of width 10" in page
    assert "all numbers are of ŷ and y" in page


def test_the_kind_of_rows_changes_no_bit(run: Run, x_RD: np.ndarray, y_RE: np.ndarray, tmp_path: Path):
    np.save(tmp_path / "x.npy", x_RD)
    np.save(tmp_path / "y.npy", y_RE)
    save_file({"activations": y_RE}, tmp_path / "y.safetensors")
    kinds: dict[str, tuple[Any, Any]] = {
        "tensor": (torch.from_numpy(x_RD), torch.from_numpy(y_RE)),
        "files": (tmp_path / "x.npy", tmp_path / "y.npy"),
        "kinds of files": (str(tmp_path / "x.npy"), str(tmp_path / "y.safetensors")),
        "mapping": ({"activations": x_RD}, {"activations": y_RE}),
        "token ids": ((x_RD, np.arange(3000)), y_RE),
    }
    for name, (x, y) in kinds.items():
        other = unmix.sweep(
            activations=x, targets=y, l0=[4, 8], name=name.replace(" ", "-"), runs=tmp_path, evaluate=False, **FEW
        )
        assert same(run, other, "l0-8"), name


def test_files_by_the_command_line(run: Run, x_RD: np.ndarray, y_RE: np.ndarray, tmp_path: Path):
    np.save(tmp_path / "x.npy", x_RD)
    np.save(tmp_path / "y.npy", y_RE)
    words = (
        f"sweep --name cli --runs {tmp_path} --activations.rows {tmp_path}/x.npy --activations.targets "
        f"{tmp_path}/y.npy --l0 4 8 --features 32 --steps 30 --training.batch_tokens 64 --training.selection fp32 "
        "--training.dense fp32 --training.border 0.2 --training.checkpoint_every 10 --activations.chunk_sequences 2"
    )
    assert main(words.split()) == 0
    other = unmix.open_run(tmp_path / "cli")
    assert same(run, other)
    assert other.evaluation()["explained_variance"] == run.evaluation()["explained_variance"]
    assert main(["evaluate", str(other.folder), "--mask", "none"]) == 0  # from the files again
    assert main(["extend", str(other.folder), "--member", "l0-4", "--steps", "40"]) == 0
    assert unmix.open_run(tmp_path / "cli").sae("l0-4-extended").cfg.step == 40


@pytest.mark.parametrize("kind", ["array", "list"])
def test_a_run_that_was_stopped_is_resumed_to_the_same_bits(
    kind: str, x_RD: np.ndarray, y_RE: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from unmix.cli.progress import Progress

    def rows(of: np.ndarray) -> Any:
        return of if kind == "array" else list(torch.from_numpy(of).split(100))

    common: dict[str, Any] = {"l0": 4, "runs": tmp_path, "evaluate": False, **FEW}
    whole = unmix.sweep(activations=rows(x_RD), targets=rows(y_RE), name="whole", **common)
    calls = 0

    def stop(self: Progress) -> bool:
        nonlocal calls
        calls += 1
        return calls == 13

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "stop", stop)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 13"):
            unmix.sweep(activations=rows(x_RD), targets=rows(y_RE), name="stopped", **common)
    changed = y_RE.copy()
    changed[0] += 1
    changed[-1] += 1
    with pytest.raises(UserError, match="are not those that"):
        unmix.sweep(activations=rows(x_RD), targets=rows(changed), name="stopped", **common)
    with pytest.raises(UserError, match=r"was made with activations\.targets = given, the recipe says None"):
        unmix.sweep(activations=rows(x_RD), name="stopped", **common)
    resumed = unmix.sweep(activations=rows(x_RD), targets=rows(y_RE), name="stopped", **common)
    assert same(whole, resumed)
    assert whole.metrics()["loss"] == resumed.metrics()["loss"]


def test_generators_of_both_are_read_once(x_RD: np.ndarray, y_RE: np.ndarray, tmp_path: Path):
    x, y = (iter(torch.from_numpy(of).split(100)) for of in (x_RD, y_RE))
    run = unmix.sweep(activations=x, targets=y, l0=4, name="made", runs=tmp_path, **FEW)
    assert run.evaluation()["tokens"] == [512]
    assert run.sae("l0-4").W_dec.shape == (32, E)


def test_the_page_warns_of_long_targets(
    x_RD: np.ndarray, y_RE: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    far = y_RE.copy()
    far[::50] *= 1000
    unmix.sweep(activations=x_RD, targets=far, l0=4, name="far", runs=tmp_path, **FEW | {"quiet": False, "steps": 5})
    said = capsys.readouterr().err
    assert "warning: targets of activations: they make up" in said
    assert "norm_power 2" in said


BOTH = "give both alike"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (lambda x, y: {"targets": y}, "targets stand beside activations, row by row; give activations too"),
        (lambda x, y: {"activations": x, "targets": y[:100]}, "there are 3,000 of activations, 100 of the targets"),
        (lambda x, y: {"activations": {"a": x}, "targets": {"b": y}}, "activations of a and targets of b"),
        (lambda x, y: {"activations": {"a": x}, "targets": {"a": y, "b": y}}, "activations of a and targets of a, b"),
        (lambda x, y: {"activations": {"a": x}, "targets": y}, f"hook -> array, and targets one array; {BOTH}"),
        (lambda x, y: {"activations": x, "targets": {"activations": y}}, BOTH),
        (lambda x, y: {"activations": x, "targets": "y.npy"}, f"one array, and targets the path of a file; {BOTH}"),
        (lambda x, y: {"activations": x, "targets": [y]}, BOTH),
        (lambda x, y: {"activations": x, "targets": (y, np.arange(3000))}, BOTH),
        (lambda x, y: {"activations": x, "targets": 3.0}, "targets a float; give both alike"),
        (lambda x, y: {"activations": x, "targets": y, "sae.aligned": True}, r"^sae\.aligned = true holds .*; leave"),
        (lambda x, y: {"activations": x, "targets": y, "sae.scaling": "token"}, "y has its own; give dataset, or none"),
        (
            lambda x, y: {"activations": x, "targets": y, "training.resample_every": 10},
            r"training\.resample_every = 10 .* give sae\.auxk",
        ),
        (
            lambda x, y: {"activations": x, "targets": y, "variants": {"a": {"sae": {"aligned": True}}}},
            r"^variant a: sae\.aligned",
        ),
        (lambda x, y: {"activations.targets": "y.npy"}, "is for activations of your own"),
        (lambda x, y: {"activations": x, "activations.targets": "given"}, r"give unmix\.sweep\(targets=…\)"),
        (lambda x, y: {"activations": x, "activations.targets": "y.npy"}, "give both as files, or both from Python"),
    ],
)
def test_what_does_not_fit_is_one_line(keys: Any, said: str, x_RD: np.ndarray, y_RE: np.ndarray, tmp_path: Path):
    few = {key: value for key, value in FEW.items() if key != "training"}
    with pytest.raises(UserError, match=said) as caught:
        unmix.sweep(runs=tmp_path, name="run", l0=4, **few | keys(x_RD, y_RE))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_a_file_of_other_rows_is_refused(x_RD: np.ndarray, y_RE: np.ndarray, tmp_path: Path):
    np.save(tmp_path / "x.npy", x_RD)
    save_file({"a": y_RE, "b": y_RE}, tmp_path / "y.safetensors")
    common: dict[str, Any] = {"activations": tmp_path / "x.npy", "runs": tmp_path, "l0": 4, **FEW}
    with pytest.raises(UserError, match="has no tensor activations; it has a, b"):
        unmix.sweep(targets=tmp_path / "y.safetensors", **common)
    with pytest.raises(UserError, match=r"there is no file .*no\.npy; activations\.targets takes"):
        unmix.sweep(targets=tmp_path / "no.npy", **common)


def test_a_run_is_not_evaluated_in_a_model_as_if_it_gave_x_back(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", str(run.folder), "--model", "embedded", "--corpus", "stdlib"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "was trained to give targets of its own" in line
    assert "--hook-out" in line
    words = ["--build", "--out", str(tmp_path / "site"), "--model", "embedded", "--corpus", "stdlib"]
    assert main(["explore", str(run.members["l0-4"]), *words, "--hook", "resid_post.1"]) == 2
    assert "give --hook-out HOOK" in capsys.readouterr().err.splitlines()[-1]
