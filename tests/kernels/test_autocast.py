"""The definition with its products in bf16: the same mathematics, rounded as little as said."""

import pytest
import torch
from contract.cases import every_architecture
from contract.test_step import OPTIONS, assert_close, prepared
from kernel_cases import mapped, nan_like

from unmix.dictionary.nonlinearities import BatchTopK, TopK
from unmix.kernels import autocast, reference, tiles
from unmix.kernels.dispatch import Step


def apart(mine, theirs):
    """By parameter, the distance of two gradients over the length of the second."""
    return {name: ((mine[name].double() - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@every_architecture
def test_about_the_mean_the_gradient_is_that_of_the_definition(architecture, options):
    """In float64, which autocast leaves as it is."""
    x_BD, y_BE, weights, asked = prepared(architecture, **options)
    x_BD = x_BD + 3
    mine, theirs = nan_like(weights), nan_like(weights)
    got = autocast.launch(x_BD, y_BE, weights, mine, asked).read()
    wanted = reference.step(x_BD, y_BE, weights, theirs, asked)
    assert_close(mine, theirs, 1e-9)
    assert torch.equal(got.active_F, wanted.active_F)
    torch.testing.assert_close(torch.tensor(got.terms), torch.tensor(wanted.terms))
    torch.testing.assert_close(got.square_B, wanted.square_B)


@every_architecture
def test_it_is_within_the_rounding_of_bf16_whatever_the_mean(architecture):
    """What a k keeps, and what is near a threshold, may differ in few entries; the slope of a tanh near 1 does."""
    for mean in (0.0, 3.0, 100.0):
        x_BD, _, weights, asked = prepared(architecture, D=32, E=32, F=64, B=512, k=8)
        x_BD = x_BD + mean
        weights["b_enc"] = weights["b_enc"] - mean * weights["W_enc"].sum(0)
        weights["b_dec"] = weights["b_dec"] + mean
        theirs, low = nan_like(weights), mapped(lambda w: w.float(), weights)
        reference.step(x_BD, x_BD, weights, theirs, asked)
        mine = nan_like(low)
        autocast.launch(x_BD.float(), x_BD.float(), low, mine, asked)
        most = {"threshold": 0.07} | ({"W_enc": 0.12, "b_enc": 0.03} if architecture == "tanh_relu" else {})
        usual = 0.03 if "topk" in architecture or architecture == "matryoshka" else 0.01
        for name, error in apart(mine, theirs).items():
            assert error < most.get(name, usual), (name, error)


def test_without_the_mean_taken_out_it_would_be_far_off():
    x_BD, _, weights, asked = prepared("relu", D=32, E=32, F=64, B=512)
    x_BD = x_BD + 100
    weights["b_enc"] = weights["b_enc"] - 100 * weights["W_enc"].sum(0)
    weights["b_dec"] = weights["b_dec"] + 100
    theirs, low = nan_like(weights), mapped(lambda w: w.float(), weights)
    reference.step(x_BD, x_BD, weights, theirs, asked)
    mine, plain = nan_like(low), nan_like(low)
    autocast.launch(x_BD.float(), x_BD.float(), low, mine, asked)
    with torch.autocast("cpu", torch.bfloat16):
        reference.launch(x_BD.float(), x_BD.float(), low, plain, asked)
    assert apart(mine, theirs)["W_enc"] < 0.02 < 0.1 < apart(plain, theirs)["W_enc"]


def test_tanh_stays_in_float32_there():
    x_BD, y_BE, weights, asked = prepared("tanh_relu")
    low, found = mapped(lambda w: w.float(), weights), []
    for dense in ("fp32", "bf16"):
        found.append(nan_like(low))
        Step(dense=dense, portable=True)(x_BD.float(), y_BE.float(), low, found[-1], asked)
    assert all(torch.equal(found[0][name], found[1][name]) for name in low)


@pytest.mark.parametrize("architecture", ["relu", "batchtopk"])
def test_the_portable_step_takes_it_where_dense_steps_are_asked_for_in_bf16(architecture, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)  # tiles of 64 tokens
    x_BD, y_BE, weights, asked = prepared(architecture, B=150)
    low = mapped(lambda w: w.float(), weights)
    x_BD, y_BE = x_BD.float(), y_BE.float()
    found = {}
    for dense in ("fp32", "bf16"):
        found[dense] = nan_like(low)
        Step(dense=dense, portable=True)(x_BD, y_BE, low, found[dense], asked)
    wanted = {name: torch.zeros_like(w) for name, w in low.items()}
    whole = isinstance(asked.phi, BatchTopK)
    for rows in [slice(None)] if whole else [slice(0, 64), slice(64, 128), slice(128, 150)]:
        part = nan_like(low)
        autocast.launch(x_BD[rows], y_BE[rows], low, part, asked)
        for name, gradient in wanted.items():
            gradient += part[name] * (len(x_BD[rows]) / 150)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found["bf16"][name], gradient)
    assert not torch.equal(found["bf16"]["W_dec"], found["fp32"]["W_dec"])


def test_what_is_kept_is_chosen_by_the_rounded_numbers_and_is_k():
    x_BD, y_BE, weights, asked = prepared("topk", D=32, E=32, F=64, B=100, k=8)
    assert isinstance(asked.phi, TopK)
    low = mapped(lambda w: w.float(), weights)
    sums = autocast.launch(x_BD.float(), y_BE.float(), low, nan_like(low), asked).read()
    assert sums.active_F.sum() == 8 * 100
