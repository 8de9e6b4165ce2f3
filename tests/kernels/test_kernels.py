"""Every fast step against the definition: values, gradients, and the memory it takes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmix.kernels import cpu, dense, reference
from unmix.kernels.noise import Noise, noise_key
from unmix.kernels.reference import Objective, Weights

FAST = pytest.mark.parametrize("kernel", [dense, cpu], ids=["dense", "cpu"])


def random_weights(D: int, F: int, seed: int, dtype: torch.dtype) -> Weights:
    g = torch.Generator().manual_seed(seed)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    return Weights(make(F, D).T, make(F), make(F, D), make(D))


def nan_like(weights: Weights) -> Weights:
    return Weights(*(torch.full_like(w, torch.nan) for w in weights))


@FAST
@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 200),
    D=st.integers(1, 9),
    F=st.integers(1, 33),
    l1=st.sampled_from([0.0, 0.3, 50.0]),
    shift=st.sampled_from([-9.0, -2.0, 0.0, 9.0]),
    phi=st.sampled_from(["relu", "tanh_relu"]),
    weigh=st.booleans(),
    norm_power=st.sampled_from([0, 1, 2]),
    sigma=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 10**6),
)
def test_agrees_with_the_reference_in_double_precision(kernel, B, D, F, l1, shift, phi, weigh, norm_power, sigma, seed):
    weights = random_weights(D, F, seed, torch.float64)
    weights.b_enc_F.add_(shift)  # from no feature active to all of them
    x_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    mine, theirs = nan_like(weights), nan_like(weights)
    workspace = kernel.Workspace(F, weights.b_enc_F)
    workspace.tile = 64  # several tiles: noise and sums must not depend on them
    noise = Noise(sigma, noise_key(seed, 3)) if sigma else None
    objective = Objective(l1, phi, weigh, norm_power, noise)
    got = kernel.step(x_BD, weights, mine, objective, workspace)
    want = reference.step(x_BD, weights, theirs, objective)
    assert got.squared_error == pytest.approx(want.squared_error)
    assert got.reconstruction == pytest.approx(want.reconstruction)
    assert got.penalty == pytest.approx(want.penalty)
    torch.testing.assert_close(got.active_F, want.active_F)
    for name, a, b in zip(Weights._fields, mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)


@FAST
def test_a_dead_decoder_row_has_the_gradients_of_the_reference(kernel):
    weights = random_weights(4, 6, 0, torch.float32)
    weights.W_dec_FD[2] = 0
    mine, theirs = nan_like(weights), nan_like(weights)
    x_BD = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    kernel.step(x_BD, weights, mine, Objective(500.0), kernel.Workspace(6, weights.b_enc_F))
    reference.step(x_BD, weights, theirs, Objective(500.0))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@FAST
def test_a_token_of_length_zero_weighs_nothing_in_a_divided_error(kernel):
    weights, x_BD = random_weights(4, 6, 0, torch.float64), torch.randn(5, 4, dtype=torch.float64)
    x_BD[2] = 0
    mine, theirs = nan_like(weights), nan_like(weights)
    got = kernel.step(x_BD, weights, mine, Objective(0.0, norm_power=2), kernel.Workspace(6, weights.b_enc_F))
    reference.step(x_BD, weights, theirs, Objective(0.0, norm_power=2))
    assert got.squared_error > got.reconstruction > 0
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("phi", ["relu", "tanh_relu"])
@pytest.mark.parametrize("weigh", [True, False])
@pytest.mark.parametrize("norm_power", [0, 1, 2])
def test_the_reference_agrees_with_finite_differences(phi, weigh, norm_power):
    weights, x_BD = random_weights(3, 5, 1, torch.float64), torch.randn(7, 3, dtype=torch.float64)
    objective = Objective(0.7, phi, weigh, norm_power, Noise(0.3, noise_key(0, 1)))
    gradients, unused = nan_like(weights), nan_like(weights)
    reference.step(x_BD, weights, gradients, objective)

    def loss() -> float:
        sums = reference.step(x_BD, weights, unused, objective)
        return (sums.reconstruction + objective.l1 * sums.penalty) / len(x_BD)

    for weight, gradient in zip(weights, gradients, strict=True):
        for at in np.ndindex(*weight.shape):
            there = weight[at].item()
            weight[at] = there + 1e-6
            above = loss()
            weight[at] = there - 1e-6
            below = loss()
            weight[at] = there
            assert (above - below) / 2e-6 == pytest.approx(gradient[at].item(), rel=1e-4, abs=1e-6)


@FAST
def test_nan_in_the_activations_is_not_hidden(kernel):
    weights = random_weights(4, 6, 0, torch.float32)
    gradients = nan_like(weights)
    x_BD = torch.randn(8, 4)
    x_BD[3, 1] = torch.nan
    sums = kernel.step(x_BD, weights, gradients, Objective(1.0), kernel.Workspace(6, weights.b_enc_F))
    assert sums.squared_error != sums.squared_error
    assert sums.active_F.sum() > 0
    assert gradients.W_dec_FD.isnan().any()


@FAST
def test_the_peak_of_memory_holds_no_tokens_by_features_by_width_tensor(kernel):
    B, D, F = 1024, 64, 1024  # B·F·D floats would be 268 MB
    weights = random_weights(D, F, 0, torch.float32)
    gradients = nan_like(weights)
    x_BD, workspace = torch.randn(B, D), kernel.Workspace(F, weights.b_enc_F)
    with torch.profiler.profile(profile_memory=True) as profile:
        kernel.step(x_BD, weights, gradients, Objective(5.0), workspace)
    grown = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert grown < B * F * 4, f"{grown / 1e6:.0f} MB were allocated in one step, all allocations together"
