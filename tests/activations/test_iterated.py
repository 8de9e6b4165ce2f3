"""Rows that arrive batch by batch: cut into chunks, shuffled, read again after a stop, but for what is held out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unmix.activations.iterated import Iterated
from unmix.errors import UserError

X_RD = torch.arange(600, dtype=torch.float32).reshape(200, 3)


def parts(*sizes: int) -> list[Tensor]:
    return list(torch.split(X_RD, list(sizes))) if sizes else list(X_RD.split(9))


def source(given: Any, hooks: list[str] | None = None, chunk_rows: int = 40) -> Iterated:
    return Iterated(given, hooks or ["h"], batch_tokens=7, chunk_rows=chunk_rows, seed=0)


def chunks(rows: Iterated, first: int, last: int) -> Tensor:
    """Which rows of X_RD these chunks are."""
    return torch.cat([rows.read(number).activations["h"][:, 0] for number in range(first, last)]) // 3


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


@pytest.mark.parametrize("kind", [">f4", "<f8", "backwards", "by columns"])
def test_arrays_of_every_layout_are_rows(kind: str):
    """Those that torch takes only as a copy were said to be no arrays."""
    given = [part.numpy() for part in parts()]
    if kind == "backwards":
        given = [np.ascontiguousarray(x_BD[::-1])[::-1] for x_BD in given]
    else:
        given = [np.asfortranarray(x_BD) if kind == "by columns" else x_BD.astype(kind) for x_BD in given]
    assert torch.equal(chunks(source(given), 0, 3), chunks(source(parts()), 0, 3))


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


@pytest.mark.parametrize("chunk_rows", [40, 30, 7, 100])
def test_what_is_held_out_is_passed_over_in_every_epoch(chunk_rows: int):
    rows = source(parts(), chunk_rows=chunk_rows)
    held, size = chunk_rows, 200 - chunk_rows
    read = chunks(rows, 0, 4 * size // chunk_rows + 1)
    assert int(read.min()) == held
    if size % chunk_rows == 0:
        for epoch in range(4):
            assert sorted(read[epoch * size : (epoch + 1) * size].tolist()) == list(range(held, 200))
    times = torch.bincount(read.long(), minlength=200)[held:]
    assert int(times.max() - times.min()) <= 1
    assert rows.size == size


@pytest.mark.parametrize("chunk_rows", [101, 150, 190, 10_000])
@pytest.mark.parametrize("once", [False, True])
def test_of_fewer_rows_than_two_chunks_a_tenth_is_held_out(chunk_rows: int, once: bool):
    rows = source(generator() if once else parts(), chunk_rows=chunk_rows)
    assert torch.equal(torch.cat([arrays["h"] for arrays in rows.held_out(1000)]), X_RD[:20])
    assert (rows.size, rows.held_out_rows) == (180, 20)
    assert rows.chunk_tokens == min(chunk_rows, 180)
    read = chunks(rows, 0, 1 if once else 5)
    assert int(read.min()) >= 20
    assert len(set(read[: rows.chunk_tokens].tolist())) == rows.chunk_tokens
    assert rows.fingerprint != source(parts()[:-1], chunk_rows=chunk_rows).fingerprint


def test_a_single_row_is_refused():
    with pytest.raises(UserError, match="1 activations are too few"):
        source([X_RD[:1]])
    assert source([X_RD[:2]]).held_out_rows == 1


def test_the_end_is_said_once_with_the_step_that_comes_to_it():
    rows, said = source(parts()), []
    rows.say = said.append
    list(rows.batches(0, 22))  # 154 of 160
    assert rows.size > 10**9
    list(rows.batches(22, 80))
    list(rows.batches(3, 60))
    [line] = said
    assert line.startswith("the activations ended after 200 rows: from step 22 on, the 160 that are not held out are")
    assert rows.size == 160


class Turning:
    """Gives its rows in another order, or others, from the n-th time on."""

    def __init__(self, n: int, rows: Tensor) -> None:
        self.n, self.rows = n, rows

    def __iter__(self) -> Iterator[Tensor]:
        self.n -= 1
        yield from (X_RD if self.n >= 0 else self.rows).split(9)


@pytest.mark.parametrize("rows", [X_RD.flip(0), X_RD[:0], X_RD[:30], X_RD + 1])
@pytest.mark.parametrize("chunk_rows", [40, 500])
def test_another_order_is_refused_before_training(rows: Tensor, chunk_rows: int):
    with pytest.raises(UserError, match=r"not the same rows in the same order.*shuffle=False.*iter\(…\)"):
        source(Turning(1, rows), chunk_rows=chunk_rows)


@pytest.mark.parametrize("rows", [X_RD.flip(0), X_RD[:0], X_RD[:30], X_RD[:190], torch.cat([X_RD, X_RD[:5]])])
@pytest.mark.parametrize("chunk_rows", [40, 150])
def test_another_order_in_a_later_epoch_is_refused_too(rows: Tensor, chunk_rows: int):
    found = source(Turning(2, rows), chunk_rows=chunk_rows)
    with pytest.raises(UserError, match="not the same rows in the same order"):
        chunks(found, 0, 20)


def test_going_back_compares_the_first_rows():
    found = source(Turning(2, X_RD.flip(0)))
    chunks(found, 0, 3)
    with pytest.raises(UserError, match="not the same rows in the same order"):
        found.read(0)


def test_a_loader_of_torch():
    plain = source(DataLoader(X_RD, batch_size=9))
    assert torch.equal(chunks(plain, 0, 9), chunks(source(parts()), 0, 9))
    torch.manual_seed(0)
    with pytest.raises(UserError, match="shuffle=False"):
        source(DataLoader(X_RD, batch_size=9, shuffle=True))
    once = source(iter(DataLoader(X_RD, batch_size=9, shuffle=True)))
    assert once.once
    assert len(set(chunks(once, 0, 4).tolist())) == 160


def test_not_a_number_is_the_same_again():
    given = [X_RD.clone() for _ in range(2)]
    given[0][3, 1] = torch.nan
    chunks(source(given), 0, 20)


def test_places_may_be_called_as_transformer_lens_calls_them():
    given = [{"blocks.3.hook_resid_pre": x_BD, "other": x_BD} for x_BD in parts()]
    assert source(given, ["resid_pre.3"]).widths == {"resid_pre.3": 3}
    with pytest.raises(UserError, match=r"has no resid_pre\.4; it has resid_pre\.3, other"):
        source(given, ["resid_pre.4"])
