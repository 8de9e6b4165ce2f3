"""Encoders and decoders held at an inner product of 1: the projection, and the gradients of the reparameterization."""

import torch
from kernel_cases import mapped, nan_like, random_weights

from unmix.dictionary.nonlinearities import Relu
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels import aligned, reference
from unmix.kernels.task import Task

TASK = Task(Relu(), ((1.0, SquaredError()), (0.3, L1())))


def prepared():
    weights = random_weights(5, 12, 0, E=5)
    g = torch.Generator().manual_seed(1)
    return torch.randn(9, 5, generator=g).double(), weights


def products(weights):
    return (weights["W_enc"].T * weights["W_dec"]).sum(1)


def test_hold_brings_every_inner_product_to_one_along_the_decoder_alone():
    _, weights = prepared()
    before = weights["W_enc"].clone()
    assert not torch.allclose(products(weights), torch.ones(12).double())
    aligned.hold(weights)
    torch.testing.assert_close(products(weights), torch.ones(12).double())
    moved_FD = (weights["W_enc"] - before).T
    across_FD = moved_FD - (moved_FD * weights["W_dec"]).sum(1, keepdim=True) * weights["W_dec"] / weights[
        "W_dec"
    ].square().sum(1, keepdim=True)
    torch.testing.assert_close(across_FD, torch.zeros_like(across_FD))


def test_a_decoder_row_of_norm_zero_leaves_its_encoder():
    _, weights = prepared()
    weights["W_dec"][3] = 0
    before = weights["W_enc"][:, 3].clone()
    aligned.hold(weights)
    assert torch.equal(weights["W_enc"][:, 3], before)
    assert all(weight.isfinite().all() for weight in weights.values())


def test_the_gradients_are_those_by_v_and_d():
    """By autograd through e = v + (1 - v·d) d / ||d||², at v = e."""
    x_BD, weights = prepared()
    aligned.hold(weights)
    gradients = nan_like(weights)
    reference.step(x_BD, x_BD, weights, gradients, TASK)
    aligned.tangent(weights, gradients)

    leaves = mapped(lambda w: w.detach().clone().requires_grad_(), weights)
    v_FD, d_FD = leaves["W_enc"].T, leaves["W_dec"]
    e_FD = v_FD + ((1 - (v_FD * d_FD).sum(1)) / d_FD.square().sum(1))[:, None] * d_FD
    passed = reference.forward(x_BD, x_BD, leaves | {"W_enc": e_FD.T}, TASK)
    loss = sum(c * term(passed) for c, term in TASK.objective) / len(x_BD)
    wanted = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    for name in wanted:
        torch.testing.assert_close(gradients[name], wanted[name])
