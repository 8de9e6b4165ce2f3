"""Batches of activations from a language model: batch s is a pure function of (corpus, model, hooks, seed, s).

The sequences of the corpus, permuted anew each epoch, are read in chunks of C. A chunk's C·T tokens are run through
the model and permuted by a generator seeded from (seed, chunk). Batch s is rows s·B … s·B + B of the concatenated
chunks. Resuming therefore needs the number s and nothing else: no buffer is saved, none is lost.

Where some tokens of the corpus are not to become activations (messages of other roles), the model reads them and their
rows are left out: a chunk then has as many rows as it has tokens that are kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

_ORDER, _ROWS = 1, 2  # which permutation a generator is for
_FORWARD_TOKENS = 2048  # tokens a forward pass: long enough for the matrix products, short enough for the cache
_FORWARD_TOKENS_ELSEWHERE = 16_384  # on a device that takes longer to be told what to do than to do it


class Pair(NamedTuple):
    """What a dictionary reads of some tokens, and what it is to give."""

    x_BD: Tensor
    y_BE: Tensor
    """The very tensor x_BD where a dictionary is to give its input back."""

    @property
    def same(self) -> bool:
        """Whether y is x."""
        return self.y_BE is self.x_BD

    def of(self, x_BD: Tensor, y_BE: Callable[[], Tensor]) -> Pair:
        """Made of this one: x_BD is y too where it was, and only else is y_BE asked for."""
        return Pair(x_BD, x_BD if self.same else y_BE())


NO_WIDTHS: Mapping[str, int] = MappingProxyType({})
NO_TARGETS: Mapping[str, Tensor] = MappingProxyType({})


class Batch(NamedTuple):
    """One batch of B tokens."""

    activations: dict[str, Tensor]
    """hook -> x_BD, float32."""
    token_ids_B: Tensor
    """int64."""
    positions_B: Tensor
    """Place of the token in its sequence, int64; 0 is the BOS."""
    targets: Mapping[str, Tensor] = NO_TARGETS
    """hook -> y_BE, float32, of the hooks whose y is not x."""

    def pair(self, hook: str) -> Pair:
        """x and y of a hook."""
        x_BD = self.activations[hook]
        return Pair(x_BD, self.targets.get(hook, x_BD))

    def map(self, tokens: Callable[[Tensor], Tensor]) -> Batch:
        """The same done to every tensor."""
        return Batch(
            {hook: tokens(x_BD) for hook, x_BD in self.activations.items()},
            tokens(self.token_ids_B),
            tokens(self.positions_B),
            {hook: tokens(y_BE) for hook, y_BE in self.targets.items()},
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self.map(lambda tensor: tensor.to(device))


class Source(Protocol):
    """What a sweep trains on: the stream below, or the store."""

    widths: dict[str, int]
    """hook -> D."""
    target_widths: Mapping[str, int]
    """hook -> E, of the hooks whose y is not x."""
    batch_tokens: int
    size: int
    """Activations that there are; a run that reads more of them reads them again, in another order."""
    chunk_tokens: int
    """Tokens that are made ready at once: the batch that first needs one of them is slow, the others are not."""

    def head(self) -> Batch:
        """The first chunk: what a run measures norms on before it begins."""

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches number first … last - 1."""


class ReadsActivations(Protocol):
    """The part of a language model that the stream needs."""

    def activations(self, ids_NT: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]: ...
    def hook_widths(self, hooks: Sequence[str]) -> dict[str, int]: ...


class Stream:
    """Batches made as they are asked for; they lie on `device`."""

    target_widths = NO_WIDTHS

    def __init__(
        self,
        model: ReadsActivations,
        ids_NT: np.ndarray,
        hooks: Sequence[str],
        *,
        batch_tokens: int,
        chunk_sequences: int,
        seed: int,
        device: torch.device | None = None,
        kept_NT: np.ndarray | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        tokens = _FORWARD_TOKENS if self.device.type == "cpu" else _FORWARD_TOKENS_ELSEWHERE
        self._per_pass = max(1, tokens // ids_NT.shape[1])
        self.model, self.ids_NT, self.hooks, self.kept_NT = model, ids_NT, list(hooks), kept_NT
        self.batch_tokens, self.chunk_sequences, self.seed = batch_tokens, chunk_sequences, seed
        self.chunk_tokens = chunk_sequences * ids_NT.shape[1]
        self.size = int(ids_NT.size)
        self.widths = model.hook_widths(hooks)
        if kept_NT is not None:
            self._kept_N = kept_NT.sum(1, dtype=np.int64)
            self.size = int(self._kept_N.sum())
            self.chunk_tokens = max(1, self.chunk_tokens * self.size // ids_NT.size)
        self._ends: list[int] = []  # of a masked corpus: rows in chunks 0 … n, as far as they were counted
        self._chunk: tuple[int, Batch] | None = None
        self._epoch: tuple[int, np.ndarray] | None = None

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches number first … last - 1."""
        for step in range(first, last):
            yield self.rows(step * self.batch_tokens, (step + 1) * self.batch_tokens)

    def rows(self, first: int, last: int) -> Batch:
        """Rows first … last - 1 of the concatenated chunks."""
        if self.kept_NT is not None:
            return self._kept_rows(first, last)
        chunk_rows = self.chunk_sequences * self.ids_NT.shape[1]
        return gather(lambda number, start, end: part(self.chunk(number), start, end), chunk_rows, first, last)

    def head(self) -> Batch:
        """Chunk 0, which training reads next; of a masked corpus as many rows, as a store of it has them."""
        return self.chunk(0) if self.kept_NT is None else self.rows(0, self.chunk_sequences * self.ids_NT.shape[1])

    def chunk(self, number: int) -> Batch:
        """Chunk `number` with its rows in their shuffled order; the last one asked for is kept."""
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = None  # room for the new one
            self._chunk = (number, self._harvest(number))
        return self._chunk[1]

    def _harvest(self, number: int) -> Batch:
        c, t = self.chunk_sequences, self.ids_NT.shape[1]
        sequences = [self._sequence(number * c + i) for i in range(c)]
        ids_CT = torch.from_numpy(np.stack([self.ids_NT[n] for n in sequences]).astype(np.int64))
        order = torch.from_numpy(np.random.default_rng([self.seed, _ROWS, number]).permutation(c * t))
        kept = None
        if self.kept_NT is not None:
            kept = torch.from_numpy(self.kept_NT[sequences].astype(bool).ravel())
            order = order[kept[order]]
        destination = torch.empty(c * t, dtype=torch.int64)
        destination[order] = torch.arange(len(order))  # row r of the chunk is written where the shuffle wants it
        destination = destination.to(self.device)
        arrays = {hook: torch.empty(len(order), width, device=self.device) for hook, width in self.widths.items()}
        start = 0
        while start < c:
            end = min(c, start + self._per_pass)
            try:
                found = self.model.activations(ids_CT[start:end], self.hooks)
            except torch.cuda.OutOfMemoryError:
                if end - start == 1:
                    raise
                self._per_pass = (end - start) // 2  # from here on
                torch.cuda.empty_cache()
                continue
            at = slice(start * t, end * t)
            rows = destination[at] if kept is None else destination[at][kept[at].to(self.device)]
            for hook, x_NTD in found.items():
                x_RD = x_NTD.flatten(0, 1) if kept is None else x_NTD.flatten(0, 1)[kept[at].to(x_NTD.device)]
                arrays[hook][rows] = x_RD.to(self.device, torch.float32)
            start = end
        positions = torch.arange(t).repeat(c)
        return Batch(arrays, ids_CT.flatten()[order], positions[order]).to(self.device)

    def _kept_rows(self, first: int, last: int) -> Batch:
        """`rows`, of chunks that differ in length."""
        parts, row, number = [], first, 0
        while row < last:
            number = bisect_right(self._ends, row, number)
            while number >= len(self._ends):
                self._count_chunk()
                number = bisect_right(self._ends, row, number)
            before, end = self._ends[number - 1] if number else 0, min(last, self._ends[number])
            parts.append(part(self.chunk(number), row - before, end - before))
            row = end
        return joined(parts)

    def _count_chunk(self) -> None:
        """The rows of the first chunk that is not counted yet."""
        start = len(self._ends) * self.chunk_sequences
        rows = sum(int(self._kept_N[self._sequence(start + i)]) for i in range(self.chunk_sequences))
        self._ends.append((self._ends[-1] if self._ends else 0) + rows)

    def _sequence(self, number: int) -> int:
        """Which row of ids_NT sequence `number` of the endless corpus is: every epoch is a permutation of its own."""
        epoch, at = divmod(number, len(self.ids_NT))
        if self._epoch is None or self._epoch[0] != epoch:
            generator = np.random.default_rng([self.seed, _ORDER, epoch])
            self._epoch = (epoch, generator.permutation(len(self.ids_NT)))
        return int(self._epoch[1][at])


def gather(rows_of: Callable[[int, int, int], Batch], piece_rows: int, first: int, last: int) -> Batch:
    """Rows first … last - 1 of pieces 0, 1, 2 … of `piece_rows` rows each, laid end to end.

    `rows_of(number, start, end)` gives rows start … end - 1 of one piece.
    """
    parts, row = [], first
    while row < last:
        number, at = divmod(row, piece_rows)
        end = min(piece_rows, at + last - row)
        parts.append(rows_of(number, at, end))
        row += end - at
    return joined(parts)


def joined(parts: Sequence[Batch]) -> Batch:
    """One batch of several, in their order."""
    if len(parts) == 1:
        return parts[0]
    return Batch(
        {hook: torch.cat([p.activations[hook] for p in parts]) for hook in parts[0].activations},
        torch.cat([p.token_ids_B for p in parts]),
        torch.cat([p.positions_B for p in parts]),
        {hook: torch.cat([p.targets[hook] for p in parts]) for hook in parts[0].targets},
    )


def part(batch: Batch, start: int, end: int) -> Batch:
    """Tokens start … end - 1."""
    return batch.map(lambda tensor: tensor[start:end])
