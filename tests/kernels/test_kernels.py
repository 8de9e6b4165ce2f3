"""Every fast step against the definition: values, gradients, and the memory it takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmix.kernels import cpu, dense, reference
from unmix.kernels.reference import Weights

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
    weigh=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_agrees_with_the_reference_in_double_precision(kernel, B, D, F, l1, shift, weigh, seed):
    weights = random_weights(D, F, seed, torch.float64)
    weights.b_enc_F.add_(shift)  # from no feature active to all of them
    x_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    mine, theirs = nan_like(weights), nan_like(weights)
    workspace = kernel.Workspace(F, weights.b_enc_F)
    got = kernel.step(x_BD, weights, mine, l1, weigh_by_norm=weigh, workspace=workspace)
    want = reference.step(x_BD, weights, theirs, l1, weigh_by_norm=weigh)
    assert got.squared_error == pytest.approx(want.squared_error)
    assert got.penalty == pytest.approx(want.penalty)
    torch.testing.assert_close(got.active_F, want.active_F)
    for name, a, b in zip(Weights._fields, mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)


@FAST
def test_a_dead_decoder_row_has_the_gradients_of_the_reference(kernel):
    weights = random_weights(4, 6, 0, torch.float32)
    weights.W_dec_FD[2] = 0
    mine, theirs = nan_like(weights), nan_like(weights)
    x_BD, l1 = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), 500.0
    kernel.step(x_BD, weights, mine, l1, weigh_by_norm=True, workspace=kernel.Workspace(6, weights.b_enc_F))
    reference.step(x_BD, weights, theirs, l1, weigh_by_norm=True)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@FAST
def test_nan_in_the_activations_is_not_hidden(kernel):
    weights = random_weights(4, 6, 0, torch.float32)
    gradients = nan_like(weights)
    x_BD = torch.randn(8, 4)
    x_BD[3, 1] = torch.nan
    sums = kernel.step(
        x_BD, weights, gradients, 1.0, weigh_by_norm=True, workspace=kernel.Workspace(6, weights.b_enc_F)
    )
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
        kernel.step(x_BD, weights, gradients, 5.0, weigh_by_norm=True, workspace=workspace)
    grown = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert grown < B * F * 4, f"{grown / 1e6:.0f} MB were allocated in one step, all allocations together"
