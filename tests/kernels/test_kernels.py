"""Every fast step against the definition: values, gradients, and the memory it takes."""

import tracemalloc

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import nan_like, random_weights, worst

from unmix.kernels import cpu, dense, dense_bf16, reference, rows
from unmix.kernels.noise import noise_key
from unmix.kernels.reference import Adam, Noise, Objective, Sums, Weights


def dense_step(x_BD: torch.Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
    workspace = dense.Workspace(len(weights.b_enc_F), weights.b_enc_F)
    workspace.tile = 64  # several tiles: noise and sums must not depend on them
    return dense.step(x_BD, weights, gradients, objective, workspace)


def cpu_step(x_BD: torch.Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
    return cpu.step(x_BD, weights, gradients, objective, cpu.Workspace(tile_bytes=1))  # tiles of 48 features


def bf16_step(x_BD: torch.Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
    return cpu.step(x_BD, weights, gradients, objective, cpu.Workspace("bf16", tile_bytes=1))


def int8_step(x_BD: torch.Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
    return cpu.step(x_BD, weights, gradients, objective, cpu.Workspace("int8", tile_bytes=1))


def dense_bf16_step(x_BD: torch.Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
    workspace = dense_bf16.Workspace(*weights.W_dec_FD.shape)
    workspace.tile = 64
    return dense_bf16.step(x_BD, weights, gradients, objective, workspace)


FAST = pytest.mark.parametrize("step", [dense_step, cpu_step], ids=["dense", "cpu"])
ANY = pytest.mark.parametrize(
    "step", [dense_step, cpu_step, bf16_step, int8_step], ids=["dense", "cpu", "cpu-bf16", "cpu-int8"]
)
EVERY = pytest.mark.parametrize(
    "step",
    [dense_step, dense_bf16_step, cpu_step, bf16_step, int8_step],
    ids=["dense", "dense-bf16", "cpu", "cpu-bf16", "cpu-int8"],
)


def in_bf16(weights: Weights) -> Weights:
    """Rounded, so that a product in bf16 finds the same signs as one in fp32."""
    return Weights(*(w.bfloat16().to(w.dtype) for w in weights))


@FAST
@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 200),
    D=st.integers(1, 9),
    F=st.integers(1, 140),
    l1=st.sampled_from([0.0, 0.3, 50.0]),
    shift=st.sampled_from([-9.0, -2.0, 0.0, 9.0]),
    phi=st.sampled_from(["relu", "tanh_relu"]),
    weigh=st.booleans(),
    norm_power=st.sampled_from([0, 1, 2]),
    sigma=st.sampled_from([0.0, 1.5]),
    unit_norm=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_agrees_with_the_reference_in_double_precision(
    step, B, D, F, l1, shift, phi, weigh, norm_power, sigma, unit_norm, seed
):
    weights = random_weights(D, F, seed, torch.float64)
    weights.b_enc_F.add_(shift)  # from no feature active to all of them
    x_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    mine, theirs = nan_like(weights), nan_like(weights)
    noise = Noise(sigma, noise_key(seed, 3)) if sigma else None
    objective = Objective(l1, phi, weigh, norm_power, noise, unit_norm)
    got = step(x_BD, weights, mine, objective)
    want = reference.step(x_BD, weights, theirs, objective)
    assert got.squared_error == pytest.approx(want.squared_error)
    assert got.reconstruction == pytest.approx(want.reconstruction)
    assert got.penalty == pytest.approx(want.penalty)
    assert got.gradient_square == pytest.approx(want.gradient_square)
    torch.testing.assert_close(got.active_F, want.active_F)
    assert got.square_B.dtype == torch.float64
    torch.testing.assert_close(got.square_B, want.square_B)
    for name, a, b in zip(Weights._fields, mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)


@FAST
def test_a_dead_decoder_row_has_the_gradients_of_the_reference(step):
    weights = random_weights(4, 6, 0, torch.float32)
    weights.W_dec_FD[2] = 0
    mine, theirs = nan_like(weights), nan_like(weights)
    x_BD = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    step(x_BD, weights, mine, Objective(500.0))
    reference.step(x_BD, weights, theirs, Objective(500.0))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@FAST
def test_a_token_of_length_zero_weighs_nothing_in_a_divided_error(step):
    weights, x_BD = random_weights(4, 6, 0, torch.float64), torch.randn(5, 4, dtype=torch.float64)
    x_BD[2] = 0
    mine, theirs = nan_like(weights), nan_like(weights)
    got = step(x_BD, weights, mine, Objective(0.0, norm_power=2))
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


@EVERY
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_in_the_activations_is_not_hidden(step, sign):
    weights = random_weights(4, 40, 0, torch.float32)
    gradients = nan_like(weights)
    x_BD = torch.randn(8, 4)
    x_BD[3, 1] = sign * torch.nan
    sums = step(x_BD, weights, gradients, Objective(1.0))
    assert sums.squared_error != sums.squared_error
    assert sums.gradient_square != sums.gradient_square
    assert sums.active_F.sum() > 0
    assert gradients.W_dec_FD.isnan().any()


@ANY
@pytest.mark.parametrize(
    ("B", "F", "shift", "size"),
    [
        (1, 70, 0.0, 1.0), (33, 1, 0.0, 1.0), (64, 100, -8192.0, 1.0), (64, 100, 8192.0, 1.0),
        (40, 77, 0.0, 2.0**26), (40, 77, 0.0, 2.0**-40),
    ],
    ids=["one token", "one feature", "none active", "all active", "huge", "tiny"],
)  # fmt: skip
def test_the_corners_in_single_precision(step, B, F, shift, size):
    weights = in_bf16(random_weights(16, F, 3, torch.float32))
    weights.b_enc_F.mul_(size).add_(shift)
    weights.b_dec_D.mul_(size)
    x_BD = torch.randn(B, 16, generator=torch.Generator().manual_seed(4)).bfloat16().float() * size
    mine, theirs = nan_like(weights), nan_like(weights)
    got, want = step(x_BD, weights, mine, Objective(0.5)), reference.step(x_BD, weights, theirs, Objective(0.5))
    assert worst(mine, theirs) < 1e-5
    assert got.squared_error == pytest.approx(want.squared_error, rel=1e-3)
    if abs(shift) > 1:
        torch.testing.assert_close(got.active_F, want.active_F)
        assert got.active_F.sum().item() == (B * F if shift > 0 else 0)


@ANY
def test_rows_empty_and_full_and_activations_that_are_not_contiguous(step):
    weights = in_bf16(random_weights(12, 90, 5, torch.float32))
    weights.b_enc_F[:30], weights.b_enc_F[30:33] = -1024, 1024  # never active, always active
    wide = torch.randn(24, 100, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    x_BD = wide.T[::2, ::2]
    mine, theirs = nan_like(weights), nan_like(weights)
    got, want = step(x_BD, weights, mine, Objective(0.5)), reference.step(x_BD, weights, theirs, Objective(0.5))
    assert worst(mine, theirs) < 1e-5
    assert got.active_F[:30].sum() == 0
    assert (got.active_F[30:33] == len(x_BD)).all()
    assert got.penalty == pytest.approx(want.penalty, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 200),
    D=st.integers(8, 40),  # with few numbers x̂ - x may all but cancel, and what is left is rounding
    F=st.integers(1, 140),
    l1=st.sampled_from([0.0, 0.3, 50.0]),
    weigh=st.booleans(),
    norm_power=st.sampled_from([0, 1, 2]),
    unit_norm=st.booleans(),
    active=st.sampled_from([0.0, 0.5, 1.0]),
    mean=st.sampled_from([0.0, 100.0]),
    size=st.sampled_from([2.0**-40, 1.0, 2.0**26]),
    strided=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_dense_products_in_bf16_are_within_its_rounding(
    B, D, F, l1, weigh, norm_power, unit_norm, active, mean, size, strided, seed
):
    g = torch.Generator().manual_seed(seed + 1)
    weights, mean_D = random_weights(D, F, seed, torch.float32), torch.full((D,), mean * size)
    x_BD = size * (torch.randn(D, 2 * B, generator=g).T[::2] if strided else torch.randn(B, D, generator=g))
    sure_F = torch.where(torch.rand(F, generator=g) < active, 2, -2)  # no z is near 0: rounding moves no feature
    weights.b_enc_F.copy_(sure_F * x_BD.norm(dim=1).max() * weights.W_enc_DF.norm(dim=0))
    weights.b_enc_F.sub_(mean_D @ weights.W_enc_DF)
    weights.b_dec_D.mul_(size).add_(mean_D)
    x_BD = x_BD + mean_D
    objective = Objective(l1, "relu", weigh, norm_power, None, unit_norm)
    exact = Weights(*(w.double() for w in weights))
    mine, theirs = nan_like(weights), nan_like(exact)
    got = dense_bf16_step(x_BD, weights, mine, objective)
    want = reference.step(x_BD.double(), exact, theirs, objective)
    torch.testing.assert_close(got.active_F.double(), want.active_F)
    for a, b in ((got.squared_error, want.squared_error), (got.reconstruction, want.reconstruction)):
        assert a == pytest.approx(b, rel=0.02)
    assert got.penalty == pytest.approx(want.penalty, rel=0.01)
    if size == 1:  # in a row of 2**26 the squares may leave float32
        assert got.gradient_square == pytest.approx(sum(g.double().square().sum().item() for g in mine), rel=1e-3)
    for name, a, b in zip(Weights._fields, mine, theirs, strict=True):
        assert (a - b).norm() <= 0.02 * b.norm(), name


@pytest.mark.parametrize("steps", [0, 30, 120], ids=lambda n: f"after {n} steps")
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0, 3.0])
def test_dense_steps_in_bf16_err_no_more_than_autocast(mean, steps):
    """Also where the mean is not in b_dec, and the dictionary has to give it: ‖μ‖ is `mean` times ‖x - μ‖."""
    D, F, B = 64, 512, 512
    W_dec_FD = torch.randn(F, D, generator=torch.Generator().manual_seed(0))
    W_dec_FD *= 0.1 / W_dec_FD.norm(dim=1, keepdim=True)
    weights = Weights(W_dec_FD.clone().T, torch.zeros(F), W_dec_FD, torch.zeros(D))
    gradients, first, second = (Weights(*(torch.zeros_like(w) for w in weights)) for _ in range(3))
    directions = torch.randn(128, D, generator=torch.Generator().manual_seed(1))
    mean_D = torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(2)), dim=0)

    def batch(seed):
        g = torch.Generator().manual_seed(seed)
        x_BD = (torch.rand(B, 128, generator=g) * (torch.rand(B, 128, generator=g) < 0.04)) @ directions
        x_BD -= x_BD.mean(0)
        return D**0.5 * (x_BD / x_BD.norm(dim=1).mean() + mean * mean_D)

    for number in range(steps):
        sums = dense_step(batch(10 + number), weights, gradients, Objective(0.2))
        how = Adam(3e-3, number + 1, (0.9, 0.999), min(1.0, sums.gradient_square**-0.5))
        rows.adam(weights, gradients, first, second, how)
    x_BD, exact = batch(3), Weights(*(w.double() for w in weights))
    mine, wanted = nan_like(weights), nan_like(exact)
    dense_bf16_step(x_BD, weights, mine, Objective(0.2))
    sums = reference.step(x_BD.double(), exact, wanted, Objective(0.2))
    leaves = [w.clone().requires_grad_() for w in weights]
    W_enc_DF, b_enc_F, W_dec, b_dec_D = leaves
    with torch.autocast("cpu", dtype=torch.bfloat16):
        f_BF = torch.relu(x_BD @ W_enc_DF + b_enc_F)
        x_hat_BD = f_BF @ W_dec + b_dec_D
    penalty = (f_BF.float() * W_dec.norm(dim=1)).sum(1).mean()
    theirs = torch.autograd.grad((x_hat_BD.float() - x_BD).square().sum(1).mean() + 0.2 * penalty, leaves)
    left = sums.squared_error / (x_BD - x_BD.mean(0)).square().sum().item()  # 1 - explained variance
    for name, a, b, want in zip(Weights._fields, mine, theirs, wanted, strict=True):
        error, of_autocast = ((g - want).norm() / want.norm() for g in (a, b))
        assert error <= 1.2 * of_autocast + 0.002, name
        assert error <= 0.012 / min(1, left) ** 0.5, name


@pytest.mark.parametrize("norm_power", [0, 2])
def test_a_dead_decoder_row_and_a_token_of_length_zero_in_bf16(norm_power):
    weights, x_BD = random_weights(16, 40, 0, torch.float32), torch.randn(30, 16)
    weights.b_enc_F.copy_(torch.where(torch.arange(40) % 2 == 0, 100, -100))
    weights.W_dec_FD[2], x_BD[5] = 0, 0
    mine, theirs = nan_like(weights), nan_like(weights)
    got = dense_bf16_step(x_BD, weights, mine, Objective(500.0, norm_power=norm_power))
    want = reference.step(x_BD, weights, theirs, Objective(500.0, norm_power=norm_power))
    assert got.reconstruction == pytest.approx(want.reconstruction, rel=0.02)
    for name, a, b in zip(Weights._fields, mine, theirs, strict=True):
        assert (a - b).norm() <= 0.02 * b.norm(), name


@pytest.mark.parametrize(("step", "missed"), [(bf16_step, 0.01), (int8_step, 0.0005)], ids=["bf16", "int8"])
@pytest.mark.parametrize(
    ("shift", "spread"),
    [(0.0, 1.0), (100.0, 1.0), (0.0, 30.0)],
    ids=["even", "one far dimension", "one wide dimension"],
)
def test_a_coarse_product_misses_only_what_lies_within_its_rounding_of_zero(step, missed, shift, spread):
    weights = random_weights(64, 500, 6, torch.float32)
    weights.b_enc_F.sub_(8)  # a sixth is active
    x_BD = torch.randn(300, 64, generator=torch.Generator().manual_seed(7)) + 0.5
    x_BD[:, 3] = spread * x_BD[:, 3] + shift
    weights.W_enc_DF[3] /= spread**0.5  # so that the wide dimension does not decide alone
    weights.b_enc_F.sub_(shift * weights.W_enc_DF[3])
    gradients, exact = nan_like(weights), nan_like(weights)
    got, want = step(x_BD, weights, gradients, Objective(0.5)), reference.step(x_BD, weights, exact, Objective(0.5))
    z_BF = x_BD @ weights.W_enc_DF + weights.b_enc_F
    rounding = 2**-8 * (x_BD.abs() @ weights.W_enc_DF.abs() + weights.b_enc_F.abs())
    missed_F = want.active_F - got.active_F
    assert 0.05 < want.active_F.sum() / z_BF.numel() < 0.3
    assert (missed_F >= 0).all(), "nothing is active that is not positive in fp32"
    assert (missed_F <= ((z_BF > 0) & (z_BF < rounding)).sum(0)).all()
    assert missed_F.sum() <= missed * want.active_F.sum() * (10 if (shift or spread > 1) and step is bf16_step else 1)


@EVERY
def test_the_same_bits_twice_and_on_one_thread(step):
    weights = random_weights(48, 300, 8, torch.float32)
    x_BD = torch.randn(200, 48, generator=torch.Generator().manual_seed(9))
    found = []
    for threads in (numba.get_num_threads(), numba.get_num_threads(), 1):
        numba.set_num_threads(threads)
        gradients = nan_like(weights)
        sums = step(x_BD, weights, gradients, Objective(0.5))
        found.append((gradients, sums))
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for gradients, sums in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients, found[0][0], strict=True))
        assert sums.gradient_square == found[0][1].gradient_square
        assert torch.equal(sums.active_F, found[0][1].active_F)


@settings(max_examples=20, deadline=None)
@given(
    D=st.integers(1, 40),
    F=st.integers(1, 40),
    number=st.sampled_from([1, 2, 1000]),
    shrink=st.sampled_from([1.0, 0.01]),
    unit_norm=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_adam_in_one_pass_is_adam(D, F, number, shrink, unit_norm, seed):
    mine, gradients, first = (random_weights(D, F, seed + n, torch.float64) for n in range(3))
    second = Weights(*(w.square() for w in random_weights(D, F, seed + 3, torch.float64)))
    theirs = [Weights(*(w.clone() for w in tensors)) for tensors in (mine, gradients, first, second)]
    how = Adam(lr=0.1, number=number, betas=(0.9, 0.99), shrink=shrink, unit_norm=unit_norm)
    rows.adam(mine, gradients, first, second, how)
    reference.adam(*theirs, how)
    for name, a, b in zip(Weights._fields, mine + first + second, theirs[0] + theirs[2] + theirs[3], strict=False):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)


def test_adam_is_that_of_torch():
    weights, gradients = random_weights(20, 30, 1, torch.float32), random_weights(20, 30, 2, torch.float32)
    theirs = [w.clone().requires_grad_() for w in weights]
    torchs = torch.optim.Adam(theirs, lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    first, second = (Weights(*(torch.zeros_like(w) for w in weights)) for _ in range(2))
    for number in range(1, 6):
        for leaf, g in zip(theirs, gradients, strict=True):
            leaf.grad = g * number
        torchs.step()
        scaled = Weights(*(g * number for g in gradients))
        rows.adam(weights, scaled, first, second, Adam(0.01, number, (0.9, 0.999)))
    for a, b in zip(weights, theirs, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [dense, dense_bf16, cpu], ids=["dense", "dense-bf16", "cpu"])
def test_a_step_allocates_nothing_of_the_size_of_tokens_by_features(kernel):
    B, D, F = 1024, 64, 2048
    weights = random_weights(D, F, 0, torch.float32)
    weights.b_enc_F.sub_(16)  # a few percent active
    gradients, x_BD = nan_like(weights), torch.randn(B, D)
    workspace = {
        cpu: cpu.Workspace,
        dense: lambda: dense.Workspace(F, weights.b_enc_F),
        dense_bf16: lambda: dense_bf16.Workspace(F, D),
    }[kernel]()
    kernel.step(x_BD, weights, gradients, Objective(5.0), workspace)
    tracemalloc.start()
    with torch.profiler.profile(profile_memory=True) as profile:
        kernel.step(x_BD, weights, gradients, Objective(5.0), workspace)
    by_numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    by_torch = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert by_numpy + by_torch < B * F * 4 / 2, f"{by_numpy / 1e6:.1f} + {by_torch / 1e6:.1f} MB in one step"
