"""Activations on disk: the stream's rows in the stream's order, harvested once and memory-mapped.

    STORE/manifest.json               what was harvested, and every shard's rows and SHA-256
    STORE/shard-000000.safetensors    one tensor a hook [rows, D]; token_ids [rows] int32, positions [rows] int32

Reading batch s in the first epoch gives the rows that the stream would give, so that a float32 store trains to the
same bits; bfloat16, the default, rounds each activation. In later epochs the shards, and the rows within each, are
permuted by generators seeded from (seed, epoch, shard): batch s stays a pure function of s. A batch is gathered from
the mapped shard and made float32, nothing else is copied; checksums are made while the shards before are read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from unmix.activations.stream import Batch, Stream, gather
from unmix.disk import require_room, sha256
from unmix.errors import UserError
from unmix.runlog import write_json
from unmix.tensorfile import save_tensors

FORMAT = 1
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_SHARDS, _ROWS = 3, 4  # which permutation a generator is for
_AHEAD = 2  # shards whose checksums are made while one is read


def held(folder: Path) -> dict[str, Any]:
    """The manifest of the harvest in a folder; empty if there is none."""
    return read_manifest(folder) if (folder / "manifest.json").exists() else {}


def _fixed(fact: Any) -> Any:
    """A fact without what was measured, which may come out otherwise the next time."""
    return {k: v for k, v in fact.items() if k != "bf16_change"} if isinstance(fact, dict) else fact


def harvest(
    stream: Stream,
    folder: Path,
    *,
    tokens: int,
    dtype: str,
    facts: dict[str, Any],
    shard_tokens: int = 65_536,
    progress: Callable[[int], None] = lambda rows: None,
    force: bool = False,
) -> None:
    """Write at least `tokens` rows of the stream; `facts` (model, corpus, hooks …) go into the manifest.

    A harvest that was stopped goes on behind its last whole shard. Raises `UserError` if the folder holds another
    harvest, if an activation is not finite or too large for the dtype, or if the disk has no room, unless `force`.
    """
    manifest_path = folder / "manifest.json"
    description = {"format": FORMAT, "dtype": dtype, "shard_tokens": shard_tokens, "seed": stream.seed, **facts}
    shards: list[dict[str, Any]] = []
    if manifest_path.exists():
        found = read_manifest(folder)
        if different := [k for k, v in description.items() if _fixed(found.get(k)) != _fixed(v)]:
            key = different[0]
            raise UserError(
                f"{folder} holds a harvest with {key} = {found.get(key)!r}, not {description[key]!r}; "
                "give another --out"
            )
        shards = found["shards"]
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a store is a folder; move it away, or give another --out")
    elif folder.exists() and any(path.name != "manifest.json.new" for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no store; give another --out")
    wanted = math.ceil(tokens / shard_tokens)
    if not force:
        a_row = sum(stream.widths.values()) * DTYPES[dtype].itemsize + 8
        left = wanted - len(shards)
        require_room(folder, left * (shard_tokens * a_row + 10_000), f"{left * shard_tokens:,} activations")
    whole = {**description, "widths": stream.widths, "shards": shards}
    if not shards:
        write_json(manifest_path, whole)  # so that a harvest killed in its first shard is known as one
    for number in range(len(shards), wanted):
        batch = stream.rows(number * shard_tokens, (number + 1) * shard_tokens)
        tensors: dict[str, Tensor] = {}
        for hook, x_RD in batch.activations.items():
            if not torch.isfinite(x_RD).all():
                first = number * shard_tokens
                raise UserError(
                    f"the model gives activations at {hook} that are not finite, in rows {first:,} to "
                    f"{first + shard_tokens - 1:,}; choose another hook, or look at the model"
                )
            tensors[hook] = x_RD.to(DTYPES[dtype])
            if not torch.isfinite(tensors[hook]).all():
                raise UserError(f"an activation of {hook} in shard {number} does not fit {dtype}; try --dtype float32")
        tensors["token_ids"] = batch.token_ids_B.to(torch.int32)
        tensors["positions"] = batch.positions_B.to(torch.int32)
        path = folder / f"shard-{number:06d}.safetensors"
        save_tensors(path, tensors)
        shards.append({"file": path.name, "rows": shard_tokens, "sha256": sha256(path)})
        write_json(manifest_path, whole)
        progress((number + 1) * shard_tokens)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store. Raises `UserError` if there is none, or if a newer unmix wrote it."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no store: it has no manifest.json; write one with `unmix harvest`") from None
    except ValueError as error:
        raise UserError(f"{folder}/manifest.json is damaged: {error}") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{folder} has format {manifest.get('format')}; this unmix reads {FORMAT}: harvest it again")
    assert isinstance(manifest, dict)
    return manifest


class Store:
    """Batches read from disk, the same `Source` as the stream."""

    def __init__(self, folder: Path, hooks: list[str], *, batch_tokens: int) -> None:
        self.folder, self.hooks, self.batch_tokens = folder, hooks, batch_tokens
        self.manifest = read_manifest(folder)
        if absent := [hook for hook in hooks if hook not in self.manifest["widths"]]:
            have = ", ".join(self.manifest["widths"])
            raise UserError(f"{folder} has no activations of {absent[0]}; it has {have}")
        self.widths = {hook: self.manifest["widths"][hook] for hook in hooks}
        self.shard_rows: int = self.manifest["shard_tokens"]
        self.rows = self.shard_rows * len(self.manifest["shards"])
        if not self.manifest["shards"]:
            raise UserError(f"{folder} has no shard yet; run `unmix harvest` again to go on with it")
        for shard in self.manifest["shards"]:
            if not (folder / shard["file"]).exists():
                raise UserError(f"{folder / shard['file']} is missing; harvest again into an empty folder")
        about = [self.manifest[key] for key in ("dtype", "seed", "shard_tokens", "shards")]
        self.fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        """16 hex digits over what the batches depend on: a store that grew has another one."""
        self._checker = ThreadPoolExecutor(_AHEAD, thread_name_prefix="checksums")
        self._checked: dict[int, Future[str]] = {}
        self._shard: tuple[int, dict[str, Tensor], Tensor | None] | None = None

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches number first … last - 1, in float32."""
        for step in range(first, last):
            yield self._rows(step * self.batch_tokens, (step + 1) * self.batch_tokens)

    def head(self) -> Batch:
        """The rows of the first chunk that was harvested, as many of them as are there."""
        rows = min(self.rows, self.manifest["chunk_sequences"] * self.manifest["sequence_length"])
        return self._rows(0, rows)

    def _rows(self, first: int, last: int) -> Batch:
        return gather(self._rows_of, self.shard_rows, first, last)

    def _rows_of(self, place: int, start: int, end: int) -> Batch:
        """Rows start … end - 1 of the shard at a place of the endless order of shards, in that epoch's order."""
        tensors, order_R = self._open(place)

        def rows(name: str) -> Tensor:
            return tensors[name][start:end] if order_R is None else tensors[name].index_select(0, order_R[start:end])

        return Batch(
            {hook: rows(hook).float() for hook in self.hooks}, rows("token_ids").long(), rows("positions").long()
        )

    def _open(self, place: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """The mapped tensors of a shard, and the order of its rows, which is their own in the first epoch."""
        if self._shard is None or self._shard[0] != place:
            number, epoch = self._number(place), place // len(self.manifest["shards"])
            path = self.folder / self.manifest["shards"][number]["file"]
            for ahead in range(_AHEAD + 1):
                self._checksum(self._number(place + ahead))
            if self._checksum(number).result() != self.manifest["shards"][number]["sha256"]:
                raise UserError(f"{path} is damaged: its checksum differs; harvest again into an empty folder")
            try:
                with safetensors.safe_open(path, framework="pt") as file:
                    tensors = {name: file.get_tensor(name) for name in (*self.hooks, "token_ids", "positions")}
            except safetensors.SafetensorError as error:  # its checksum holds: it was written so
                raise UserError(f"{path} is damaged: {error}; harvest again into an empty folder") from None
            order_R = None
            if epoch:
                generator = np.random.default_rng([self.manifest["seed"], _ROWS, epoch, number])
                order_R = torch.from_numpy(generator.permutation(self.shard_rows))
            self._shard = (place, tensors, order_R)
        return self._shard[1:]

    def _number(self, place: int) -> int:
        """Which shard is at a place: every epoch but the first has an order of its own."""
        epoch, at = divmod(place, len(self.manifest["shards"]))
        if not epoch:
            return at
        generator = np.random.default_rng([self.manifest["seed"], _SHARDS, epoch])
        return int(generator.permutation(len(self.manifest["shards"]))[at])

    def _checksum(self, number: int) -> Future[str]:
        """The SHA-256 of a shard, made once a process and beside what else goes on."""
        if number not in self._checked:
            path = self.folder / self.manifest["shards"][number]["file"]
            self._checked[number] = self._checker.submit(sha256, path)
        return self._checked[number]
