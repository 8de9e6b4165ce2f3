"""What is measured once, on the first chunk, and then holds for a member's whole life: it is kept in run.yaml.

mask           tokens longer than norm_above · median ||x|| are left out
scale          scaling: dataset   √(D / E||x||²)
target scale   the same of y, where a dictionary is to give something else than x
coefficient    β = α n̄^p, n̄ = E||y||, as the dictionary is to give them: y is x for an SAE

All means are over the tokens that the mask keeps, outliers apart even where it keeps them: a few tokens a hundred times
as long as the rest would scale all others down to nothing. The mask goes by x, which is all that a user of the
dictionary has; which y are outliers, y says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.activations.arrays import NO_POSITION
from unmix.activations.mask import Mask, longer
from unmix.activations.stream import Batch, Pair
from unmix.config import OUTLIER, SAEConfig, TrainingConfig
from unmix.dictionary.table import counts
from unmix.errors import UserError
from unmix.kernels.task import wide


class Facts(NamedTuple):
    """Of one member."""

    scale: float
    """What every activation is multiplied by; 1 where each token has its own scale."""
    median_norm: float
    """Of the raw activations, masked ones included."""
    mean_norm: float
    """n̄, of what it is to give for the activations that it is trained on, outliers apart, as it is trained to."""
    coefficient: float
    """β."""
    tokens: int
    """Of the first chunk, without the masked ones."""
    masked: int
    target_scale: float | None = None
    """What every y is multiplied by; None where y is x."""

    @staticmethod
    def read(known: Mapping[str, Any]) -> Facts:
        """From a manifest, in which SAEs and earlier versions have no target scale. Raises KeyError if others lack."""
        own = {key: known[key] for key in Facts._fields if key not in Facts._field_defaults or key in known}
        return Facts(**own)

    def written(self) -> dict[str, Any]:
        """For a manifest: what is None is left out."""
        return {key: value for key, value in self._asdict().items() if value is not None}


def norms(x_RD: Tensor) -> dict[str, float | int]:
    """E||x||, E||x||², the median of ||x|| and the number of tokens; means in float64."""
    norm_R = wide(x_RD.norm(dim=1))
    return {
        "mean_norm": norm_R.mean().item(),
        "mean_square_norm": norm_R.square().mean().item(),
        "median_norm": norm_R.median().item(),
        "tokens": len(norm_R),
    }


def measure(
    head: Batch, hook: str, sae: SAEConfig, training: TrainingConfig, alpha: float, special_ids: Sequence[int]
) -> Facts:
    """The facts of a member. Raises `UserError` if the mask leaves nothing, or if what it leaves has no length."""
    raw = head.pair(hook)
    x_RD = raw.x_BD
    _require_finite_rows(head, hook)
    median = _median(x_RD)
    kept = kept_rows(head, hook, Mask(training.mask, special_ids, median))
    tokens = len(kept.x_BD)
    if not tokens:
        raise UserError(f"training.mask leaves none of the {len(x_RD):,} tokens of the first chunk at {hook}")
    of_x = norms(_without_outliers(kept.x_BD, median))
    of_y = of_x if raw.same else norms(_without_outliers(kept.y_BE, _median(raw.y_BE)))
    if not 0 < of_x["mean_square_norm"] < math.inf:
        raise UserError(
            f"the activations of {hook} have E||x||^2 = {of_x['mean_square_norm']} over the first chunk; "
            "is this the hook you meant, and are the model's files complete?"
        )
    if not 0 < of_y["mean_square_norm"] < math.inf:
        raise UserError(
            f"the targets of {hook} have E||y||^2 = {of_y['mean_square_norm']} over the first chunk; are they the rows "
            "you meant?"
        )
    scale, target_scale = (
        (rows.shape[1] / found["mean_square_norm"]) ** 0.5 if sae.scaling == "dataset" else 1.0
        for rows, found in ((x_RD, of_x), (raw.y_BE, of_y))
    )
    mean_norm = x_RD.shape[1] ** 0.5 if sae.scaling == "token" else target_scale * of_y["mean_norm"]
    coefficient = alpha * mean_norm ** norm_exponent(sae, training)
    masked = len(x_RD) - tokens
    return Facts(scale, median, mean_norm, coefficient, tokens, masked, None if raw.same else target_scale)


def _require_finite_rows(head: Batch, hook: str) -> None:
    """Raises `UserError` naming the first row of activations that somebody gave, or of their targets, that is not
    finite. Of a model's, the whole says more."""
    if not len(head.positions_B) or int(head.positions_B[0]) != NO_POSITION:
        return
    raw = head.pair(hook)
    for what, rows_RD in (("activations", raw.x_BD), *([] if raw.same else [("targets", raw.y_BE)])):
        bad_R = ~rows_RD.isfinite().all(dim=1)
        if bad_R.any():
            row = int(head.token_ids_B[bad_R].min())
            raise UserError(
                f"row {row:,} of the {what} of {hook} is not finite, and {int(bad_R.sum()):,} of the {len(bad_R):,} of "
                "the first chunk are not; mend such rows, or leave them out"
            )


def starting_rows(batch: Batch, hook: str, mask: Mask, median_norm: float) -> Pair:
    """The raw activations that scale and start a dictionary: those that the mask keeps, outliers apart.

    Of x and of y each its own outliers, so that they may differ in length.
    """
    kept = kept_rows(batch, hook, mask)
    x_KD = _without_outliers(kept.x_BD, median_norm)
    return kept.of(x_KD, lambda: _without_outliers(kept.y_BE, _median(batch.pair(hook).y_BE)))


def _median(x_RD: Tensor) -> float:
    """Of ||x||."""
    return wide(x_RD.norm(dim=1)).median().item()


def _without_outliers(x_KD: Tensor, median_norm: float) -> Tensor:
    """Where most rows are 0, none is called an outlier."""
    if median_norm == 0:
        return x_KD
    ordinary_K = ~longer(x_KD.norm(dim=1), OUTLIER * median_norm)
    return x_KD[ordinary_K] if ordinary_K.any() and not ordinary_K.all() else x_KD


def kept_rows(batch: Batch, hook: str, mask: Mask) -> Pair:
    """The raw activations that the mask keeps."""
    raw = batch.pair(hook)
    kept_B = mask.keeps(batch.token_ids_B, raw.x_BD)
    return raw if kept_B.all() else raw.of(raw.x_BD[kept_B], lambda: raw.y_BE[kept_B])


def kept_rows_of(batches: Sequence[Batch], hook: str, mask: Mask) -> list[Pair]:
    """The same of several batches, whose device is waited for once."""
    pairs = [batch.pair(hook) for batch in batches]
    kept_N = torch.cat(
        [mask.keeps(batch.token_ids_B, raw.x_BD) for batch, raw in zip(batches, pairs, strict=True)]
    ).cpu()
    kept = torch.split(kept_N, [len(raw.x_BD) for raw in pairs])
    return [raw if kept_B.all() else _chosen(raw, kept_B) for raw, kept_B in zip(pairs, kept, strict=True)]


def _chosen(raw: Pair, kept_B: Tensor) -> Pair:
    at = kept_B.nonzero().flatten().to(raw.x_BD.device)
    return raw.of(raw.x_BD.index_select(0, at), lambda: raw.y_BE.index_select(0, at))


def norm_exponent(sae: SAEConfig, training: TrainingConfig) -> float:
    """p. Matched: the error term grows as n̄^(2-k); so does β n̄^q, where the penalty grows as n̄^q.

    q = 1 for relu features and for any that are weighed by their decoder rows, 0 for bounded features and where active
    ones are counted.
    """
    if training.l1_norm_power != "matched":
        return training.l1_norm_power
    bounded = sae.architecture == "tanh_relu" and not sae.weigh_by_norm
    return 2 - training.norm_power - (0 if bounded or counts(sae) else 1)
