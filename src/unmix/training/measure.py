"""What is measured once, on the first chunk, and then holds for a member's whole life: it is kept in run.yaml.

mask           tokens longer than norm_above · median ||x|| are left out
scale          scaling: dataset   √(D / E||x||²)
coefficient    β = α n̄^p, n̄ = E||x||, as the SAE sees them

Both means are over the tokens that the mask keeps, outliers apart even where it keeps them: a few tokens a hundred
times as long as the rest would scale all others down to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmix.activations.mask import Mask, longer
from unmix.activations.stream import Batch
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
    """n̄, of the activations that the SAE is trained on, outliers apart, as it sees them."""
    coefficient: float
    """β."""
    tokens: int
    """Of the first chunk, without the masked ones."""
    masked: int


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
    x_RD = head.activations[hook]
    median = wide(x_RD.norm(dim=1)).median().item()
    x_KD = kept_rows(head, hook, Mask(training.mask, special_ids, median))
    if not len(x_KD):
        raise UserError(f"training.mask leaves none of the {len(x_RD):,} tokens of the first chunk at {hook}")
    found = norms(_without_outliers(x_KD, median))
    if not 0 < found["mean_square_norm"] < math.inf:
        raise UserError(
            f"the activations of {hook} have E||x||^2 = {found['mean_square_norm']} over the first chunk; "
            "is this the hook you meant, and are the model's files complete?"
        )
    width = x_RD.shape[1]
    scale = (width / found["mean_square_norm"]) ** 0.5 if sae.scaling == "dataset" else 1.0
    mean_norm = width**0.5 if sae.scaling == "token" else scale * found["mean_norm"]
    coefficient = alpha * mean_norm ** norm_exponent(sae, training)
    return Facts(scale, median, mean_norm, coefficient, len(x_KD), len(x_RD) - len(x_KD))


def starting_rows(batch: Batch, hook: str, mask: Mask, median_norm: float) -> Tensor:
    """The raw activations that scale and start a dictionary: those that the mask keeps, outliers apart."""
    return _without_outliers(kept_rows(batch, hook, mask), median_norm)


def _without_outliers(x_KD: Tensor, median_norm: float) -> Tensor:
    ordinary_K = ~longer(x_KD.norm(dim=1), OUTLIER * median_norm)
    return x_KD[ordinary_K] if ordinary_K.any() and not ordinary_K.all() else x_KD


def kept_rows(batch: Batch, hook: str, mask: Mask) -> Tensor:
    """The raw activations that the mask keeps."""
    x_BD = batch.activations[hook]
    kept_B = mask.keeps(batch.token_ids_B, x_BD)
    return x_BD if kept_B.all() else x_BD[kept_B]


def kept_rows_of(batches: Sequence[Batch], hook: str, mask: Mask) -> list[Tensor]:
    """The same of several batches, whose device is waited for once."""
    x_nBD = [batch.activations[hook] for batch in batches]
    kept_N = torch.cat([mask.keeps(batch.token_ids_B, x_BD) for batch, x_BD in zip(batches, x_nBD, strict=True)]).cpu()
    rows = []
    for x_BD, kept_B in zip(x_nBD, torch.split(kept_N, [len(x_BD) for x_BD in x_nBD]), strict=True):
        rows.append(x_BD if kept_B.all() else x_BD.index_select(0, kept_B.nonzero().flatten().to(x_BD.device)))
    return rows


def norm_exponent(sae: SAEConfig, training: TrainingConfig) -> float:
    """p. Matched: the error term grows as n̄^(2-k); so does β n̄^q, where the penalty grows as n̄^q.

    q = 1 for relu features and for any that are weighed by their decoder rows, 0 for bounded features and where active
    ones are counted.
    """
    if training.l1_norm_power != "matched":
        return training.l1_norm_power
    bounded = sae.architecture == "tanh_relu" and not sae.weigh_by_norm
    return 2 - training.norm_power - (0 if bounded or counts(sae) else 1)
