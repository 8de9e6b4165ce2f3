"""An evaluation as people read it in a terminal."""

from __future__ import annotations

import math
from typing import Any

from unmix.activations.outliers import from_facts


def table(found: dict[str, Any]) -> str:
    """The most asked-for numbers, a row a dictionary, and the findings below."""
    lines = []
    for result in found["hooks"]:
        wide = max(26, *(len(name) + 1 for name in result["saes"]))
        lines += [
            f"{result['hook']} of {found['model']}, {_documents(result)} of {found['corpus']}",
            f"fidelity over {result['fidelity_tokens']:,} tokens{_cross_entropy(result)}",
            *_apart(result),
            "",
            f"{'':<{wide}}{'L0':>8}{'expl. var.':>11}{'cosine':>8}{'norm':>7}{'dCE (nats)':>18}{'KL':>8}{'dead':>7}",
        ]
        for name, row in result["baselines"].items():
            variance = f"{row['explained_variance']:.3f}" if "explained_variance" in row else ""
            lines.append(f"{name:<{wide}}{'':>8}{variance:>11}{'':>8}{'':>7}{_delta(row):>18}{_kl(row):>8}")
        for name, row in result["saes"].items():
            lines.append(
                f"{name:<{wide}}{row['l0']:>8.1f}{row['explained_variance']:>11.3f}{row['cosine']:>8.3f}"
                f"{row['norm_ratio']:>7.3f}{_delta(row):>18}{_kl(row):>8}{row['dead']:>7.1%}"
            )
        lines.append("")
        for name, said in result["findings"].items():
            lines += [f"{name}: {sentence}" for sentence in said]
        lines.append("")
    return "\n".join(lines)


def _documents(result: dict[str, Any]) -> str:
    if "ce_tokens" not in result:
        return "held-out activations"
    return "held-out documents" if result["split"] == "held_out" else f"documents (split {result['split']})"


def _apart(result: dict[str, Any]) -> list[str]:
    """What is said of the outliers; nothing where there are none."""
    if not result["outliers"]["tokens"]:
        return []
    return [f"outliers: {from_facts(result['outliers'])}"]


def _cross_entropy(result: dict[str, Any]) -> str:
    if "ce_tokens" not in result:
        return f"; {result['mask']}; no model, so no cross-entropy"
    return (
        f", cross-entropy over {result['ce_tokens']:,} in {result['ce_documents']:,} documents "
        f"(±: standard error by document); {result['mask']}; untouched CE {result['ce_untouched']:.3f} nats"
    )


def _kl(row: dict[str, Any]) -> str:
    return f"{row['kl']:.3f}" if "kl" in row else ""


def _delta(row: dict[str, Any]) -> str:
    if "delta_ce" not in row:
        return ""
    error = row["delta_ce_standard_error"]
    return f"{row['delta_ce']:.4f} ± {'?' if math.isnan(error) else format(error, '.4f')}"
