"""Aligned training (arXiv 2605.18629): the encoder e_i and the decoder row d_i of a feature have the inner product 1.

    e_i = v_i + (1 - v_i · d_i) d_i / ||d_i||²

`hold` takes what an update made of e_i for v_i. Before an update, `tangent` turns the gradients by e and d into those
by v and d, at a v that is e already:

    dv = de - (de · d) d / ||d||²,        dd ← dd - (de · d) e / ||d||²

The paper's own reparameterization was not at hand: this one holds the same equation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmix.kernels.reference import put
from unmix.kernels.task import Weights


def tangent(weights: Weights, gradients: Weights) -> None:
    """In place; before the gradient's norm is taken."""
    e_FD, d_FD, de_FD = weights["W_enc"].T, weights["W_dec"], gradients["W_enc"].T
    along_F1 = _over_square((de_FD * d_FD).sum(1), d_FD)
    de_FD -= along_F1 * d_FD
    gradients["W_dec"] -= along_F1 * e_FD


def hold(weights: Weights, stop_1: Tensor | None = None) -> None:
    """In place; a decoder row of norm 0 leaves its encoder as it is, and a `stop` that is set leaves all of them."""
    e_FD, d_FD = weights["W_enc"].T, weights["W_dec"]
    put(e_FD, e_FD + _over_square(1 - (e_FD * d_FD).sum(1), d_FD) * d_FD, stop_1)


def _over_square(a_F: Tensor, d_FD: Tensor) -> Tensor:
    square_F = d_FD.square().sum(1)
    return torch.where(square_F > 0, a_F / square_F, 0)[:, None]
