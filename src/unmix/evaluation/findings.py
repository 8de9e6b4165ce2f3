"""The numbers in plain words, each with its threshold."""

from __future__ import annotations

from typing import Any

DEAD_SHARE, DENSE_SHARE, SHRUNK, LOSS, TWINS, WORSE = 0.1, 0.01, 0.03, 0.1, 0.05, 0.01


def findings(evaluation: dict[str, Any]) -> dict[str, list[str]]:
    """Per SAE, what someone should know before using it."""
    return {name: _of(row, evaluation) for name, row in evaluation["saes"].items()}


def _of(row: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    said = []
    tokens = _count(row["tokens"])
    if row["dead"] > DEAD_SHARE:
        said.append(f"{row['dead']:.0%} of features never fired in {tokens} held-out tokens.")
    if row["above_10_percent"] > DENSE_SHARE:
        said.append(f"{row['above_10_percent']:.0%} of features fire on more than a tenth of the tokens.")
    short = 1 - row["reconstruction_bias"]
    if short > SHRUNK:
        said.append(f"Reconstructions are {short:.0%} too short for what they explain, as L1 shrinkage makes them.")
    if row["explained_variance"] < row["pca_explained_variance_at_l0"] - WORSE:
        said.append(
            f"As many principal directions as it has active features ({row['l0']:.0f}) explain more: "
            f"{row['pca_explained_variance_at_l0']:.1%} against {row['explained_variance']:.1%}."
        )
    if row["delta_ce"] > LOSS:
        said.append(
            f"Spliced into the model it costs {row['delta_ce']:.3f} ± {row['delta_ce_standard_error']:.3f} nats a "
            f"token, {row['delta_ce'] / evaluation['ce_untouched']:.0%} of the untouched cross-entropy."
        )
    apart = row.get("outliers")
    if apart and apart["delta_ce_everywhere"] > apart["delta_ce_left"] + LOSS:
        said.append(
            f"Put in the place of every token, outliers too, it costs {apart['delta_ce_everywhere']:.3f} nats where it "
            f"costs {apart['delta_ce_left']:.3f} if they are left alone: a reader that cannot leave them out pays that."
        )
    if row["max_decoder_cosine_above_0.9"] > TWINS:
        said.append(f"{row['max_decoder_cosine_above_0.9']:.0%} of features have a twin (decoder cosine above 0.9).")
    return said or ["Nothing stands out at the thresholds used."]


def _count(tokens: int) -> str:
    return f"{tokens / 1e6:.1f} M" if tokens >= 1e6 else f"{tokens:,}"
