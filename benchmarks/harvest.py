"""Activations after 6 blocks of a model in the shape of GPT-2 small: unmix beside TransformerLens and SAELens.

    python harvest.py

The same weights and tokens; every contender first tries several numbers of sequences a forward pass and keeps its
fastest. What they read is compared with TransformerLens' fp32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import add_common, alternate, compare, fastest, report, spread, use_threads
from gpt2 import HOOKS, LAYER, hooked_transformer, load_ids, make_checkpoint, proxy
from torch import Tensor

Read = Callable[[Tensor], Tensor]
OURS = ("unmix fp32", "unmix bf16")  # of which `auto` takes the faster
THEIR_FP32 = ("TransformerLens fp32", "SAELens AutoModel fp32")
THEIR_BF16 = ("TransformerLens autocast", "SAELens AutoModel autocast")


def unmix(folder: Path, precision: str) -> Read:
    """`LanguageModel.activations`, which stops at the hook."""
    from unmix.config import ModelConfig
    from unmix.lm.model import load_language_model
    from unmix.lm.products import multiply_in_bf16

    model, hook = load_language_model(ModelConfig(name=str(folder))), f"resid_post.{LAYER - 1}"
    if precision == "bf16":
        model = multiply_in_bf16(model, torch.zeros(1, 8, dtype=torch.int64), [hook])
    return lambda ids_NT: model.activations(ids_NT, [hook])[hook]


def theirs(model: Any, hook: str, autocast: bool) -> Read:
    """`run_with_cache` with a filter and a layer to stop at, as SAELens' store calls it."""

    @torch.inference_mode()
    def read(ids_NT: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            cache = model.run_with_cache(ids_NT, names_filter=[hook], stop_at_layer=LAYER, prepend_bos=False)[1]
        return cache[hook]

    return read


def readers(folder: Path) -> dict[str, Read]:
    """All contenders."""
    found: dict[str, Read] = {f"unmix {precision}": unmix(folder, precision) for precision in ("fp32", "bf16")}
    hooked, wrapped = hooked_transformer(folder), proxy(folder)
    for word, autocast in (("fp32", False), ("autocast", True)):
        found[f"TransformerLens {word}"] = theirs(hooked, HOOKS["HookedTransformer"], autocast)
        found[f"SAELens AutoModel {word}"] = theirs(wrapped, HOOKS["AutoModelForCausalLM"], autocast)
    return found


def whole(read: Read, ids_NT: Tensor, sequences: int) -> Callable[[], None]:
    """All sequences, so many a pass, into one array."""

    def call() -> None:
        out: Tensor | None = None
        for first in range(0, len(ids_NT), sequences):
            x_NTD = read(ids_NT[first : first + sequences])
            out = torch.empty(*ids_NT.shape, x_NTD.shape[-1]) if out is None else out
            out[first : first + sequences] = x_NTD

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / ".work" / "gpt2-benchmark")
    parser.add_argument("--sequences", type=int, default=32, help="a round")
    parser.add_argument("--length", type=int, default=128, help="tokens a sequence")
    parser.add_argument("--passes", type=int, nargs="+", default=[4, 8, 16, 32], help="sequences a pass, to try")
    parser.add_argument("--small", action="store_true", help="width 64, to try the script")
    args = parser.parse_args()
    use_threads(args.threads)
    make_checkpoint(args.folder, args.small)
    ids_NT = torch.from_numpy(load_ids(args.folder, args.sequences, args.length).astype(np.int64))
    tokens, contenders, best = ids_NT.numel(), readers(args.folder), {}
    for name, read in contenders.items():
        tried = {str(n): whole(read, ids_NT, n) for n in args.passes if n <= len(ids_NT)}
        seconds = alternate(tried, rounds=2, untimed=0)
        best[name] = int(fastest(list(tried), seconds))
    seconds = alternate({n: whole(r, ids_NT, best[n]) for n, r in contenders.items()}, args.rounds, untimed=0)
    exact = contenders["TransformerLens fp32"](ids_NT[:4])
    rows, checks = [], []
    for name, read in contenders.items():
        error = (read(ids_NT[:4]).float() - exact).norm(dim=-1) / exact.norm(dim=-1)
        row = {"harvest": name, "sequences a pass": best[name], "s": f"{median(seconds[name]):.2f}"}
        row |= {"s, spread": spread(seconds[name]), "tokens/s": f"{tokens / median(seconds[name]):,.0f}"}
        rows.append(row | {"largest relative error of a vector": f"{error.max().item():.1e}"})
    checks = [
        f"{tokens:,} tokens a round in sequences of {args.length}, {LAYER} blocks, E||x||² = {_square(exact):.0f}"
    ]
    tl = "harvest, TransformerLens' run_with_cache"
    comparisons = [
        compare(f"{tl}, fp32", fastest(OURS, seconds), "TransformerLens fp32", seconds, 2.8, tokens),
        compare("harvest, their fastest in fp32", "unmix fp32", fastest(THEIR_FP32, seconds), seconds, 1, tokens),
        compare("harvest, their fastest autocast", "unmix bf16", fastest(THEIR_BF16, seconds), seconds, 1, tokens),
    ]
    report("harvest.py", args, comparisons, rows, checks, args.json, args.name or "harvest")


def _square(x: Tensor) -> float:
    return x.float().square().sum(-1).mean().item()


if __name__ == "__main__":
    main()
