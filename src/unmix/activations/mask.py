"""Tokens that are left out, by kind or by length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmix.config import MaskConfig


class Mask:
    """Keeps a token unless it is special (if so configured) or longer than `norm_above` times the median norm."""

    def __init__(self, config: MaskConfig, special_ids: Sequence[int], median_norm: float) -> None:
        self.special = torch.tensor(sorted(special_ids) if config.special else [], dtype=torch.int64)
        self.longest = config.norm_above * median_norm if config.norm_above is not None else None

    def keeps(self, token_ids: Tensor, x: Tensor) -> Tensor:
        """Bools in the shape of `token_ids` (...); `x` (..., D) are their raw activations."""
        kept = ~torch.isin(token_ids, self.special)
        if self.longest is not None:
            kept &= ~(x.norm(dim=-1) > self.longest)  # NaN is kept: it is to be seen
        return kept
