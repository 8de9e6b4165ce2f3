"""Batches cut out of chunks: batch s is rows s·B … (s + 1)·B of the chunks, one behind the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

from unmix.activations.stream import NO_WIDTHS, Batch, gather, part


class Chunked(ABC):
    """A source of training batches that reads its rows C at a time, in the order of training."""

    batch_tokens: int
    chunk_tokens: int
    target_widths: Mapping[str, int] = NO_WIDTHS

    @abstractmethod
    def read(self, number: int) -> Batch:
        """Chunk `number`; the one that was asked for last is at hand."""

    def head(self) -> Batch:
        """The first chunk that is trained on."""
        return self.read(0)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches number first … last - 1."""
        for step in range(first, last):
            rows = (step * self.batch_tokens, (step + 1) * self.batch_tokens)
            yield gather(lambda number, start, end: part(self.read(number), start, end), self.chunk_tokens, *rows)
