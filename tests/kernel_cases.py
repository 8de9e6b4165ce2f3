"""What the tests of the kernels are run on."""

import torch

from unmix.kernels.reference import Weights


def random_weights(D: int, F: int, seed: int, dtype: torch.dtype = torch.float64) -> Weights:
    """Gaussian, W_enc in the layout of a member's."""
    g = torch.Generator().manual_seed(seed)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    return Weights(make(F, D).T, make(F), make(F, D), make(D))


def nan_like(weights: Weights) -> Weights:
    """For gradients: what a step does not write is seen."""
    return Weights(*(torch.full_like(w, torch.nan) for w in weights))


def worst(mine: Weights, theirs: Weights) -> float:
    """The largest difference of a gradient, over its largest entry; NaN if there is one anywhere."""
    apart = [(a - b).abs().max() / b.abs().max().clamp(min=1e-30) for a, b in zip(mine, theirs, strict=True)]
    return torch.stack(apart).max().item()  # unlike Python's own, this maximum is NaN if one of them is
