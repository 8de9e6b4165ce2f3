"""How long activations are at every layer, and which tokens are the longest.

High-norm tokens run the loss of an SAE: the reconstruction error grows with ||x||², the features of a relu dictionary
with ||x||. Often a handful of tokens, attention sinks at the first position or `<|endoftext|>`, are many times
longer than the rest. Every norm of the pass is kept (4 bytes a token and layer), so quantiles are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from unmix.corpus.tokens import Tokens
from unmix.lm.model import LanguageModel

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
TOP = 0.01
BINS = 60
NAMED = 12  # token kinds listed a hook


def norms(
    model: LanguageModel,
    tokens: Tokens,
    count: int,
    *,
    batch_sequences: int = 16,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Norms at the input of the first block and the output of each, over the first `count` tokens of the split."""
    T = tokens.ids_NT.shape[1]
    sequences = min(len(tokens.ids_NT), max(1, count // T))
    ids_NT = tokens.ids_NT[:sequences].astype(np.int64)
    hooks = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.layers))]
    norm_HNT = np.empty((len(hooks), sequences, T), dtype=np.float32)
    for start in range(0, sequences, batch_sequences):
        part = torch.from_numpy(ids_NT[start : start + batch_sequences])
        for h, x_NTD in enumerate(model.activations(part, hooks).values()):
            norm_HNT[h, start : start + len(part)] = x_NTD.norm(dim=-1).numpy()
        progress(f"{min(start + batch_sequences, sequences):,} of {sequences:,} sequences")
    ids, positions = ids_NT.ravel(), np.tile(np.arange(T), sequences)
    low, high = float(norm_HNT.min()), float(norm_HNT.max())
    edges = np.geomspace(max(low, 1e-6) * 0.999, max(high, 2e-6) * 1.001, BINS + 1)
    return {
        "tokens": int(ids.size),
        "split": tokens.split,
        "mask": "none: the BOS at position 0 is counted",
        "edges": edges.tolist(),
        "hooks": {
            hook: _of_hook(model, norm_HNT[h].ravel(), ids, positions, tokens.bos_id, edges)
            for h, hook in enumerate(hooks)
        },
    }


def _of_hook(model: LanguageModel, norm: Any, ids: Any, positions: Any, bos_id: int, edges: Any) -> dict[str, Any]:
    median = float(np.median(norm))
    top = norm >= np.quantile(norm, 1 - TOP)
    square = norm.astype(np.float64) ** 2
    return {
        "mean_norm": float(norm.mean(dtype=np.float64)),
        "mean_square_norm": float(square.mean()),
        "quantiles": {str(q): float(np.quantile(norm, q)) for q in QUANTILES},
        "max": float(norm.max()),
        "proportions": (np.histogram(norm, edges)[0] / norm.size).tolist(),
        "share_of_square_in_top": float(square[top].sum() / square.sum()),
        "places": {
            name: _place(norm, top, where, median)
            for name, where in {
                "first position": positions == 0,
                "BOS or separator inside": (ids == bos_id) & (positions > 0),
                "all other tokens": (ids != bos_id) & (positions > 0),
            }.items()
        },
        "top_tokens": _top_tokens(model, norm, top, ids, median),
    }


def _place(norm: Any, top: Any, where: Any, median: float) -> dict[str, float | int | None]:
    n = int(where.sum())
    share = n / norm.size
    return {
        "tokens": n,
        "mean_over_median": float(norm[where].mean()) / median if n else None,
        "share_of_top": float(where[top].mean()),
        "lift": float(where[top].mean()) / share if n else None,
    }


def _top_tokens(model: LanguageModel, norm: Any, top: Any, ids: Any, median: float) -> list[dict[str, Any]]:
    """The token kinds that fill the top 1 %, with their lift over their base rate."""
    kinds, counts = np.unique(ids[top], return_counts=True)
    base = np.bincount(ids, minlength=int(ids.max()) + 1)
    rows = []
    for at in np.argsort(-counts)[:NAMED]:
        kind, n = int(kinds[at]), int(counts[at])
        rows.append(
            {
                "token": model.tokenizer.decode([kind]),
                "id": kind,
                "in_top": n,
                "occurrences": int(base[kind]),
                "lift": (n / int(top.sum())) / (int(base[kind]) / ids.size),
                "mean_over_median": float(norm[ids == kind].mean()) / median,
            }
        )
    return rows


def table(found: dict[str, Any]) -> str:
    """Quantiles by layer, then who the top 1 % are."""
    lines = [
        f"||x|| over {found['tokens']:,} tokens of the {found['split']} split; mask: {found['mask']}",
        "",
        f"{'hook':<14}{'mean':>9}{'1 %':>9}{'median':>9}{'99 %':>9}{'99.9 %':>9}{'max':>10}{'first/med':>11}"
        f"{'E||x||² in top 1 %':>20}",
    ]
    for hook, row in found["hooks"].items():
        q = row["quantiles"]
        first = row["places"]["first position"]["mean_over_median"]
        lines.append(
            f"{hook:<14}{row['mean_norm']:>9.4g}{q['0.01']:>9.4g}{q['0.5']:>9.4g}{q['0.99']:>9.4g}{q['0.999']:>9.4g}"
            f"{row['max']:>10.4g}{first:>11.2f}{row['share_of_square_in_top']:>20.1%}"
        )
    for hook, row in found["hooks"].items():
        named = ", ".join(
            f"{t['token']!r} {t['in_top']}/{t['occurrences']} (lift {t['lift']:.3g})" for t in row["top_tokens"][:6]
        )
        lines += ["", f"{hook}, the top 1 %: {named}"]
    return "\n".join(lines)
