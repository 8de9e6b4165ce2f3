"""Runs on rows are evaluated on what they held out: wherever the rows lie, and with what is of use there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model_folder
from tiny_run import write_texts
from torch import Tensor

import unmix
from unmix.activations.arrays import Arrays
from unmix.cli import main
from unmix.evaluation import rows
from unmix.runlog import read_manifest, write_manifest

IDS_R = np.arange(3000) % 10
FEW: dict[str, Any] = {
    "features": 32, "steps": 20, "l0": 4, "quiet": True, "activations.chunk_sequences": 2,
    "training": {"batch_tokens": 64, "selection": "fp32", "dense": "fp32", "border": 0.2, "checkpoint_every": 10},
}  # fmt: skip


@pytest.fixture(scope="module")
def x_RD() -> np.ndarray:
    random = np.random.default_rng(0)
    codes = random.exponential(size=(3000, 40)) * (random.random((3000, 40)) < 0.1)
    return (codes @ random.normal(size=(40, 16)) + 0.5).astype(np.float32)


@pytest.fixture
def folder(x_RD: np.ndarray, tmp_path: Path) -> Path:
    """A run on a file of rows."""
    np.save(tmp_path / "x.npy", x_RD)
    return unmix.sweep(activations=tmp_path / "x.npy", name="rows", runs=tmp_path, evaluate=False, **FEW).folder


class There:
    """A tensor on another device: it can be brought to the processor, and nothing else."""

    def __init__(self, x_BD: Tensor) -> None:
        self.x_BD = x_BD

    def to(self, device: torch.device) -> Tensor:
        assert device.type == "cpu"
        return self.x_BD


class Elsewhere(Arrays):
    """Rows of a run that is trained on another device."""

    def held_out(self, rows: int) -> Iterator[Any]:
        for arrays in super().held_out(rows):
            yield {hook: There(x_BD) for hook, x_BD in arrays.items()}


def test_rows_on_another_device_are_brought_to_the_dictionaries(
    folder: Path, x_RD: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    common: dict[str, Any] = {"batch_tokens": 64, "chunk_rows": 512, "held_out": 0.1, "seed": 0, "ids_R": IDS_R}
    found = []
    made = read_manifest(folder / "run.yaml")["corpus"]["fingerprint"]
    monkeypatch.setattr(Arrays, "fingerprint", made)  # that of the file, which says nothing of token ids
    for kind in (Arrays, Elsewhere):
        source = kind({"activations": x_RD}, **common)
        monkeypatch.setattr(rows, "open_rows", lambda *_, source=source: source)
        found.append(rows.evaluate_rows(folder, None, tokens=10_000))
    assert json.dumps(found[0]) == json.dumps(found[1])
    assert found[1]["hooks"][0]["saes"]["l0-4"]["tokens"] > 0
    assert found[1]["hooks"][0]["saes"]["l0-4"]["by_norm"]["mask"] == "none: every activation is counted"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["array", "list"])
def test_a_run_on_a_gpu_is_evaluated(kind: str, x_RD: np.ndarray, tmp_path: Path):
    given: Any = x_RD if kind == "array" else list(torch.from_numpy(x_RD).cuda().split(100))
    run = unmix.sweep(activations=given, name="gpu", runs=tmp_path, device="cuda", **FEW)
    assert run.evaluation()["explained_variance"][0] > -1


@pytest.mark.parametrize(
    "words",
    [
        ["--debias"], ["--corpus", "stdlib"], ["--hook", "resid_post.1"], ["--hook-out", "mlp_out.1"],
        ["--device", "cpu"], ["--batch", "4"], ["--ce-tokens", "100000"], ["--mask-special"],
        ["--debias", "--batch", "4", "--ce-tokens", "7"], ["--corpus.field", "content"],
    ],
)  # fmt: skip
def test_options_that_are_of_no_use_are_refused_by_name(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", str(folder), *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert all(flag in line for flag in words if flag.startswith("--"))
    assert "leave" in line
    assert not (folder / "evaluation.json").exists()


def test_options_that_are_of_use_are_taken(folder: Path):
    assert main(["evaluate", str(folder), "--tokens", "100", "--mask", "none", "--mask-norm-above", "2"]) == 0
    [result] = json.loads((folder / "evaluation.json").read_text())["hooks"]
    assert result["fidelity_tokens"] <= 100
    assert "norms above 2 times the median" in result["mask"]


def test_rows_of_a_hook_that_is_not_named_are_evaluated_in_a_model_with_the_hook_beside_a_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    model, texts = str(tiny_model_folder()), str(write_texts(tmp_path / "texts"))
    words = ["--model", model, "--corpus", texts, "--tokens", "320", "--ce-tokens", "160"]
    assert main(["evaluate", str(folder), *words]) == 2
    assert "does not say at which hook its activations were read; give one checkpoint" in capsys.readouterr().err
    member = max((folder / "members").glob("*/step-*"))
    assert main(["evaluate", str(member), *words, "--hook", "resid_post.1"]) == 0, capsys.readouterr().err
    [result] = json.loads((member / "evaluation.json").read_text())["hooks"]
    assert (result["hook"], result["saes"].keys()) == ("resid_post.1", {member.name})


def test_a_file_that_is_another_one_now_is_not_called_held_out(
    folder: Path, x_RD: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    np.save(tmp_path / "x.npy", x_RD[::-1])
    assert main(["evaluate", str(folder)]) == 2
    assert "are not those that" in capsys.readouterr().err
    assert not (folder / "evaluation.json").exists()
    np.save(tmp_path / "x.npy", x_RD)
    assert main(["evaluate", str(folder)]) == 0


def test_a_mask_that_masked_nothing_is_not_claimed(folder: Path):
    manifest = read_manifest(folder / "run.yaml")
    manifest["recipe"]["training"]["mask"] = {"special": True, "norm_above": None}
    write_manifest(folder / "run.yaml", manifest)
    assert main(["evaluate", str(folder)]) == 0
    [result] = json.loads((folder / "evaluation.json").read_text())["hooks"]
    assert "special" not in result["mask"]
