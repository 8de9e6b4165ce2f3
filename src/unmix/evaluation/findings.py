"""The numbers in plain words, each with its threshold."""

from __future__ import annotations

import math
from typing import Any

DEAD_SHARE, DENSE_SHARE, SHRUNK, LOSS, TWINS, WORSE = 0.1, 0.01, 0.03, 0.1, 0.05, 0.01


def findings(evaluation: dict[str, Any]) -> dict[str, list[str]]:
    """Per SAE, what someone should know before using it."""
    return {name: _of(row, evaluation) for name, row in evaluation["saes"].items()}


def _of(row: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    said = []
    tokens, held_out = _count(row["tokens"]), "held-out " if evaluation["split"] == "held_out" else ""
    if processed := evaluation.get("processed"):
        said.append(
            f"It was trained on activations that TransformerLens had processed ({', '.join(processed)}), and is judged "
            f"on raw ones: {evaluation['mean_removed_fraction']:.2%} of their Σ||x||² lies along the all-ones "
            "direction, which centring takes out."
        )
    if row["dead"] > DEAD_SHARE:
        said.append(f"{row['dead']:.0%} of features never fired in {tokens} {held_out}tokens.")
    if row["above_10_percent"] > DENSE_SHARE:
        said.append(f"{row['above_10_percent']:.0%} of features fire on more than a tenth of the tokens.")
    short = 1 - row["reconstruction_bias"]
    if short > SHRUNK and row["explained_variance"] > 0:
        said.append(f"Reconstructions are {short:.0%} too short for what they explain: shrinkage.")
    if row["explained_variance"] < 0:
        said.append(
            f"It explains less than the mean does (explained variance {row['explained_variance']:.3g}): is this the "
            "hook and the scale that it was trained at?"
        )
    elif row["explained_variance"] < row["pca_explained_variance_at_l0"] - WORSE:
        said.append(
            f"As many principal directions as it has active features ({row['l0']:.0f}) explain more: "
            f"{row['pca_explained_variance_at_l0']:.1%} against {row['explained_variance']:.1%}."
        )
    if "delta_ce" not in row:  # judged without a model
        pass
    elif math.isnan(row["delta_ce_standard_error"]):
        said.append(
            "All predictions were made in one document: the error of ΔCE is not known, nor loss recovered given."
        )
    elif harmless := [baseline for baseline in ("zero", "mean") if row[f"loss_recovered_{baseline}"] is None]:
        said.append(f"Loss recovered is not given: {_harmless(harmless, evaluation['baselines'])}.")
    if row.get("delta_ce", 0.0) > LOSS:
        said.append(
            f"Spliced into the model it costs {row['delta_ce']:.3f}{_error(row)} nats a "
            f"token, {row['delta_ce'] / evaluation['ce_untouched']:.0%} of the untouched cross-entropy."
        )
    apart = row.get("outliers")
    if apart and "delta_ce_everywhere" in apart and apart["delta_ce_everywhere"] > apart["delta_ce_left"] + LOSS:
        said.append(
            f"Put in the place of every token, outliers too, it costs {apart['delta_ce_everywhere']:.3f} nats where it "
            f"costs {apart['delta_ce_left']:.3f} if they are left alone: a reader that cannot leave them out pays that."
        )
    if row["max_decoder_cosine_above_0.9"] > TWINS:
        said.append(f"{row['max_decoder_cosine_above_0.9']:.0%} of features have a twin (decoder cosine above 0.9).")
    return said or ["Nothing stands out at the thresholds used."]


def _error(row: dict[str, Any]) -> str:
    error = row["delta_ce_standard_error"]
    return "" if math.isnan(error) else f" ± {error:.3f}"


def _harmless(ablations: list[str], baselines: dict[str, Any]) -> str:
    costs = []
    for ablation in ablations:
        cost = baselines["predict the mean" if ablation == "mean" else ablation]
        costs.append(
            f"{'the mean' if ablation == 'mean' else ablation} in the place of the activation costs "
            f"{cost['delta_ce']:.4f} ± {cost['delta_ce_standard_error']:.4f} nats"
        )
    return f"{' and '.join(costs)}, which is not above two standard errors"


def _count(tokens: int) -> str:
    return f"{tokens / 1e6:.1f} M" if tokens >= 1e6 else f"{tokens:,}"
