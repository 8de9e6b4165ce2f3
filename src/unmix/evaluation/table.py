"""An evaluation as people read it in a terminal."""

from __future__ import annotations

import math
from typing import Any

from unmix.activations.outliers import from_facts


def table(found: dict[str, Any]) -> str:
    """The most asked-for numbers, a row a dictionary, and the findings below."""
    lines = []
    for result in found["hooks"]:
        lines += [
            f"{result['hook']} of {found['model']}, {_documents(result)} of {found['corpus']}",
            f"fidelity over {result['fidelity_tokens']:,} tokens, cross-entropy over {result['ce_tokens']:,} in "
            f"{result['ce_documents']:,} documents (±: standard error by document); "
            f"{result['mask']}; untouched CE {result['ce_untouched']:.3f} nats",
            *_apart(result),
            "",
            f"{'':<26}{'L0':>8}{'expl. var.':>11}{'cosine':>8}{'norm':>7}{'dCE (nats)':>18}{'KL':>8}{'dead':>7}",
        ]
        for name, row in result["baselines"].items():
            variance = f"{row['explained_variance']:.3f}" if "explained_variance" in row else ""
            lines.append(f"{name:<26}{'':>8}{variance:>11}{'':>8}{'':>7}{_delta(row):>18}{row['kl']:>8.3f}")
        for name, row in result["saes"].items():
            lines.append(
                f"{name:<26}{row['l0']:>8.1f}{row['explained_variance']:>11.3f}{row['cosine']:>8.3f}"
                f"{row['norm_ratio']:>7.3f}{_delta(row):>18}{row['kl']:>8.3f}{row['dead']:>7.1%}"
            )
        lines.append("")
        for name, said in result["findings"].items():
            lines += [f"{name}: {sentence}" for sentence in said]
        lines.append("")
    return "\n".join(lines)


def _documents(result: dict[str, Any]) -> str:
    return "held-out documents" if result["split"] == "held_out" else f"documents (split {result['split']})"


def _apart(result: dict[str, Any]) -> list[str]:
    """What is said of the outliers; nothing where there are none."""
    if not result["outliers"]["tokens"]:
        return []
    return [f"outliers: {from_facts(result['outliers'])}"]


def _delta(row: dict[str, Any]) -> str:
    error = row["delta_ce_standard_error"]
    return f"{row['delta_ce']:.4f} ± {'?' if math.isnan(error) else format(error, '.4f')}"
