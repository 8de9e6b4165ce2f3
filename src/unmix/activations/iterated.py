"""Activations that arrive batch by batch, from a loader or a generator of the user's.

Chunk 0, the first C rows that come, is held out; training reads the chunks behind it, the rows of each in an order that
is seeded by (seed, chunk). What can be iterated over again (a list, a DataLoader, a class with `__iter__`) starts anew
when it ends, and a run on it can be resumed: what was trained on is read once more and passed over. It has to give the
same rows again, which is checked on the first of them. A generator gives its rows once.

A batch may be a pair, its rows and their token ids; rows of `special_ids` are then left out as they come.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.activations import token_ids
from unmix.activations.arrays import NO_POSITION
from unmix.activations.chunked import Chunked
from unmix.activations.stream import Batch
from unmix.errors import UserError

_ROWS = 7  # which permutation a generator is for
_IDS = "token ids"  # stands among the hooks
_READ = 1024  # rows that the fingerprint is of


class Iterated(Chunked):
    """A source of training batches over an iterable of x_BD, of hook -> x_BD, or of (either, ids_B)."""

    size = sys.maxsize
    """How many rows there are is not known."""

    def __init__(
        self,
        given: Iterable[Any],
        hooks: list[str],
        *,
        batch_tokens: int,
        chunk_rows: int,
        seed: int,
        device: torch.device | None = None,
        special_ids: Sequence[int] = (),
    ) -> None:
        self.special_ids = list(special_ids)
        self.given, self.hooks, self.batch_tokens, self.seed = given, hooks, batch_tokens, seed
        self.device = device or torch.device("cpu")
        self.chunk_tokens = chunk_rows
        self._coming: Iterator[Any] = iter(given)
        self.once = self._coming is given
        """Whether it gives its rows once, as a generator does."""
        self._left: dict[str, list[Tensor]] = {hook: [] for hook in [*hooks, _IDS]}
        self._rows_left = self.came = 0
        self._with_ids: bool | None = None
        self._next = 0
        self.held_out_chunk, self._held_out_ids = self._pull()
        self.widths = {hook: int(x_CD.shape[1]) for hook, x_CD in self.held_out_chunk.items()}
        self._chunk: tuple[int, Batch] | None = None

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the first 1,024 rows."""
        digest = hashlib.sha256()
        for hook, x_CD in self.held_out_chunk.items():
            digest.update(f"{hook} {x_CD.shape[1]}".encode())
            digest.update(x_CD[:_READ].numpy().tobytes())
        return digest.hexdigest()[:16]

    def held_out(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """Some thousands of the held-out rows at a time, hook -> x_BD in float32, up to `rows` of them."""
        for start in range(0, min(rows, self.chunk_tokens), 4096):
            end = min(start + 4096, rows)
            yield {hook: x_CD[start:end].to(self.device) for hook, x_CD in self.held_out_chunk.items()}

    def held_out_ids(self, rows: int) -> np.ndarray | None:
        """The tokens of the rows that `held_out` gives, where they came."""
        return None if self._held_out_ids is None else self._held_out_ids[:rows].numpy()

    def read(self, number: int) -> Batch:
        """Chunk `number` of training, in its shuffled order; the last one asked for is kept."""
        if self._chunk is not None and self._chunk[0] == number:
            return self._chunk[1]
        self._chunk = None  # room for the new one
        if number + 1 < self._next:
            self._again("chunks that were read are asked for again")
        while self._next <= number:  # passed over
            self._pull()
        order_C = torch.from_numpy(np.random.default_rng([self.seed, _ROWS, number]).permutation(self.chunk_tokens))
        arrays = {hook: x_CD[order_C] for hook, x_CD in self._pull()[0].items()}
        none_C = torch.full((self.chunk_tokens,), NO_POSITION, dtype=torch.int64)
        ids_C = (number + 1) * self.chunk_tokens + order_C
        self._chunk = (number, Batch(arrays, ids_C, none_C).to(self.device))
        return self._chunk[1]

    def _pull(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """(the next C rows of every hook, in the order in which they came, and their token ids, if they have any)."""
        C = self.chunk_tokens
        while self._rows_left < C:
            self._take_one()
        found = {}
        for hook, parts in self._left.items():
            if parts:
                x_RD = torch.cat(parts) if len(parts) > 1 else parts[0]
                found[hook], self._left[hook] = x_RD[:C], [x_RD[C:]]
        self._rows_left -= C
        self._next += 1
        return found, found.pop(_IDS, None)

    def _take_one(self) -> None:
        """One more batch from the iterable; from its beginning where it has ended."""
        try:
            given = next(self._coming)
        except StopIteration:
            ended = f"the activations ended after {self.came:,} rows"
            if not self.came:
                none = f", as activations.special_ids = {self.special_ids} leaves none" if self._with_ids else ""
                raise UserError(f"{ended}{none}: give an iterable of tensors [tokens, D]") from None
            if self.once:
                raise UserError(
                    f"{ended}, and more are needed ({self.chunk_tokens:,} are held out); give fewer training.steps, a "
                    "smaller activations.chunk_sequences, or what can be iterated over again, as a list or a DataLoader"
                ) from None
            self._coming = iter(self.given)
            given = next(self._coming, None)
            if given is None:
                raise UserError(f"{ended}, and gave none when iterated over again; give fewer training.steps") from None
        given, ids = token_ids.parted(given)
        by_hook = given if isinstance(given, Mapping) else dict.fromkeys(self.hooks[:1], given)
        found: dict[str, Tensor] = {}
        for hook in self.hooks:
            if hook not in by_hook:
                raise UserError(f"a batch of the activations has no {hook}; it has {', '.join(map(str, by_hook))}")
            try:
                x_BD = torch.as_tensor(by_hook[hook]).detach()
            except (TypeError, ValueError, RuntimeError):
                kind = type(by_hook[hook]).__name__
                raise UserError(f"a batch of {hook} is a {kind}; give tensors or arrays [tokens, D]") from None
            if x_BD.ndim != 2 or not x_BD.is_floating_point():
                raise UserError(
                    f"a batch of {hook} is {x_BD.dtype} of shape {tuple(x_BD.shape)}; give floats [tokens, D]"
                )
            found[hook] = x_BD
        rows = {len(x_BD) for x_BD in found.values()}
        if len(rows) != 1:
            raise UserError(
                f"a batch of the activations has {', '.join(map(str, sorted(rows)))} rows; give as many of each"
            )
        self._add(found, ids, rows.pop())
        self.came = max(self.came, self._next * self.chunk_tokens + self._rows_left)

    def _add(self, found: Mapping[str, Tensor], ids: Any, rows: int) -> None:
        """Keep a batch, without what is special."""
        ids_B = None if ids is None else token_ids.checked(ids, rows)
        if self._with_ids not in (None, ids is not None):
            raise UserError("some batches of activations have token ids and some have not; give them with all or none")
        self._with_ids = ids is not None
        kept_B = torch.from_numpy(token_ids.kept(ids_B, self.special_ids, rows))
        for hook, x_BD in found.items():
            self._left[hook].append(x_BD.to("cpu", torch.float32)[kept_B])
        if ids_B is not None:
            self._left[_IDS].append(torch.from_numpy(ids_B)[kept_B])
        self._rows_left += int(kept_B.sum())

    def _again(self, why: str) -> None:
        """Begin at the first row."""
        if self.once:
            raise UserError(
                f"{why}, and a generator gives its rows once; give what can be iterated over again: a list, a "
                "DataLoader, a class with __iter__"
            )
        self._coming = iter(self.given)
        self._left, self._rows_left, self._next = {hook: [] for hook in self._left}, 0, 0
