"""How long activations are at every layer, and which tokens are the longest.

High-norm tokens run the loss of an SAE: the reconstruction error grows with ||x||², the features of a relu dictionary
with ||x||. Often a handful of tokens, attention sinks at the first position or `<|endoftext|>`, are many times
longer than the rest. Every norm of the pass is kept (4 bytes a token and layer), so quantiles are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from unmix.activations.norms import distribution
from unmix.corpus.tokens import Tokens, sample
from unmix.lm.model import LanguageModel


def norms(
    model: LanguageModel,
    tokens: Tokens,
    count: int,
    hooks: Sequence[str] = (),
    *,
    batch_sequences: int = 16,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Norms into the first block, after each, and at further `hooks`, over a sample of `count` tokens of the split."""
    T = tokens.ids_NT.shape[1]
    sequences = min(len(tokens.ids_NT), max(1, count // T))
    ids_NT = tokens.ids_NT[sample(len(tokens.ids_NT))[:sequences]].astype(np.int64)
    stream = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.layers))]
    hooks = list(dict.fromkeys([*stream, *hooks]))
    norm_HNT = np.empty((len(hooks), sequences, T), dtype=np.float32)
    for start in range(0, sequences, batch_sequences):
        part = torch.from_numpy(ids_NT[start : start + batch_sequences])
        found = model.activations(part, hooks)
        for h, hook in enumerate(hooks):
            norm_HNT[h, start : start + len(part)] = found[hook].norm(dim=-1).cpu().numpy()
        progress(f"{min(start + batch_sequences, sequences):,} of {sequences:,} sequences")
    return distribution(
        {hook: norm_HNT[h].ravel() for h, hook in enumerate(hooks)},
        ids_NT.ravel(),
        np.tile(np.arange(T), sequences),
        bos_id=tokens.bos_id,
        decode=lambda kind: str(model.tokenizer.decode([kind])),
        split=tokens.split,
    )


def table(found: dict[str, Any]) -> str:
    """Quantiles by layer, then who the top 1 % are."""
    lines = [
        f"||x|| over {found['tokens']:,} tokens of the {found['split']} split; mask: {found['mask']}",
        "",
        f"{'hook':<14}{'mean':>10}{'1 %':>10}{'median':>10}{'99 %':>10}{'99.9 %':>10}{'max':>10}{'first/med':>11}"
        f"{'E||x||² in top 1 %':>20}",
    ]
    for hook, row in found["hooks"].items():
        q, first = row["quantiles"], row["places"]["first position"]["mean_over_median"]
        lines.append(
            f"{hook:<14}{row['mean_norm']:>10.4g}{q['0.01']:>10.4g}{q['0.5']:>10.4g}{q['0.99']:>10.4g}"
            f"{q['0.999']:>10.4g}{row['max']:>10.4g}{_said(first, '.2f'):>11}"
            f"{_said(row['share_of_square_in_top'], '.1%'):>20}"
        )
    for hook, row in found["hooks"].items():
        lines += ["", f"{hook}, the top 1 % ({row['top_count']:,} tokens of norm {row['top_from']:.4g} and above)"]
        lines += [f"  sink      {sentence}" for sentence in row["sinks"]] or ["  no sinks"]
        lines.append(f"  place     {', '.join(_counted(name, place) for name, place in row['places'].items())}")
        lines.append(f"  position  {', '.join(_counted(_range(p), p) for p in row['positions'] if p['in_top'])}")
        kinds = ", ".join(
            f"{t['token']!r} {t['in_top']}/{t['occurrences']} (lift {t['lift']:.3g})" for t in row["top_tokens"][:6]
        )
        lines.append(f"  token     {kinds}")
    return "\n".join(lines)


def _counted(name: str, row: dict[str, Any]) -> str:
    return f"{name} {row['in_top']}/{row['tokens']} (lift {_said(row['lift'], '.3g')})"


def _range(row: dict[str, Any]) -> str:
    return f"{row['first']}" if row["first"] == row["last"] else f"{row['first']}-{row['last']}"


def _said(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)
