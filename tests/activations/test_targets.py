"""Targets: y_RE beside x_RD row by row, in arrays and in batches; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unmix.activations.arrays import Arrays, open_files
from unmix.activations.iterated import Iterated
from unmix.activations.stream import Batch, Pair
from unmix.errors import UserError

X_RD = np.arange(600, dtype=np.float32).reshape(200, 3)  # row r is (3r, 3r + 1, 3r + 2)
Y_RE = np.stack([X_RD[:, 0] / 3, -X_RD[:, 1]], 1)  # row r is (r, -3r - 1)
COMMON: dict[str, Any] = {"batch_tokens": 7, "chunk_rows": 50, "seed": 0}


def arrays(x: Any = X_RD, y: Any = Y_RE, **more: Any) -> Arrays:
    return Arrays({"h": x}, targets={"h": y}, held_out=0.1, **COMMON | more)


def batches(x: Any = X_RD, y: Any = Y_RE, size: int = 9) -> tuple[list[Tensor], list[Tensor]]:
    return list(torch.as_tensor(x).split(size)), list(torch.as_tensor(y).split(size))


def iterated(given: Any = None, targets: Any = None, hooks: tuple[str, ...] = ("h",), **more: Any) -> Iterated:
    x, y = batches()
    given, targets = x if given is None else given, y if targets is None else targets
    return Iterated(given, list(hooks), targets=targets, **COMMON | more)


def assert_beside(batch: Batch) -> None:
    """Each y is that of its x."""
    pair = batch.pair("h")
    assert not pair.same
    assert torch.equal(pair.y_BE[:, 0] * 3, pair.x_BD[:, 0])
    assert torch.equal(pair.y_BE[:, 1], -pair.x_BD[:, 1])


@pytest.mark.parametrize("kind", [arrays, iterated])
def test_a_row_comes_with_its_own_target(kind: Any):
    source = kind()
    assert (source.widths, source.target_widths) == ({"h": 3}, {"h": 2})
    assert_beside(source.head())
    for batch in source.batches(0, 60):  # into the next epoch, and over the ends of chunks
        assert_beside(batch)
    held = zip(source.held_out(1000), source.held_out_targets(1000), strict=True)
    for x, y in held:
        assert_beside(Batch(x, torch.zeros(0), torch.zeros(0), y))


@pytest.mark.parametrize("kind", [arrays, iterated])
def test_x_is_read_as_without_targets(kind: Any):
    x, _ = batches()
    plain = Arrays({"h": X_RD}, held_out=0.1, **COMMON) if kind is arrays else Iterated(x, ["h"], **COMMON)
    assert plain.target_widths == {}
    for one, other in zip(kind().batches(0, 40), plain.batches(0, 40), strict=True):
        assert torch.equal(one.activations["h"], other.activations["h"])
        assert other.pair("h").same
        assert other.pair("h").y_BE is other.activations["h"]


@pytest.mark.parametrize("kind", [arrays, iterated])
def test_the_fingerprint_is_of_the_targets_too(kind: Any):
    changed = Y_RE.copy()
    changed[0, 0] += 1
    other = arrays(y=changed) if kind is arrays else iterated(targets=batches(y=changed)[1])
    assert kind().fingerprint == kind().fingerprint
    assert kind().fingerprint != other.fingerprint


def test_what_is_left_out_is_left_out_of_both():
    ids_R = np.arange(200) % 10
    for batch in arrays(ids_R=ids_R, special_ids=[0]).batches(0, 60):
        assert_beside(batch)
        assert (batch.pair("h").y_BE[:, 0] % 10 != 0).all()
    x, y = batches()
    with_ids = list(zip(x, torch.from_numpy(ids_R).split(9), strict=True))
    for batch in iterated(with_ids, y, special_ids=[0]).batches(0, 60):
        assert_beside(batch)
        assert (batch.pair("h").y_BE[:, 0] % 10 != 0).all()


def test_several_hooks_have_each_its_own():
    x, y = batches()
    given = [{"a": one, "b": -one} for one in x]
    source = iterated(given, [{"b": -one, "a": one} for one in y], ("a", "b"))
    [batch] = source.batches(3, 4)
    a, b = batch.pair("a"), batch.pair("b")
    assert torch.equal(a.x_BD, -b.x_BD)
    assert torch.equal(a.y_BE, -b.y_BE)
    assert torch.equal(a.y_BE[:, 0] * 3, a.x_BD[:, 0])


def test_how_targets_were_cut_has_to_be_as_x_was():
    x, _ = batches()
    _, y = batches(size=10)
    with pytest.raises(UserError, match=r"^a batch of the activations and of its targets has 9, 10 rows; give as many"):
        iterated(x, y)


@pytest.mark.parametrize("once", [False, True])
def test_as_many_batches_of_both_are_wanted(once: bool):
    def as_given(parts: list[Tensor]) -> Any:
        return iter(parts) if once else parts

    x, y = batches()
    few = {**COMMON, "chunk_rows": 150}  # all of them are looked at before training
    with pytest.raises(UserError, match="the targets ended after 180 rows, and the activations go on"):
        Iterated(as_given(x), ["h"], targets=as_given(y[:20]), **few)
    with pytest.raises(UserError, match="the activations ended after 180 rows, and their targets go on"):
        Iterated(as_given(x[:20]), ["h"], targets=as_given(y), **few)


def test_a_generator_of_targets_gives_them_once():
    x, y = batches()
    assert iterated(x, iter(y)).once
    assert iterated(iter(x), y).once
    assert not iterated(x, y).once


def test_targets_that_turn_out_others_are_refused():
    class Turning:
        times = 0

        def __iter__(self) -> Iterator[Tensor]:
            self.times += 1
            yield from batches(y=Y_RE + self.times)[1]

    with pytest.raises(UserError, match="are not the same rows in the same order"):
        iterated(None, Turning())


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (Y_RE[:150], "there are 200 of h, 150 of the targets of h"),
        (Y_RE[:, 0], r"targets of h: the shape \(200,\) is not \[tokens, D\]"),
        (Y_RE.astype(np.int64), "targets of h: activations of dtype int64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(y: Any, said: str):
    with pytest.raises(UserError, match=said) as caught:
        arrays(y=y)
    assert "\n" not in str(caught.value)


def test_a_batch_that_is_no_target_is_refused():
    x, _ = batches()
    with pytest.raises(UserError, match="a batch of targets of h is a str; give tensors"):
        iterated(x, ["text"] * len(x))
    with pytest.raises(UserError, match="a batch of the targets of activations has no h; it has g"):
        iterated(x, [{"g": one} for one in x])


def test_a_file_that_is_not_there_is_named_by_its_key(tmp_path: Path):
    with pytest.raises(UserError, match=r"activations\.targets takes a \.npy or \.safetensors file"):
        open_files(tmp_path / "no.npy", ["h"], "activations.targets")


def test_a_pair_made_of_another_is_one_tensor_where_that_was():
    x_BD = torch.zeros(3, 2)
    same, other = Pair(x_BD, x_BD), Pair(x_BD, torch.ones(3, 2))
    made = same.of(x_BD + 1, lambda: pytest.fail("y was made for an SAE"))
    assert made.same
    assert torch.equal(other.of(x_BD + 1, lambda: x_BD + 2).y_BE, x_BD + 2)
