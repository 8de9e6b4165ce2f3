"""Documents into rows of T tokens: a BOS, then the next T - 1 tokens of the documents one behind the other.

The BOS is left out where a dictionary is read that was trained without one; rows then hold T tokens of the documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix.corpus.encode import Piece
from unmix.errors import UserError


@dataclass
class Count:
    """What was read of one source."""

    source: str
    share: float
    """Of all rows, as the weights ask."""
    documents: int = 0
    tokens: int = 0
    """Those of the documents; what does not fill a row is among them."""
    bytes: int = 0
    rows: int = 0
    """Those that are kept."""


class Rows(NamedTuple):
    """n rows, n ≥ 1."""

    ids_nT: NDArray[np.uint32]
    kept_nT: NDArray[np.bool_] | None
    """Which tokens become activations; None: all of them."""


def counted(pieces: Iterator[Piece], count: Count) -> Iterator[Piece]:
    """The same documents, each counted as it is drawn."""
    for piece in pieces:
        count.documents += 1
        count.tokens += len(piece.ids)
        count.bytes += piece.bytes
        yield piece


def turns(shares: Sequence[float]) -> Iterator[int]:
    """Which source each row is of, without end: always that which has the fewest rows for its share, with this one.

    So n rows have n · share of each source, to one row.
    """
    taken = [0] * len(shares)
    while True:
        at = min(range(len(shares)), key=lambda i: (taken[i] + 1) / shares[i])
        taken[at] += 1
        yield at


def interleaved(
    sources: Sequence[Iterator[Rows]], counts: Sequence[Count], say: Callable[[str], None]
) -> Iterator[Rows]:
    """The rows of the sources in `turns`; each row is of one source, so that none of its documents is torn by another.

    Where a source has no row left when it is its turn, all end, so that the shares hold; that is said.
    """
    if len(sources) == 1:
        for block in sources[0]:
            counts[0].rows += len(block.ids_nT)
            yield block
        return
    single, T = [_one_by_one(source) for source in sources], 0
    for at in turns([count.share for count in counts]):
        row = next(single[at], None)
        if row is None:
            break
        counts[at].rows += 1
        T = row.ids_nT.shape[1]
        yield row
    say(
        f"{counts[at].source} ends after {counts[at].rows * T:,} tokens, and the corpus with it, so that the weights "
        "hold; give it a lower weight to read more of the others"
    )


def _one_by_one(blocks: Iterator[Rows]) -> Iterator[Rows]:
    for ids_nT, kept_nT in blocks:
        for n in range(len(ids_nT)):
            yield Rows(ids_nT[n : n + 1], None if kept_nT is None else kept_nT[n : n + 1])


def rows(pieces: Iterator[Piece], bos_id: int | None, T: int, masked: bool) -> Iterator[Rows]:
    """As many whole rows at a time as the documents drawn so far fill; in a masked corpus, no BOS of a row is kept.

    Without a `bos_id` rows begin with what comes next of the documents.
    """
    lead = 0 if bos_id is None else 1
    pending: list[Piece] = []
    length = 0
    for piece in pieces:
        pending.append(piece)
        length += len(piece.ids)
        n = length // (T - lead)
        if not n:
            continue
        flat, end = np.concatenate([one.ids for one in pending]), n * (T - lead)
        ids_nT = np.full((n, T), bos_id or 0, dtype=np.uint32)
        ids_nT[:, lead:] = flat[:end].reshape(n, T - lead)
        kept_nT = rest = None
        if masked:
            kept = np.concatenate([np.ones(len(one.ids), bool) if one.kept is None else one.kept for one in pending])
            kept_nT = np.zeros((n, T), dtype=bool)
            kept_nT[:, lead:], rest = kept[:end].reshape(n, T - lead), kept[end:]
        pending, length = [Piece(flat[end:], rest, 0)], length - end
        yield Rows(ids_nT, kept_nT)


def first(limit: int | None, blocks: Iterator[Rows]) -> Iterator[Rows]:
    """The first `limit` rows, drawing no more blocks than they need."""
    left = limit
    for block in blocks:
        yield (
            block
            if left is None
            else Rows(block.ids_nT[:left], None if block.kept_nT is None else block.kept_nT[:left])
        )
        if left is not None:
            left -= len(block.ids_nT)
            if left <= 0:
                return


def largest_id(tokenizer: Any) -> int:
    """The largest id there is, which may be far above their count."""
    return int(max(len(tokenizer) - 1, *tokenizer.get_vocab().values()))


def narrow(rows_nT: NDArray[np.uint32], width: int) -> NDArray[Any]:
    """The rows as they are stored, in ids of `width` bytes. Raises `UserError` rather than store another id."""
    stored = rows_nT.astype(f"<u{width}")
    if not np.array_equal(stored, rows_nT):
        raise UserError(
            f"the tokenizer gives the id {rows_nT.max()}, which its vocabulary does not have; mend its tokenizer.json"
        )
    return stored
