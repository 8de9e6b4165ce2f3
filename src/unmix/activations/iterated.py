"""Activations that arrive batch by batch, from a loader or a generator of the user's.

The first rows that come are held out: C of them, a chunk; of fewer than 2C rows in all, a tenth (`held_out`). Training
reads chunks of C rows behind them, the rows of each in an order that is seeded by (seed, chunk). What can be iterated
over again (a list, a DataLoader, a class with `__iter__`) starts anew when it ends, and the rows that are held out are
passed over each time. A run on it can be resumed: what was trained on is read once more and passed over. It has to give
the same rows again, in the same order, which is checked on the first of them before training and at every new
beginning. A generator gives its rows once.

A batch may be a pair, its rows and their token ids; rows of `special_ids` are then left out as they come. Targets are
batches of y_BE beside those of x_BD, the same rows in each.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.activations import token_ids
from unmix.activations.arrays import NO_POSITION, named, too_few
from unmix.activations.chunked import Chunked
from unmix.activations.stream import Batch
from unmix.errors import UserError

_ROWS = 7  # which permutation a generator is for
_IDS = "token ids"  # stands among the hooks
_TARGETS = "\n-> y"  # behind the name of a hook: those of its targets, which no hook of several can be called
_READ = 1024  # rows that the fingerprint is of


class Iterated(Chunked):
    """A source of training batches over an iterable of x_BD, of hook -> x_BD, or of (either, ids_B).

    `targets` iterates over y_BE, or hook -> y_BE, in step with it: what is to be given for x_BD.

    Raises `UserError`, when it is made or later, for batches that are no rows of real numbers, for fewer than two rows,
    for a generator that ends too soon, for an iterable that gives other rows when it is iterated over again, and for
    targets that are not as many.
    """

    size = sys.maxsize
    """Rows to train on; how many there are is known once they have ended."""

    def __init__(
        self,
        given: Iterable[Any],
        hooks: list[str],
        *,
        batch_tokens: int,
        chunk_rows: int,
        seed: int,
        held_out: float = 0.1,
        device: torch.device | None = None,
        special_ids: Sequence[int] = (),
        targets: Iterable[Any] | None = None,
    ) -> None:
        self.special_ids, self.targets = list(special_ids), targets
        self.given, self.hooks, self.batch_tokens, self.seed = given, hooks, batch_tokens, seed
        self.device = device or torch.device("cpu")
        self.chunk_tokens = self.held_out_rows = chunk_rows
        self.say: Callable[[str], None] = lambda text: None
        """Hears where the rows ended, and from which step on they are read again."""
        self._open()
        self.once = self._coming is given or (targets is not None and self._beside is targets)
        """Whether it gives its rows once, as a generator does."""
        self._next = 0
        self._with_ids: bool | None = None
        ahead = None if self.once else self._look_ahead()
        whole = not self._fill(2 * chunk_rows)
        if ahead and whole and self._rows_left < len(ahead[hooks[0]]):
            raise self._others()
        self._few = self._hold_out_a_share(held_out) if whole else None
        """How many rows there are, where they are fewer than two chunks."""
        self.held_out_chunk = self._cut(self.held_out_rows)
        self._held_out_ids = self.held_out_chunk.pop(_IDS, None)
        if ahead is not None and self._differ(ahead):
            raise self._others()
        widths = {hook: int(x_CD.shape[1]) for hook, x_CD in self.held_out_chunk.items()}
        self.widths = {hook: widths[hook] for hook in hooks}
        self.target_widths = {hook: widths[hook + _TARGETS] for hook in hooks if targets is not None}
        self._chunk: tuple[int, Batch] | None = None

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the first 1,024 of the rows that are held out; of few rows, over their number too."""
        return _digest(self.held_out_chunk, "" if self._few is None else f"{self._few} rows")

    def held_out(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """Some thousands of the held-out rows at a time, hook -> x_BD in float32, up to `rows` of them."""
        return self._held_out({hook: self.held_out_chunk[hook] for hook in self.hooks}, rows)

    def held_out_targets(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """The same of the targets, hook -> y_BE; of hooks whose y is not x."""
        return self._held_out({hook: self.held_out_chunk[hook + _TARGETS] for hook in self.target_widths}, rows)

    def _held_out(self, arrays: Mapping[str, Tensor], rows: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, min(rows, self.held_out_rows), 4096):
            end = min(start + 4096, rows)
            yield {hook: x_CD[start:end].to(self.device) for hook, x_CD in arrays.items()}

    def held_out_ids(self, rows: int) -> np.ndarray | None:
        """The tokens of the rows that `held_out` gives, where they came."""
        return None if self._held_out_ids is None else self._held_out_ids[:rows].numpy()

    def read(self, number: int) -> Batch:
        """Chunk `number` of training, in its shuffled order; the last one asked for is kept."""
        if self._chunk is not None and self._chunk[0] == number:
            return self._chunk[1]
        self._chunk = None  # room for the new one
        if number < self._next:
            self._again("chunks that were read are asked for again")
        while self._next < number:  # passed over
            self._pull()
        order_C = torch.from_numpy(np.random.default_rng([self.seed, _ROWS, number]).permutation(self.chunk_tokens))
        found = self._pull()
        arrays = {hook: found[hook][order_C] for hook in self.hooks}
        targets = {hook: found[hook + _TARGETS][order_C] for hook in self.target_widths}
        none_C = torch.full((self.chunk_tokens,), NO_POSITION, dtype=torch.int64)
        ids_C = self.held_out_rows + number * self.chunk_tokens + order_C
        self._chunk = (number, Batch(arrays, ids_C, none_C, targets).to(self.device))
        return self._chunk[1]

    def _look_ahead(self) -> dict[str, Tensor]:
        """The first rows, up to 1,024; then it is iterated over again."""
        self._fill(_READ)
        found = self._cut(min(_READ, self._rows_left))
        self._open()
        return found

    def _open(self) -> None:
        """Begin to iterate over it, with nothing taken yet."""
        self._coming: Iterator[Any] = iter(self.given)
        self._beside: Iterator[Any] | None = None if self.targets is None else iter(self.targets)
        self._left, self._rows_left, self._came = self._nothing(), 0, 0

    def _hold_out_a_share(self, held_out: float) -> int:
        """Of fewer rows than two chunks, all of which are here, hold out this share; their number.

        Raises `UserError` if there are not two.
        """
        rows = self._rows_left
        if not rows:
            none = f", as activations.special_ids = {self.special_ids} leaves none" if self._with_ids else ""
            raise UserError(f"the activations ended after 0 rows{none}: give an iterable of tensors [tokens, D]")
        if rows == 1:
            raise too_few(rows)
        self.held_out_rows = min(rows - 1, max(1, round(held_out * rows)))
        self.size = rows - self.held_out_rows
        self.chunk_tokens = min(self.chunk_tokens, self.size)
        return rows

    def _nothing(self) -> dict[str, list[Tensor]]:
        of_targets = [hook + _TARGETS for hook in self.hooks] if self.targets is not None else []
        return {hook: [] for hook in [*self.hooks, *of_targets, _IDS]}

    def _fill(self, rows: int) -> bool:
        """Take batches until so many rows are here; whether they are."""
        while self._rows_left < rows:
            try:
                given = next(self._coming)
            except StopIteration:
                if self._beside is not None and next(self._beside, None) is not None:
                    raise self._uneven("the activations", "their targets go on") from None
                return False
            self._take(given, self._next_targets())
        return True

    def _next_targets(self) -> Any:
        """The batch of targets that stands beside the next batch; None if there are none at all."""
        if self._beside is None:
            return None
        targets = next(self._beside, None)
        if targets is None:
            raise self._uneven("the targets", "the activations go on")
        return targets

    def _uneven(self, ended: str, others: str) -> UserError:
        return UserError(f"{ended} ended after {self._came:,} rows, and {others}; give a batch of targets for each")

    def _cut(self, rows: int) -> dict[str, Tensor]:
        """The next rows of every hook, in the order in which they came, and their token ids, if they have any."""
        found = {}
        for hook, parts in self._left.items():
            taken, rest, wanted = [], [], rows
            for x_RD in parts:
                taken.append(x_RD[:wanted])
                rest.append(x_RD[wanted:])
                wanted -= len(taken[-1])
            if taken:
                found[hook], self._left[hook] = torch.cat(taken), [x_RD for x_RD in rest if len(x_RD)]
        self._rows_left -= rows
        return found

    def _pull(self) -> dict[str, Tensor]:
        """The next chunk of training, unshuffled."""
        while not self._fill(self.chunk_tokens):
            self._end()
            self._begin()
        self._next += 1
        return self._cut(self.chunk_tokens)

    def _end(self) -> None:
        """Count the rows at the first end, and say it. Raises `UserError` if they come once, or were more or fewer."""
        if self.once:
            raise UserError(
                f"the activations ended after {self._came:,} rows, and more are needed ({self.held_out_rows:,} are "
                "held out); give fewer training.steps, a smaller activations.chunk_sequences, or what can be iterated "
                "over again, as a list or a DataLoader"
            )
        rows = self._came - self.held_out_rows
        if self.size == sys.maxsize:
            self.size = rows
            self.say(
                f"the activations ended after {self._came:,} rows: from step {rows // self.batch_tokens:,} on, the "
                f"{rows:,} that are not held out are read again; give more, or fewer steps, if you did not mean that"
            )
        elif rows != self.size:
            raise self._others()

    def _begin(self) -> None:
        """Iterate over it again, and pass over the rows that are held out. Raises `UserError` if they are others."""
        waiting, rows = self._left, self._rows_left
        self._open()
        if not self._fill(self.held_out_rows) or self._differ(self._cut(self.held_out_rows)):
            raise self._others()
        self._left = {hook: [*waiting[hook], *parts] for hook, parts in self._left.items()}
        self._rows_left += rows

    def _differ(self, again: Mapping[str, Tensor]) -> bool:
        """Whether the first rows, read another time, are others than those that are held out."""
        return _digest({hook: x[: self.held_out_rows] for hook, x in again.items()}) != _digest(self.held_out_chunk)

    def _others(self) -> UserError:
        return UserError(
            "the activations are not the same rows in the same order when they are iterated over again, so training "
            "would reach the held-out ones; keep one order (a DataLoader with shuffle=False: rows are shuffled here), "
            "or give iter(…) of them, which is read once"
        )

    def _take(self, given: Any, targets: Any) -> None:
        """Keep one more batch, with its targets if there are any. Raises `UserError` if it is none."""
        given, ids = token_ids.parted(given)
        found = self._by_hook(given)
        if targets is not None:
            found |= {hook + _TARGETS: y_BE for hook, y_BE in self._by_hook(targets, "targets of ").items()}
        rows = {len(x_BD) for x_BD in found.values()}
        if len(rows) != 1:
            both = "" if targets is None else " and of its targets"
            raise UserError(
                f"a batch of the activations{both} has {', '.join(map(str, sorted(rows)))} rows; give as many of each"
            )
        self._add(found, ids, rows.pop())

    def _by_hook(self, given: Any, of: str = "") -> dict[str, Tensor]:
        """hook -> rows, of one batch; `of` says what they are. Raises `UserError` if they are none."""
        by_hook = named(given) if isinstance(given, Mapping) else dict.fromkeys(self.hooks[:1], given)
        found: dict[str, Tensor] = {}
        for hook in self.hooks:
            if hook not in by_hook:
                raise UserError(f"a batch of the {of}activations has no {hook}; it has {', '.join(map(str, by_hook))}")
            try:
                x_BD = torch.as_tensor(_plain(by_hook[hook])).detach()
            except (TypeError, ValueError, RuntimeError):
                kind = type(by_hook[hook]).__name__
                raise UserError(f"a batch of {of}{hook} is a {kind}; give tensors or arrays [tokens, D]") from None
            if x_BD.ndim != 2 or not x_BD.is_floating_point():
                raise UserError(
                    f"a batch of {of}{hook} is {x_BD.dtype} of shape {tuple(x_BD.shape)}; give floats [tokens, D]"
                )
            found[hook] = x_BD
        return found

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
        kept = int(kept_B.sum())
        self._rows_left += kept
        self._came += kept

    def _again(self, why: str) -> None:
        """Go back to the first chunk of training."""
        if self.once:
            raise UserError(
                f"{why}, and a generator gives its rows once; give what can be iterated over again: a list, a "
                "DataLoader, a class with __iter__"
            )
        self._left, self._rows_left, self._next = self._nothing(), 0, 0
        self._begin()


def _plain(given: Any) -> Any:
    """An array as torch takes it: not backwards, and in the machine's order of bytes; anything else as it is."""
    return np.ascontiguousarray(given, given.dtype.newbyteorder("=")) if isinstance(given, np.ndarray) else given


def _digest(arrays: Mapping[str, Tensor], more: str = "") -> str:
    """16 hex digits over the first 1,024 rows of every hook."""
    digest = hashlib.sha256(more.encode())
    for hook, x_CD in arrays.items():
        if hook != _IDS:
            digest.update(f"{hook} {x_CD.shape[1]}".encode())
            digest.update(x_CD[:_READ].numpy().tobytes())
    return digest.hexdigest()[:16]
