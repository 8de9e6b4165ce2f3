"""Activations on disk: the stream's rows in the stream's order, harvested once and memory-mapped.

    STORE/manifest.json               what was harvested, and every shard's rows and SHA-256
    STORE/shard-000000.safetensors    one tensor a hook [rows, D]; token_ids [rows] int32, positions [rows] int32

Reading batch s in the first epoch gives the rows that the stream would give, so that a float32 store trains to the
same bits; bfloat16, the default, rounds each activation. In later epochs the shards, and the rows within each, are
permuted by generators seeded from (seed, epoch, shard): batch s stays a pure function of s.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
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
        self._verified: set[int] = set()
        self._shard: tuple[int, int, Batch] | None = None

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches number first … last - 1, in float32."""
        for step in range(first, last):
            yield self._rows(step * self.batch_tokens, (step + 1) * self.batch_tokens)

    def head(self) -> Batch:
        """The rows of the first chunk that was harvested, as many of them as are there."""
        rows = min(self.rows, self.manifest["chunk_sequences"] * self.manifest["sequence_length"])
        return self._rows(0, rows)

    def _rows(self, first: int, last: int) -> Batch:
        shards = len(self.manifest["shards"])
        joined = gather(lambda place: self._read(*divmod(place, shards)), self.shard_rows, first, last)
        return Batch(
            {hook: x.float() for hook, x in joined.activations.items()},
            joined.token_ids_B.long(),
            joined.positions_B.long(),
        )

    def _read(self, epoch: int, place: int) -> Batch:
        """The shard at a place of an epoch's order, its rows permuted in every epoch but the first."""
        if self._shard is not None and self._shard[:2] == (epoch, place):
            return self._shard[2]
        seed, number = self.manifest["seed"], place
        if epoch:
            order = np.random.default_rng([seed, _SHARDS, epoch]).permutation(len(self.manifest["shards"]))
            number = int(order[place])
        shard = self.manifest["shards"][number]
        path = self.folder / shard["file"]
        if number not in self._verified:  # once a process: training is much slower than the checksum
            if sha256(path) != shard["sha256"]:
                raise UserError(f"{path} is damaged: its checksum differs; harvest again into an empty folder")
            self._verified.add(number)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in (*self.hooks, "token_ids", "positions")}
        except safetensors.SafetensorError as error:  # its checksum holds: it was written so
            raise UserError(f"{path} is damaged: {error}; harvest again into an empty folder") from None
        if epoch:
            rows = torch.from_numpy(np.random.default_rng([seed, _ROWS, epoch, number]).permutation(self.shard_rows))
            tensors = {name: t[rows] for name, t in tensors.items()}
        batch = Batch({hook: tensors[hook] for hook in self.hooks}, tensors["token_ids"], tensors["positions"])
        self._shard = (epoch, place, batch)
        return batch
