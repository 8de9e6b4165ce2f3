"""Reading a store that was just written, beside the checksums and the copying that the machine can do at best.

The first epoch makes the checksum of each shard, so the rate of making them bounds it. Later epochs gather shuffled
rows, which is bounded by gathering as many from a matrix in memory and doing nothing else. Both read bfloat16 from the
mapped file and write float32, and these bytes over seconds compare with copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.activations.store import Store
from unmix.activations.store import harvest as write_store
from unmix.activations.stream import Stream
from unmix.bench.clock import Timers
from unmix.bench.table import aligned
from unmix.config import RunConfig
from unmix.corpus.tokens import Tokens
from unmix.disk import sha256
from unmix.kernels.bfloat16 import rows_as_float32
from unmix.lm.model import LanguageModel
from unmix.training.inputs import store_facts

DTYPE, SHARD_TOKENS, SHARDS = "bfloat16", 65_536, 2


class Again:
    """Gives the activations of one pass for every pass: a store can be filled without waiting for the model."""

    def __init__(self, model: LanguageModel, ids_1T: Tensor, hooks: Sequence[str]) -> None:
        self.widths = model.hook_widths(hooks)
        self.x_1TD = model.activations(ids_1T, hooks)

    def activations(self, ids_NT: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
        """As `LanguageModel.activations`, of the right shape."""
        return {hook: self.x_1TD[hook].expand(len(ids_NT), -1, -1) for hook in hooks}

    def hook_widths(self, hooks: Sequence[str]) -> dict[str, int]:
        """As `LanguageModel.hook_widths`."""
        return {hook: self.widths[hook] for hook in hooks}


def run(
    recipe: RunConfig, model: LanguageModel, corpus: Tokens, folder: Path, tokens: int, repeats: int, force: bool
) -> dict[str, Any]:
    """Write a store and read all its batches: with checksums, as the first time; then shuffled, as in later epochs."""
    act, B = recipe.activations, recipe.training.batch_tokens
    shard = B * max(1, round(min(SHARD_TOKENS, tokens / SHARDS) / B))
    again = Again(model, torch.from_numpy(corpus.ids_NT[:1].astype(np.int64)), act.hooks)
    stream = Stream(again, corpus.ids_NT, act.hooks, batch_tokens=B, chunk_sequences=act.chunk_sequences, seed=act.seed)
    facts = store_facts(recipe, model, corpus)
    write_store(stream, folder, tokens=max(tokens, shard), dtype=DTYPE, facts=facts, shard_tokens=shard, force=force)
    paths = sorted(folder.glob("*.safetensors"))
    matrices = {hook: torch.randn(shard, width).to(getattr(torch, DTYPE)) for hook, width in again.widths.items()}
    order_R = torch.from_numpy(np.random.default_rng(0).permutation(shard))
    for x_RD in matrices.values():
        rows_as_float32(x_RD, order_R[:B])  # so that nothing timed waits for a compiler
    taken: dict[str, list[float]] = {"checksums": [], "first": [], "later": [], "gathered": []}
    rows = moved = 0
    for _ in range(repeats):
        store, timers = Store(folder, act.hooks, batch_tokens=B), Timers()
        rows, batches = store.rows, store.rows // B
        with timers.running("checksums"):
            for path in paths:
                sha256(path)
        for epoch, name in enumerate(("first", "later")):
            moved = 0
            with timers.running(name):
                for batch in store.batches(epoch * batches, (epoch + 1) * batches):
                    moved += sum(t.nbytes for t in (*batch.activations.values(), batch.token_ids_B, batch.positions_B))
        with timers.running("gathered"):
            for _ in paths:
                for rows_B in torch.split(order_R, B):
                    held = [rows_as_float32(x_RD, rows_B) for x_RD in matrices.values()]
        del held  # until the next batch is there, as a training loop does
        for name, seconds in timers.take().items():
            taken[name].append(seconds)
    on_disk = sum(path.stat().st_size for path in paths)
    wide = sum(again.widths.values()) * rows
    bytes_of = {"checksums": on_disk, "first": on_disk + moved, "later": on_disk + moved, "gathered": (2 + 4) * wide}
    readings = {
        name: {
            "seconds": seconds,
            "median_s": median(seconds),
            "tokens_per_s": rows / median(seconds),
            "gb_per_s": bytes_of[name] / median(seconds) / 1e9,
        }
        for name, seconds in taken.items()
    }
    return {
        "dtype": DTYPE,
        "tokens": rows,
        "bytes": on_disk,
        "moved_bytes": on_disk + moved,
        "batch_tokens": B,
        **readings,
    }


def table(found: dict[str, Any], copy_gb_per_s: float) -> str:
    """The same for people."""
    texts = {
        "checksums": "SHA-256 of its files, one after the other",
        "first": "first epoch, with checksums",
        "later": "later epochs, shuffled",
        "gathered": "as many rows gathered from memory, nothing else",
    }
    reads = [["reading a store", "tokens/s", "GB/s"]]
    for name, text in texts.items():
        reads.append([text, f"{found[name]['tokens_per_s']:,.0f}", f"{found[name]['gb_per_s']:,.2f}"])
    reads.append(["copying in memory", "", f"{copy_gb_per_s:,.2f}"])
    about = f"a store of {found['tokens']:,} tokens, {found['bytes'] / 1e6:,.0f} MB in {found['dtype']}, just written"
    return f"{aligned(reads)}\n\n{about}"
