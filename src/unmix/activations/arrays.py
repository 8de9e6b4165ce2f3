"""Activations that somebody has already: tensors, numpy arrays, memory maps, `.npy` and safetensors files.

A tenth of the rows (`held_out`) is kept out of training, in blocks of neighbours: rows that stand side by side are
often of one text, and a row whose neighbours were trained on is hardly held out. The others are read in a new order
each epoch: chunk c is rows c·C … (c + 1)·C of a permutation seeded by (seed, epoch), and batch s is a pure function of
(rows, seed, s), as it is for the stream of a language model. Where a dictionary is to give something else than it
reads, y stands beside x, row by row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from unmix.activations import token_ids
from unmix.activations.chunked import Chunked
from unmix.activations.stream import Batch
from unmix.errors import UserError
from unmix.hooknames import canonical

SUFFIXES = (".npy", ".safetensors")
_ORDER, _HELD_OUT = 5, 6  # which permutation a generator is for
_BLOCK = 1024  # rows that are held out together, of many
_LEAST_BLOCKS = 64  # of few
_READ = 1024  # rows that the fingerprint is of
NO_POSITION = -1


class Arrays(Chunked):
    """A source of training batches over rows in memory or in files: every hook's x_RD, row r of one token in all.

    With `targets`, every hook's y_RE, what is to be given for x_RD; else that is x_RD itself. With `ids_R`, the token
    of each row, rows of `special_ids` are left out.

    Raises `UserError` for what is no rows of real numbers, for arrays that differ in their number of rows, and for too
    few of them.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        *,
        batch_tokens: int,
        chunk_rows: int,
        held_out: float,
        seed: int,
        device: torch.device | None = None,
        ids_R: Any = None,
        special_ids: Sequence[int] = (),
        targets: Mapping[str, Any] | None = None,
    ) -> None:
        self.arrays = {hook: _checked(hook, x_RD) for hook, x_RD in arrays.items()}
        self.targets = {hook: _checked(f"targets of {hook}", y_RE) for hook, y_RE in (targets or {}).items()}
        self.widths, self.target_widths = _widths(self.arrays), _widths(self.targets)
        counts = {hook: len(x_RD) for hook, x_RD in self.arrays.items()}
        counts |= {f"the targets of {hook}": len(y_RE) for hook, y_RE in self.targets.items()}
        if len(set(counts.values())) != 1:
            said = ", ".join(f"{n:,} of {hook}" for hook, n in counts.items())
            both = " and its targets" if self.targets else ""
            raise UserError(f"every hook{both} needs the same rows, one a token; there are {said}")
        self.rows = next(iter(counts.values()))
        self.batch_tokens, self.seed, self.device = batch_tokens, seed, device or torch.device("cpu")
        self.ids_R = None if ids_R is None else token_ids.checked(ids_R, self.rows)
        kept_R = token_ids.kept(self.ids_R, special_ids, self.rows)
        self.left_out = int((~kept_R).sum())
        self.train_R, self.held_out_R = (rows[kept_R[rows]] for rows in split(self.rows, held_out, seed))
        if not (len(self.train_R) and len(self.held_out_R)):
            raise UserError(
                f"activations.special_ids = {list(special_ids)} leaves too few of {self.rows:,} activations"
            )
        self.size = len(self.train_R)
        self.chunk_tokens = min(chunk_rows, self.size)
        self._chunk: tuple[int, Batch] | None = None
        self._epoch: tuple[int, np.ndarray] | None = None

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the shapes, and up to 1,024 rows that are spread evenly over each array; token ids."""
        digest = hashlib.sha256()
        some_R = np.linspace(0, self.rows - 1, min(self.rows, _READ)).astype(np.int64)
        named_targets = {f"targets of {hook}": y_RE for hook, y_RE in self.targets.items()}
        for hook, x_RD in {**self.arrays, **named_targets}.items():
            digest.update(f"{hook} {tuple(x_RD.shape)}".encode())
            digest.update(_take(x_RD, some_R).numpy().tobytes())
        if self.ids_R is not None:
            digest.update(self.ids_R.tobytes())
        return digest.hexdigest()[:16]

    def held_out(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """Some thousands of the held-out rows at a time, hook -> x_BD in float32, up to `rows` of them."""
        return self._held_out(self.arrays, rows)

    def held_out_targets(self, rows: int) -> Iterator[dict[str, Tensor]]:
        """The same of the targets, hook -> y_BE; of hooks whose y is not x."""
        return self._held_out(self.targets, rows)

    def _held_out(self, arrays: Mapping[str, Any], rows: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, min(rows, len(self.held_out_R)), 4096):
            some_B = self.held_out_R[start : min(start + 4096, rows)]
            yield {hook: _take(x_RD, some_B).to(self.device) for hook, x_RD in arrays.items()}

    def held_out_ids(self, rows: int) -> np.ndarray | None:
        """The tokens of the rows that `held_out` gives, where they are known."""
        return None if self.ids_R is None else self.ids_R[self.held_out_R[:rows]]

    def read(self, number: int) -> Batch:
        """Chunk `number`; the last one asked for is kept."""
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = None  # room for the new one
            C = self.chunk_tokens
            rows_C = self._rows(number * C, (number + 1) * C)
            arrays = {hook: _take(x_RD, rows_C) for hook, x_RD in self.arrays.items()}
            targets = {hook: _take(y_RE, rows_C) for hook, y_RE in self.targets.items()}
            none_C = torch.full((C,), NO_POSITION, dtype=torch.int64)
            self._chunk = (number, Batch(arrays, torch.from_numpy(rows_C), none_C, targets).to(self.device))
        return self._chunk[1]

    def _rows(self, first: int, last: int) -> np.ndarray:
        """Which rows are number first … last - 1 of endless epochs, each a permutation of its own."""
        parts = []
        while first < last:
            epoch, at = divmod(first, self.size)
            end = min(self.size, at + last - first)
            if self._epoch is None or self._epoch[0] != epoch:
                self._epoch = (epoch, np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.train_R))
            parts.append(self._epoch[1][at:end])
            first += end - at
        return np.concatenate(parts)


def split(rows: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows to train on, held-out rows), both rising: whole blocks of neighbours, drawn by the seed.

    Raises `UserError` if there are too few rows for both.
    """
    block = max(1, min(_BLOCK, rows // _LEAST_BLOCKS))
    blocks = -(-rows // block)
    out = max(1, round(held_out * blocks))
    if out >= blocks:
        raise too_few(rows)
    chosen = np.random.default_rng([seed, _HELD_OUT]).permutation(blocks)[:out]
    held_R = np.isin(np.arange(rows) // block, chosen)
    return np.flatnonzero(~held_R), np.flatnonzero(held_R)


def too_few(rows: int) -> UserError:
    """What is said of a single row."""
    return UserError(f"{rows:,} activations are too few to train on and to hold some out; give more")


def named(given: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same by the names of a recipe's hooks: what is called `blocks.8.hook_resid_pre` as `resid_pre.8`.

    Raises `UserError` if two are of one place.
    """
    found: dict[Any, Any] = {}
    for name, rows in given.items():
        hook = canonical(name) if isinstance(name, str) else name
        if hook in found:
            raise UserError(f"the activations of {hook} are given twice, once as {name}; give them once")
        found[hook] = rows
    return found


def open_files(path: Path, hooks: list[str], key: str = "activations.rows") -> dict[str, Any]:
    """hook -> rows in a `.npy` file (one hook), or in a safetensors file, whose tensors are named by the hooks.

    A safetensors file with one tensor may call it as it likes, one with several as TransformerLens calls the places.
    Nothing is read yet: the files are mapped. Raises `UserError` if there is no such file, or if it is damaged or lacks
    a hook; `key` of the recipe names it.
    """
    if not path.exists():
        raise UserError(f"there is no file {path}; {key} takes a {' or '.join(SUFFIXES)} file [rows, D]")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no {' or '.join(SUFFIXES)} file; save its rows with numpy.save or safetensors")
    try:
        if path.suffix == ".npy":
            if len(hooks) != 1:
                raise UserError(f"{path} holds the rows of one hook; give one --hook, or a safetensors file of several")
            return {hooks[0]: np.load(path, mmap_mode="r", allow_pickle=False)}
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) == 1 and len(hooks) == 1:
                return {hooks[0]: file.get_tensor(names[0])}
            name_of = named({name: name for name in names})
            if absent := [hook for hook in hooks if hook not in name_of]:
                raise UserError(f"{path} has no tensor {absent[0]}; it has {', '.join(names)} (--hook)")
            return {hook: file.get_tensor(name_of[hook]) for hook in hooks}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def is_array(given: Any) -> bool:
    """Whether it has rows that can be taken in any order: a tensor, a numpy array, a memory map."""
    return isinstance(given, Tensor | np.ndarray)


def _widths(arrays: Mapping[str, Any]) -> dict[str, int]:
    return {hook: int(x_RD.shape[1]) for hook, x_RD in arrays.items()}


def _checked(hook: str, x_RD: Any) -> Any:
    """Raises `UserError` if these are no rows of real numbers."""
    if not is_array(x_RD):
        raise UserError(f"{hook}: {type(x_RD).__name__} is no tensor and no numpy array; give rows [tokens, D]")
    if len(x_RD.shape) != 2:
        raise UserError(f"{hook}: the shape {tuple(x_RD.shape)} is not [tokens, D]; flatten what stands before D")
    real = x_RD.dtype.is_floating_point if isinstance(x_RD, Tensor) else x_RD.dtype.kind == "f"
    if not real:
        raise UserError(f"{hook}: activations of dtype {x_RD.dtype}; give float32, float16, bfloat16 or float64")
    if not len(x_RD):
        raise UserError(f"{hook}: there are no rows; give [tokens, D] with at least 2 tokens")
    return x_RD.detach() if isinstance(x_RD, Tensor) else x_RD


def _take(x_RD: Any, rows_C: np.ndarray) -> Tensor:
    """These rows in float32, in this order; read from a file in the order in which they lie there."""
    order_C = np.argsort(rows_C, kind="stable")
    sorted_C = rows_C[order_C]
    if isinstance(x_RD, Tensor):
        found_CD = x_RD[torch.from_numpy(sorted_C).to(x_RD.device)].to("cpu", torch.float32)
    else:
        found_CD = torch.from_numpy(np.asarray(x_RD[sorted_C], dtype=np.float32))
    taken_CD = torch.empty_like(found_CD)
    taken_CD[torch.from_numpy(order_C)] = found_CD
    return taken_CD
