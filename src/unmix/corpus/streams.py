"""One long stream of token ids, cut into its documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from unmix.corpus.content import Ids

_BLOCK = 2**20
_LONGEST = 2**14
"""Ids of a document: a stream without separators is cut here, or all of it would be trained on, or all held out."""


class Marks(NamedTuple):
    """Ids that stand where documents begin and end; -1 where a tokenizer is not known."""

    bos: int
    separator: int


NO_MARKS = Marks(-1, -1)


def cut(ids: Ids, marks: Marks) -> Iterator[Ids]:
    """The documents of a stream, each with its separator; what is no stream is one document already.

    A document ends behind a separator, and before a BOS that no separator stands before.
    """
    if not ids.stream:
        yield ids
        return
    held, at = np.zeros(0, ids.ids.dtype), 0
    while at < len(ids.ids):
        block = np.asarray(ids.ids[at : at + _BLOCK])
        follows = np.asarray(ids.ids[at + 1 : at + 1 + _BLOCK])
        ends = block == marks.separator
        if marks.bos != marks.separator:
            ends[: len(follows)] |= (follows == marks.bos) & ~ends[: len(follows)]
        last = 0
        for end in (np.flatnonzero(ends) + 1).tolist():
            yield from _pieces(np.concatenate([held, block[last:end]]), at + end, ids.where)
            held, last = held[:0], end
        held = np.concatenate([held, block[last:]])
        at += len(block)
        while len(held) > _LONGEST:
            yield Ids(
                held[:_LONGEST], f"{ids.where}, before id {at - len(held) + _LONGEST:,}", of_stream=True, ended=False
            )
            held = held[_LONGEST:]
    if len(held):
        yield Ids(held, f"{ids.where}, at its end", of_stream=True)


def _pieces(document: np.ndarray, end: int, where: str) -> Iterator[Ids]:
    """A document in pieces of `_LONGEST`, of which only the last ends it."""
    for start in range(0, len(document), _LONGEST):
        last = start + _LONGEST >= len(document)
        piece = document[start : start + _LONGEST]
        yield Ids(piece, f"{where}, before id {end:,}", of_stream=True, ended=last)
