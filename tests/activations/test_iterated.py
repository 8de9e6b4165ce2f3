"""Rows that arrive batch by batch: cut into chunks, shuffled, read again after a stop."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from unmix.activations.iterated import Iterated
from unmix.errors import UserError

X_RD = torch.arange(600, dtype=torch.float32).reshape(200, 3)


def parts(*sizes: int) -> list[Tensor]:
    return list(torch.split(X_RD, list(sizes))) if sizes else list(X_RD.split(9))


def source(given: Any, hooks: list[str] | None = None) -> Iterated:
    return Iterated(given, hooks or ["h"], batch_tokens=7, chunk_rows=40, seed=0)


def generator() -> Iterator[Tensor]:
    yield from parts()


def test_the_first_chunk_is_held_out_and_the_rest_is_trained_on():
    rows = source(parts())
    held = torch.cat([arrays["h"] for arrays in rows.held_out(1000)])
    trained = torch.cat([batch.activations["h"] for batch in rows.batches(0, 22)])
    assert torch.equal(held, X_RD[:40])
    assert set(trained[:, 0].tolist()) <= set(X_RD[40:, 0].tolist())
    assert len(set(trained[:, 0].tolist())) == 154  # no row twice within the first epoch


def test_how_rows_were_cut_into_batches_changes_nothing():
    a, b = source(parts()), source(parts(100, 1, 99))
    for one, other in zip(a.batches(0, 20), b.batches(0, 20), strict=True):
        assert torch.equal(one.activations["h"], other.activations["h"])
        assert torch.equal(one.token_ids_B, other.token_ids_B)
    assert a.fingerprint == b.fingerprint


@pytest.mark.parametrize("step", [0, 9, 21, 45])  # 45: in the second time through
def test_a_batch_is_a_function_of_its_number(step: int):
    *_, far = source(parts()).batches(0, step + 1)
    [alone] = source(parts()).batches(step, step + 1)
    assert torch.equal(far.activations["h"], alone.activations["h"])


def test_what_can_be_read_again_is():
    rows = source(parts())
    before = next(rows.batches(0, 1)).activations["h"]
    list(rows.batches(1, 20))
    assert torch.equal(next(rows.batches(0, 1)).activations["h"], before)


def test_a_generator_gives_its_rows_once():
    rows = source(generator())
    assert rows.once
    list(rows.batches(0, 20))
    with pytest.raises(UserError, match="a generator gives its rows once"):
        next(rows.batches(0, 1))
    with pytest.raises(UserError, match="the activations ended after 200 rows"):
        list(source(generator()).batches(0, 30))


def test_several_hooks_come_side_by_side():
    given = [{"a": x_BD, "b": -x_BD[:, :2]} for x_BD in parts()]
    rows = source(given, ["a", "b"])
    assert rows.widths == {"a": 3, "b": 2}
    [batch] = rows.batches(3, 4)
    assert torch.equal(batch.activations["a"][:, :2], -batch.activations["b"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "ended after 0 rows"),
        ([torch.zeros(3, 2, dtype=torch.int64)], "torch.int64 of shape"),
        ([torch.zeros(3)], r"of shape \(3,\)"),
        ([{"g": X_RD}], "has no h; it has g"),
        (["text"], "a batch of h is a str; give tensors or arrays"),
    ],
)
def test_what_is_no_rows_is_refused(given: Any, said: str):
    with pytest.raises(UserError, match=said):
        source(given)


def test_an_iterable_that_is_empty_the_second_time_is_refused():
    class Once:
        def __init__(self) -> None:
            self.left = parts()

        def __iter__(self) -> Iterator[Tensor]:
            left, self.left = self.left, []
            return iter(left)

    with pytest.raises(UserError, match="gave none when iterated over again"):
        list(source(Once()).batches(0, 30))
