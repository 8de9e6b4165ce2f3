"""Tokens that are left out, by kind or by length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unmix.activations.outliers import Outliers
from unmix.config import OUTLIER, MaskConfig


class Mask:
    """Keeps a token unless it is special (if so configured) or its norm is above `norm_above` times the median.

    Where most tokens are 0, the median is, and no norm is above it: all others would be.
    """

    def __init__(
        self,
        config: MaskConfig,
        special_ids: Sequence[int],
        median_norm: float,
        found: dict[str, Any] | None = None,
    ) -> None:
        config = config if median_norm else config.model_copy(update={"norm_above": None})
        self.config, self.median_norm = config, median_norm
        self.found = found
        """The outliers of the sample that the median is of, as `Outliers.facts` gives them, for `facts`."""
        self.special = torch.tensor(sorted(special_ids) if config.special else [], dtype=torch.int64)
        self.longest = config.norm_above * median_norm if config.norm_above is not None else None

    def facts(self, given: str = "x") -> dict[str, Any]:
        """What a dictionary that was trained with it has to tell its readers; empty if it keeps every token. `given`:
        what the dictionary gives, x or y."""
        if not str(self.config):
            return {}
        return {
            "rule": f"{self.config} were not trained on: leave {given} as it is there",
            "norm_above_median": self.config.norm_above,
            "median_norm": self.median_norm,
            "longer_than": self.longest,
            "outliers": self.found,
            "special_ids": self.special.tolist(),
        }

    def keeps(self, token_ids: Tensor, x: Tensor) -> Tensor:
        """Bools in the shape of `token_ids` (...); `x` (..., D) are their raw activations."""
        kept = ~torch.isin(token_ids, self.special.to(token_ids.device))
        if self.longest is not None:
            kept &= ~longer(x.norm(dim=-1), self.longest)
        return kept


def longer(norm: Tensor, than: float) -> Tensor:
    """Which norms are above a bound; one that is not finite is not counted, so that it shows."""
    return (norm > than) & norm.isfinite()


def outliers(norm_R: Tensor, median_norm: float, times: float = OUTLIER) -> Outliers:
    """Of R tokens with these norms; sums in float64. None where most of them are 0."""
    norm_R = norm_R.cpu().double()  # mps has no float64
    far_R = norm_R[longer(norm_R, times * median_norm or math.inf)]
    sums = [far_R.sum(), norm_R.sum(), far_R.square().sum(), norm_R.square().sum()]
    return Outliers(times, times * median_norm, len(far_R), len(norm_R), *(value.item() for value in sums))
