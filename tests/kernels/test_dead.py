"""The terms that revive dead features; that their gradients are right is in the contract suite (`test_step.py`)."""

import pytest
import torch

from unmix.dictionary.terms import AuxK, PreActivation
from unmix.kernels.dead import add_auxk, add_preactivation

D, E, F, B = 3, 4, 6, 5


@pytest.mark.parametrize("both_signs", [False, True])
def test_the_host_does_not_wait_for_a_device(both_signs):
    """On one without numbers, where reading any raises."""
    meta = torch.device("meta")
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, E), "b_dec": (E,), "threshold": (F,)}
    weights, gradients = ({name: torch.zeros(s, device=meta) for name, s in shapes.items()} for _ in range(2))
    x_BD, y_BE, dead_N = torch.zeros(B, D, device=meta), torch.zeros(B, E, device=meta), torch.arange(3, device=meta)
    auxk = AuxK(2, dead_N, stride=2, both_signs=both_signs)
    for value in (
        add_auxk(x_BD, y_BE, y_BE, weights, gradients, 0.1, auxk),
        add_preactivation(x_BD, weights, gradients, 0.1, PreActivation(dead_N)),
    ):
        assert (value.device, value.dtype, value.shape) == (meta, torch.float64, ())
