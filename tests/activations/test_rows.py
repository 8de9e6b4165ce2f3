"""Rows of one's own as a run reads them: by the names of their hooks, and without what only a language model has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import unmix
from unmix.errors import UserError
from unmix.runlog import read_manifest, write_manifest

FEW: dict[str, Any] = {
    "features": 32, "steps": 20, "l0": 4, "quiet": True, "activations.chunk_sequences": 2,
    "training": {"batch_tokens": 64, "selection": "fp32", "dense": "fp32", "border": 0.2, "checkpoint_every": 10},
}  # fmt: skip
THEIRS, OURS = ["blocks.8.hook_resid_pre", "blocks.9.hook_mlp_out"], ["resid_pre.8", "mlp_out.9"]


@pytest.fixture(scope="module")
def x_RD() -> np.ndarray:
    random = np.random.default_rng(0)
    codes = random.exponential(size=(3000, 40)) * (random.random((3000, 40)) < 0.1)
    return (codes @ random.normal(size=(40, 16)) + 0.5).astype(np.float32)


def same(a: Any, b: Any) -> bool:
    return a.members.keys() == b.members.keys() and all(
        torch.equal(a.sae(name).W_dec, b.sae(name).W_dec) for name in a.members
    )


@pytest.mark.parametrize("kind", ["array", "mapping", "batches"])
def test_a_place_may_be_called_as_transformer_lens_calls_it(kind: str, x_RD: np.ndarray, tmp_path: Path):
    runs = []
    for hook in (THEIRS[0], OURS[0]):
        batches = [{hook: x} for x in torch.from_numpy(x_RD).split(100)]
        given: Any = {"array": x_RD, "mapping": {hook: x_RD}, "batches": batches}[kind]
        named = {} if kind == "mapping" else {"hook": hook}
        runs.append(unmix.sweep(activations=given, name=hook, runs=tmp_path, evaluate=False, **named, **FEW))
    assert runs[0].recipe.activations.hooks == [OURS[0]]
    assert same(*runs)


def test_of_a_mapping_only_the_hooks_that_are_named_are_read(x_RD: np.ndarray, tmp_path: Path):
    more = {OURS[0]: x_RD, OURS[1]: np.tile(x_RD, 3)}
    wide, alone = (
        unmix.sweep(
            activations=given, name=name, runs=tmp_path, evaluate=False, **FEW, **{"activations.hooks": OURS[:1]}
        )
        for name, given in {"wide": more, "alone": {OURS[0]: x_RD}}.items()
    )
    assert same(wide, alone)
    facts = [read_manifest(run.folder / "run.yaml")["corpus"] for run in (wide, alone)]
    assert facts[0] == facts[1]


def test_tensors_of_a_file_may_be_called_so(x_RD: np.ndarray, tmp_path: Path):
    save_file({THEIRS[0]: x_RD, THEIRS[1]: -x_RD}, tmp_path / "theirs.safetensors")
    runs = [
        unmix.sweep(
            activations=tmp_path / "theirs.safetensors", hook=hooks, name=hooks[0], runs=tmp_path, evaluate=False, **FEW
        )
        for hooks in (THEIRS, OURS)
    ]
    assert list(runs[0].members) == ["mlp_out.9-l0-4", "resid_pre.8-l0-4"]
    assert same(*runs)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (lambda x: {"activations": {THEIRS[0]: x, OURS[0]: x}}, "twice; name each once"),
        (lambda x: {"activations": [{THEIRS[0]: x, OURS[0]: x}], "hook": OURS[0]}, "resid_pre.8 are given twice"),
        (lambda x: {"activations": {"b": x}, "activations.hooks": ["a"]}, "no activations of a; there are b"),
        (
            lambda x: {"activations": x, "training": {"mask": {"special": True}}},
            r"^training\.mask\.special = True needs a tokenizer",
        ),
        (
            lambda x: {"activations": (x, np.arange(3000) % 9), "training.mask.special": True},
            "give their token ids and activations.special_ids instead",
        ),
        (
            lambda x: {"activations": x, "variants": {"a": {}, "b": {"training": {"mask": {"special": True}}}}},
            r"variants\.b\.training\.mask\.special",
        ),
        (
            lambda x: {"activations": {"layers/3": x, "layers/7": x}},
            "hook 'layers/3' would be part of the names of folders",
        ),
        (lambda x: {"activations": {"a": x, "..\\b": x}}, "would be part of the names of folders"),
        (lambda x: {"activations": {"a": x, "b" * 300: x}}, "at most 150 bytes"),
        (lambda x: {"activations": {"a": x, "b\n": x}}, "would be part of the names of folders"),
    ],
)
def test_what_cannot_be_is_refused_before_training(keys: Any, said: str, x_RD: np.ndarray, tmp_path: Path):
    few = {key: value for key, value in FEW.items() if key != "training"}
    with pytest.raises(UserError, match=said) as caught:
        unmix.sweep(name="run", runs=tmp_path, **few | keys(x_RD))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.yaml").exists()
    assert not (tmp_path / "run" / "members").exists()


def test_one_hook_may_be_called_anything(x_RD: np.ndarray, tmp_path: Path):
    run = unmix.sweep(activations={"layers/3": x_RD}, name="run", runs=tmp_path, **FEW)
    assert list(run.members) == ["l0-4"]
    assert run.evaluation()["hook"] == ["layers/3"]


def test_an_older_run_with_a_mask_that_masked_nothing_is_resumed_without_it(x_RD: np.ndarray, tmp_path: Path):
    run = unmix.sweep(activations=x_RD, name="run", runs=tmp_path, evaluate=False, **FEW)
    manifest = read_manifest(run.folder / "run.yaml")
    manifest["recipe"]["training"]["mask"]["special"] = True
    write_manifest(run.folder / "run.yaml", manifest)
    unmix.sweep(activations=x_RD, name="run", runs=tmp_path, **FEW | {"l0": [4, 8]})
    assert read_manifest(run.folder / "run.yaml")["recipe"]["training"]["mask"]["special"] is False
    [result] = json.loads((run.folder / "evaluation.json").read_text())["hooks"]
    assert "special" not in result["mask"]
    rule = json.loads((run.members["l0-8"] / "cfg.json").read_text())["metadata"]["mask"]["rule"]
    assert rule == "tokens with norms above 10 times the median were not trained on: leave x as it is there"


def test_batches_that_end_are_read_again_without_what_is_held_out(
    x_RD: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    few = {**FEW, "quiet": False, "steps": 60, "runs": tmp_path}
    unmix.sweep(activations=list(torch.from_numpy(x_RD).split(100)), name="many", **few)
    said = capsys.readouterr().err
    assert "the first 512 are held out" in said
    assert "the activations ended after 3,000 rows: from step 38 on, the 2,488 that are not held out" in said
    run = unmix.sweep(activations=list(torch.from_numpy(x_RD[:1000]).split(100)), name="few", **few)
    said = capsys.readouterr().err
    assert "reading 900 of activations that were handed over; the first 100 are held out" in said
    assert "3,840 activations are read, and there are 900: 4.3 times over" in said
    assert run.evaluation()["tokens"] == [100]


def test_a_run_on_batches_is_extended_on_the_same_rows(x_RD: np.ndarray, tmp_path: Path):
    """Going back to where the extension begins reads everything again; shuffled rows would be others."""

    class Counted:
        begun = 0

        def __iter__(self) -> Iterator[torch.Tensor]:
            self.begun += 1
            yield from torch.from_numpy(x_RD).split(100)

    given = Counted()
    choice = {"extend_to": 50, "extend_decay_fraction": 0.2}
    run = unmix.sweep(activations=given, name="a", runs=tmp_path, choice=choice, evaluate=False, **FEW)
    assert run.choice == "l0-4-extended"
    assert given.begun >= 3
    listed = list(torch.from_numpy(x_RD).split(70))
    assert same(run, unmix.sweep(activations=listed, name="b", runs=tmp_path, choice=choice, evaluate=False, **FEW))
