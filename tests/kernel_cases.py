"""What the tests of the kernels are run on."""

from collections.abc import Callable

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import Relu, TanhRelu
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels.task import Noise, Task, Weights

PHI = {phi.name: phi for phi in (Relu(), TanhRelu())}


def task(
    l1: float,
    phi: str = "relu",
    weigh: bool = True,
    norm_power: int = 0,
    noise: Noise | None = None,
    unit_norm: bool = False,
    centre_E: Tensor | None = None,
) -> Task:
    """The squared error and the penalty, in this order."""
    return Task(PHI[phi], ((1.0, SquaredError(norm_power, centre_E=centre_E)), (l1, L1(weigh))), noise, unit_norm)


def random_weights(D: int, F: int, seed: int, dtype: torch.dtype = torch.float64, E: int | None = None) -> Weights:
    """Gaussian, W_enc in the layout of a member's; E is D if it is not given."""
    g = torch.Generator().manual_seed(seed)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    E = E or D
    return {"W_enc": make(F, D).T, "b_enc": make(F), "W_dec": make(F, E), "b_dec": make(E)}


def mapped(fn: Callable[[Tensor], Tensor], weights: Weights) -> Weights:
    """The function of each tensor, by the same names."""
    return {name: fn(weight) for name, weight in weights.items()}


def like(weights: Weights, value: float) -> Weights:
    """Tensors of the same shapes and layouts, full of one value."""
    return mapped(lambda w: torch.full_like(w, value), weights)


def nan_like(weights: Weights) -> Weights:
    """For gradients: what a step does not write is seen."""
    return like(weights, torch.nan)


def worst(mine: Weights, theirs: Weights) -> float:
    """The largest difference of a gradient, over its largest entry; NaN if there is one anywhere."""
    assert mine.keys() == theirs.keys()
    apart = [(mine[name] - b).abs().max() / b.abs().max().clamp(min=1e-30) for name, b in theirs.items()]
    return torch.stack(apart).max().item()  # unlike Python's own, this maximum is NaN if one of them is
