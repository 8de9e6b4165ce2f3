"""Token ids beside rows: special tokens are left out of training and of what is held out, and outliers are named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmix
from unmix.activations.arrays import Arrays
from unmix.activations.iterated import Iterated
from unmix.cli import main
from unmix.errors import UserError

IDS_R = np.arange(3000) % 10
FEW: dict[str, Any] = {
    "features": 32, "steps": 20, "l0": 4, "quiet": True, "activations.chunk_sequences": 2,
    "training": {"batch_tokens": 64, "selection": "fp32", "dense": "fp32", "border": 0.2, "checkpoint_every": 10},
}  # fmt: skip


@pytest.fixture
def x_RD() -> np.ndarray:
    """Rows of token 3 are a hundred times as long; the first coordinate says which row it is."""
    random = np.random.default_rng(0)
    codes = random.exponential(size=(3000, 40)) * (random.random((3000, 40)) < 0.1)
    x_RD = (codes @ random.normal(size=(40, 16)) + 0.5).astype(np.float32)
    x_RD[IDS_R == 3] *= 100
    return x_RD


def arrays(x_RD: np.ndarray, **more: Any) -> Arrays:
    return Arrays({"h": x_RD}, **{"batch_tokens": 64, "chunk_rows": 500, "held_out": 0.1, "seed": 0} | more)


def iterated(given: Any, **more: Any) -> Iterated:
    return Iterated(given, ["h"], batch_tokens=64, chunk_rows=500, seed=0, **more)


def test_rows_of_special_tokens_are_neither_trained_on_nor_held_out(x_RD: np.ndarray):
    source, plain = arrays(x_RD, ids_R=torch.from_numpy(IDS_R), special_ids=[3, 7]), arrays(x_RD)
    assert sorted([*source.train_R, *source.held_out_R]) == np.flatnonzero(~np.isin(IDS_R, [3, 7])).tolist()
    assert set(source.held_out_R) < set(plain.held_out_R), "the others are split as they were"
    assert source.left_out == 600
    trained = torch.cat([batch.token_ids_B for batch in source.batches(0, 60)])
    assert not set(IDS_R[trained.numpy()]) & {3, 7}
    held = torch.cat([found["h"] for found in source.held_out(10**6)])
    assert torch.equal(held, torch.from_numpy(x_RD)[source.held_out_R])
    assert source.held_out_ids(10**6).tolist() == IDS_R[source.held_out_R].tolist()


def test_ids_alone_change_nothing_but_the_fingerprint(x_RD: np.ndarray):
    source, plain = arrays(x_RD, ids_R=IDS_R), arrays(x_RD)
    assert torch.equal(next(source.batches(2, 3)).activations["h"], next(plain.batches(2, 3)).activations["h"])
    assert source.fingerprint != plain.fingerprint
    assert plain.held_out_ids(5) is None


@pytest.mark.parametrize("kind", [tuple, list])
def test_batches_with_their_ids(x_RD: np.ndarray, kind: type):
    """A special token is left out as it comes: the rest is as if it had never been there."""
    kept_R = ~np.isin(IDS_R, [3, 7])
    given = [
        kind(pair) for pair in zip(torch.from_numpy(x_RD).split(130), torch.from_numpy(IDS_R).split(130), strict=True)
    ]
    source = iterated(given, special_ids=[3, 7])
    without = iterated(list(torch.from_numpy(x_RD[kept_R]).split(99)))
    for step in (0, 20, 40):  # the last is in a second reading
        found, want = next(source.batches(step, step + 1)), next(without.batches(step, step + 1))
        assert torch.equal(found.activations["h"], want.activations["h"])
    assert source.held_out_ids(400).tolist() == IDS_R[kept_R][:400].tolist()
    assert without.held_out_ids(400) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: arrays(x, special_ids=[3]), r"special_ids = \[3\] needs the token id of each row"),
        (lambda x: arrays(x, ids_R=IDS_R[:9]), "9 token ids stand beside 3,000 activations"),
        (lambda x: arrays(x, ids_R=IDS_R, special_ids=list(range(10))), "leaves too few of 3,000 activations"),
        (lambda x: iterated([x], special_ids=[3]), r"special_ids = \[3\] needs the token id of each row"),
        (lambda x: iterated([(x, IDS_R)], special_ids=list(range(10))), "ended after 0 rows, as"),
        (lambda x: iterated([(x[:300], IDS_R[:300]), x]), "token ids and some have not"),
        (lambda x: iterated([(x, IDS_R[:9])]), "9 token ids stand beside 3,000 activations"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make: Any, said: str, x_RD: np.ndarray):
    with pytest.raises(UserError, match=said):
        make(x_RD)


def test_a_sweep_names_the_tokens_that_are_outliers_and_leaves_out_special_ones(x_RD: np.ndarray, tmp_path: Path):
    run = unmix.sweep(activations=(x_RD, IDS_R), name="ids", runs=tmp_path, **FEW)
    [result] = json.loads((run.folder / "evaluation.json").read_text())["hooks"]
    [outlier] = result["outlier_tokens"]
    assert outlier["id"] == 3
    assert outlier["outliers"] == outlier["occurrences"] == result["outliers"]["tokens"] > 20

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from zip(torch.from_numpy(x_RD).split(100), torch.from_numpy(IDS_R).split(100), strict=True)

    for name, given in (("left-out", (x_RD, IDS_R)), ("batches", batches())):
        run = unmix.sweep(activations=given, name=name, runs=tmp_path, **FEW, **{"activations.special_ids": [3]})
        [result] = json.loads((run.folder / "evaluation.json").read_text())["hooks"]
        assert result["outliers"]["tokens"] == 0
        assert result["outlier_tokens"] == []


def test_a_file_of_ids_by_the_command_line(x_RD: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "x.npy", x_RD)
    np.save(tmp_path / "ids.npy", IDS_R.astype(np.uint16))
    words = (
        f"sweep --runs {tmp_path} --activations.rows {tmp_path}/x.npy --l0 4 --features 32 --steps 20 "
        "--training.batch_tokens 64 --training.selection fp32 --training.dense fp32 --training.border 0.2 "
        "--training.checkpoint_every 10 --activations.chunk_sequences 2 --activations.special_ids 3 7"
    ).split()
    assert main([*words, "--name", "without"]) == 2
    assert "needs the token id of each row; give activations.token_ids" in capsys.readouterr().err
    assert main([*words, "--name", "none", "--activations.token_ids", f"{tmp_path}/none.npy"]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main([*words, "--name", "wrong", "--activations.token_ids", f"{tmp_path}/x.npy"]) == 2
    assert "want the token id of each row: [rows] integers" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--name", "cli", "--activations.token_ids", f"{tmp_path}/ids.npy"]) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "600 of special tokens are left out" in said
    other = unmix.sweep(
        activations=(x_RD, IDS_R), name="py", runs=tmp_path, **FEW, **{"activations.special_ids": [3, 7]}
    )
    made = unmix.open_run(tmp_path / "cli")
    assert made.evaluation() == other.evaluation()
    assert torch.equal(made.sae("l0-4").W_dec, other.sae("l0-4").W_dec)
    with pytest.raises(UserError, match="for activations of your own"):
        unmix.sweep(runs=tmp_path, **FEW, **{"activations.special_ids": [3]})
