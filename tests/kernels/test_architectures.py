"""The sparse step of every nonlinearity and every term, against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import nan_like, random_weights

from unmix.dictionary.nonlinearities import BatchTopK, Gated, JumpRelu, Relu, TanhRelu, TopK
from unmix.dictionary.terms import L0, L1, Gate, GateError, SquaredError
from unmix.kernels import cpu, find, reference
from unmix.kernels.noise import noise_key
from unmix.kernels.task import Noise, Task

KINDS = {  # the nonlinearity for a k, the terms beside the squared error for a coefficient
    "relu": (lambda k: Relu(), lambda c: ((c, L1()),)),
    "tanh_relu": (lambda k: TanhRelu(), lambda c: ((c, L1(weigh_by_norm=False)),)),
    "jumprelu": (lambda k: JumpRelu(bandwidth=1.0), lambda c: ((c, L0(bandwidth=1.0)),)),
    "jumprelu with l1": (lambda k: JumpRelu(bandwidth=0.3), lambda c: ((c, L1()),)),
    "topk": (lambda k: TopK(max(1, round(k))), lambda c: ()),
    "topk by z": (lambda k: TopK(max(1, round(k)), weigh_by_norm=False), lambda c: ()),
    "batchtopk": (lambda k: BatchTopK(k), lambda c: ()),
    "gated": (lambda k: Gated(), lambda c: ((c, Gate()), (1.0, GateError()))),
    "gated with l1": (lambda k: Gated(), lambda c: ((c, L1()),)),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 60),
    D=st.integers(1, 9),
    E=st.integers(1, 9),
    F=st.integers(1, 120),
    k=st.sampled_from([0.2, 1.0, 2.5, 7.0, 500.0]),
    c=st.sampled_from([0.0, 0.3, 20.0]),
    shift=st.sampled_from([-9.0, -2.0, 0.0, 9.0]),
    norm_power=st.sampled_from([0, 1]),
    in_prefixes=st.booleans(),
    sigma=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_agrees_with_the_reference_in_double_precision(
    kind, B, D, E, F, k, c, shift, norm_power, in_prefixes, sigma, seed
):
    phi, more = (make(value) for make, value in zip(KINDS[kind], (k, c), strict=True))
    g = torch.Generator().manual_seed(seed)
    own = {name: 0.3 * torch.randn(F, generator=g).double().abs() for name in phi.start(F)}
    weights = random_weights(D, F, seed, E=E) | own
    weights["b_enc"].add_(shift)
    x_BD, y_BE = (torch.randn(B, width, generator=g).double() for width in (D, E))
    prefixes = tuple(sorted({max(1, F // 5), max(1, F // 2), F})) if in_prefixes else ()
    objective = ((1.0, SquaredError(norm_power, prefixes)), *more)
    asked = Task(phi, objective, Noise(sigma, noise_key(seed, 3)) if sigma else None)
    assert cpu.covers(asked)
    mine, theirs = nan_like(weights), nan_like(weights)
    got = cpu.step(x_BD, y_BE, weights, mine, asked, find.Workspace(tile_bytes=1))  # tiles of 48 features
    want = reference.step(x_BD, y_BE, weights, theirs, asked)
    torch.testing.assert_close(got.active_F, want.active_F)
    torch.testing.assert_close(got.square_B, want.square_B)
    for field in ("squared_error", "terms", "penalty"):
        assert getattr(got, field) == pytest.approx(getattr(want, field), rel=1e-9, abs=1e-9), field
    assert got.threshold == (want.threshold if want.threshold is None else pytest.approx(want.threshold))
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-9, atol=1e-9, msg=name)
