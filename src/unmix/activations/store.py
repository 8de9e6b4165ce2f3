"""Activations on disk: the stream's rows in the stream's order, harvested once and memory-mapped.

    STORE/manifest.json               what was harvested, and every shard's rows and SHA-256
    STORE/shard-000000.safetensors    one tensor a hook [rows, D]; token_ids [rows] int32, positions [rows] int32

Reading batch s in the first epoch gives the rows that the stream would give, so that a float32 store trains to the
same bits; bfloat16, the default, rounds each activation. In later epochs the shards, and the rows within each, are
permuted by generators seeded from (seed, epoch, shard): batch s stays a pure function of s. Batches are read from the
mapped shard, shuffled bfloat16 gathered and widened in one pass. While one shard is read, threads check and map the
next ones, touch every page of them in order, and shuffle.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from unmix.activations.stream import NO_WIDTHS, Batch, Stream, gather
from unmix.config.corpus import as_written_now
from unmix.disk import require_room, sha256
from unmix.errors import UserError
from unmix.kernels.bfloat16 import rows_as_float32
from unmix.runlog import write_json
from unmix.tensorfile import save_tensors

FORMAT = 1
SHARD_TOKENS = 65_536
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_SHARDS, _ROWS = 3, 4  # which permutation a generator is for
_MEASURED = ("bf16_change", "loss", "rates", "modules")  # keys of `model`; modules follow from the others
_HARMLESS = (".lock", "manifest.json.new")  # what a harvest that was killed at once may leave
_AHEAD = 2  # shards that are made ready while one is read
_KEPT_BYTES = 4 * 2**30  # of shards that stay mapped; the system takes their memory back when it needs it


def held(folder: Path) -> dict[str, Any]:
    """The manifest of the harvest in a folder; empty if there is none."""
    return read_manifest(folder) if (folder / "manifest.json").exists() else {}


def rows_written(tokens: int, shard_tokens: int = SHARD_TOKENS) -> int:
    """Rows of the shards that hold so many tokens."""
    return -(-tokens // shard_tokens) * shard_tokens


def _fixed(fact: Any) -> Any:
    """A fact without what was measured, which may come out otherwise the next time, or is not in older harvests."""
    return {k: v for k, v in fact.items() if k not in _MEASURED} if isinstance(fact, dict) else fact


def harvest(
    stream: Stream,
    folder: Path,
    *,
    tokens: int,
    dtype: str,
    facts: dict[str, Any],
    shard_tokens: int = SHARD_TOKENS,
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
    elif folder.exists() and any(path.name not in _HARMLESS for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no store; give another --out")
    wanted = rows_written(tokens, shard_tokens) // shard_tokens
    if not force:
        a_row = sum(stream.widths.values()) * DTYPES[dtype].itemsize + 8
        left = wanted - len(shards)
        require_room(folder, left * (shard_tokens * a_row + 10_000), f"{left * shard_tokens:,} activations")
    whole = {**description, "widths": stream.widths, "distinct_rows": 0, "shards": shards}
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
        whole["distinct_rows"] = min(len(shards) * shard_tokens, stream.size)
        write_json(manifest_path, whole)
        progress((number + 1) * shard_tokens)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store. Raises `UserError` if there is none, or if a newer unmix wrote it."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no store: it has no manifest.json; write one with `unmix harvest`") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder}/manifest.json is damaged: {error}") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{folder}/manifest.json is damaged: it holds no object")
    if manifest.get("format") != FORMAT:
        raise UserError(f"{folder} has format {manifest.get('format')}; this unmix reads {FORMAT}: harvest it again")
    recipe = manifest.get("recipe")
    if isinstance(recipe, dict) and "corpus" in recipe:
        try:
            manifest["recipe"] = {**recipe, "corpus": as_written_now(recipe["corpus"])}
        except ValueError as error:
            raise UserError(f"{folder}/manifest.json is damaged at recipe.corpus: {error}") from None
    return manifest


class Store:
    """Batches read from disk, the same `Source` as the stream."""

    target_widths = NO_WIDTHS

    def __init__(
        self, folder: Path, hooks: list[str], *, batch_tokens: int, device: torch.device | None = None
    ) -> None:
        self.device = device or torch.device("cpu")
        self.folder, self.hooks, self.batch_tokens = folder, hooks, batch_tokens
        self.manifest = read_manifest(folder)
        if absent := [hook for hook in hooks if hook not in self.manifest["widths"]]:
            have = ", ".join(self.manifest["widths"])
            raise UserError(f"{folder} has no activations of {absent[0]}; it has {have}")
        self.widths = {hook: self.manifest["widths"][hook] for hook in hooks}
        self.shard_rows: int = self.manifest["shard_tokens"]
        self.rows = self.shard_rows * len(self.manifest["shards"])
        self.size: int = min(self.rows, self.manifest.get("distinct_rows", self.rows))
        """Rows that are not there twice: a harvest may have read its corpus more than once. Older ones do not say."""
        self.chunk_tokens = self.shard_rows
        if not self.manifest["shards"]:
            raise UserError(f"{folder} has no shard yet; run `unmix harvest` again to resume it")
        for shard in self.manifest["shards"]:
            if not (folder / shard["file"]).exists():
                raise UserError(f"{folder / shard['file']} is missing; harvest again into an empty folder")
        about = [self.manifest[key] for key in ("dtype", "seed", "shard_tokens", "shards")]
        self.fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        """16 hex digits over what the batches depend on: a store that grew has another one."""
        size = (folder / self.manifest["shards"][0]["file"]).stat().st_size
        self._kept = max(_AHEAD + 1, _KEPT_BYTES // size)
        self._ahead = ThreadPoolExecutor(_AHEAD, thread_name_prefix="store")
        self._whole: set[int] = set()  # shards whose checksums held
        self._shards: dict[int, Future[dict[str, Tensor]]] = {}  # by number, the one used longest ago first
        self._orders: dict[int, Future[Tensor | None]] = {}  # by place, of the places that come next
        self._opened: tuple[int, dict[str, Tensor], Tensor | None] | None = None

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches number first … last - 1, in float32."""
        for step in range(first, last):
            yield self._rows(step * self.batch_tokens, (step + 1) * self.batch_tokens)

    def head(self) -> Batch:
        """The rows of the first chunk that was harvested, as many of them as are there."""
        rows = min(self.rows, self.manifest["chunk_sequences"] * self.manifest["sequence_length"])
        return self._rows(0, rows)

    def _rows(self, first: int, last: int) -> Batch:
        return gather(self._rows_of, self.shard_rows, first, last).to(self.device)

    def _rows_of(self, place: int, start: int, end: int) -> Batch:
        """Rows start … end - 1 of the shard at a place of the endless order of shards, in that epoch's order."""
        tensors, order_R = self._open(place)
        ids, positions = tensors["token_ids"], tensors["positions"]
        if order_R is None:
            activations = {hook: tensors[hook][start:end].float() for hook in self.hooks}
            return Batch(activations, ids[start:end].long(), positions[start:end].long())
        rows_B = order_R[start:end]
        activations = {hook: rows_as_float32(tensors[hook], rows_B) for hook in self.hooks}
        return Batch(activations, ids.index_select(0, rows_B).long(), positions.index_select(0, rows_B).long())

    def _open(self, place: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """The tensors of the shard at a place, and the order of its rows; those of the places behind it are begun."""
        if self._opened is None or self._opened[0] != place:
            self._orders = {at: order for at, order in self._orders.items() if place <= at <= place + _AHEAD}
            for at in range(place, place + _AHEAD + 1):
                number = self._number(at)
                shard = self._shards.pop(number, None) or self._ahead.submit(self._map, number)
                self._shards[number] = shard
                if at not in self._orders:
                    self._orders[at] = self._ahead.submit(self._order, at)
            for number in list(self._shards)[: -self._kept]:
                del self._shards[number]
            tensors = self._shards[self._number(place)].result()
            self._opened = place, tensors, self._orders.pop(place).result()
        return self._opened[1:]

    def _number(self, place: int) -> int:
        """Which shard is at a place: every epoch but the first has an order of its own."""
        epoch, at = divmod(place, len(self.manifest["shards"]))
        if not epoch:
            return at
        generator = np.random.default_rng([self.manifest["seed"], _SHARDS, epoch])
        return int(generator.permutation(len(self.manifest["shards"]))[at])

    def _order(self, place: int) -> Tensor | None:
        """The order of the rows of the shard at a place; None is their own, that of the first epoch."""
        epoch = place // len(self.manifest["shards"])
        if not epoch:
            return None
        generator = np.random.default_rng([self.manifest["seed"], _ROWS, epoch, self._number(place)])
        return torch.from_numpy(generator.permutation(self.shard_rows))

    def _map(self, number: int) -> dict[str, Tensor]:
        """The mapped tensors of a shard, each page touched, so that no reader waits for it.

        Raises `UserError` if the shard is not what the manifest says; its checksum is made once a process.
        """
        shard = self.manifest["shards"][number]
        path = self.folder / shard["file"]
        if number not in self._whole and sha256(path) != shard["sha256"]:
            raise UserError(f"{path} is damaged: its checksum differs; harvest again into an empty folder")
        self._whole.add(number)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in (*self.hooks, "token_ids", "positions")}
        except safetensors.SafetensorError as error:  # its checksum holds: it was written so
            raise UserError(f"{path} is damaged: {error}; harvest again into an empty folder") from None
        for name, tensor in tensors.items():
            expected = [self.shard_rows, self.widths[name]] if name in self.widths else [self.shard_rows]
            if list(tensor.shape) != expected:
                raise UserError(
                    f"{path} is damaged: {name} has the shape {list(tensor.shape)}, not {expected}; "
                    "harvest again into an empty folder"
                )
            tensor.view(torch.uint8).flatten()[:: mmap.PAGESIZE].sum()
        return tensors
