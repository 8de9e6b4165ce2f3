"""Every fast step against the definition: values, gradients, and the memory it takes."""

import math
import tracemalloc

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import like, mapped, nan_like, random_weights, task, worst
from torch import Tensor

from unmix.dictionary.terms import loss
from unmix.kernels import cpu, dense, dense_bf16, find, reference, rows
from unmix.kernels.noise import noise_key
from unmix.kernels.task import Adam, Noise, Sums, Task, Weights


def dense_step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, asked: Task) -> Sums:
    workspace = dense.Workspace(len(weights["b_enc"]), weights["b_enc"])
    workspace.tile = 64  # several tiles: noise and sums must not depend on them
    return dense.step(x_BD, y_BE, weights, gradients, asked, workspace)


def cpu_step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, asked: Task) -> Sums:
    workspace = find.Workspace(tile_bytes=1)  # tiles of 48 features
    return cpu.step(x_BD, y_BE, weights, gradients, asked, workspace)


def bf16_step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, asked: Task) -> Sums:
    return cpu.step(x_BD, y_BE, weights, gradients, asked, find.Workspace("bf16", tile_bytes=1))


def int8_step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, asked: Task) -> Sums:
    return cpu.step(x_BD, y_BE, weights, gradients, asked, find.Workspace("int8", tile_bytes=1))


def dense_bf16_step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, asked: Task) -> Sums:
    workspace = dense_bf16.Workspace(len(weights["b_enc"]), x_BD.shape[1], y_BE.shape[1])
    workspace.tile = 64
    return dense_bf16.step(x_BD, y_BE, weights, gradients, asked, workspace)


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
    return mapped(lambda w: w.bfloat16().to(w.dtype), weights)


@FAST
@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 200),
    D=st.integers(1, 9),
    E=st.one_of(st.none(), st.integers(1, 9)),
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
    step, B, D, E, F, l1, shift, phi, weigh, norm_power, sigma, unit_norm, seed
):
    """With a target of its own, E wide, or with x as its target; with a centre taken away from it, or none."""
    weights = random_weights(D, F, seed, torch.float64, E)
    weights["b_enc"].add_(shift)  # from no feature active to all of them
    g = torch.Generator().manual_seed(seed + 1)
    x_BD = torch.randn(B, D, generator=g, dtype=torch.float64)
    y_BE = torch.randn(B, E, generator=g, dtype=torch.float64) if E else x_BD
    mine, theirs = nan_like(weights), nan_like(weights)
    noise = Noise(sigma, noise_key(seed, 3)) if sigma else None
    centre_E = torch.randn(E or D, generator=g, dtype=torch.float64) if seed % 2 else None
    asked = task(l1, phi, weigh, norm_power, noise, unit_norm, centre_E)
    got = step(x_BD, y_BE, weights, mine, asked)
    want = reference.step(x_BD, y_BE, weights, theirs, asked)
    assert got.squared_error == pytest.approx(want.squared_error)
    assert got.terms == pytest.approx(want.terms)
    assert got.penalty == pytest.approx(want.penalty)
    torch.testing.assert_close(got.active_F, want.active_F)
    assert got.square_B.dtype == torch.float64
    torch.testing.assert_close(got.square_B, want.square_B)
    square = rows.finish(weights, mine, unit_norm)
    assert square == pytest.approx(reference.finish(weights, theirs, unit_norm))
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


@FAST
def test_a_dead_decoder_row_has_the_gradients_of_the_reference(step):
    weights = random_weights(4, 6, 0, torch.float32)
    weights["W_dec"][2] = 0
    mine, theirs = nan_like(weights), nan_like(weights)
    x_BD = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    step(x_BD, x_BD, weights, mine, task(500.0))
    reference.step(x_BD, x_BD, weights, theirs, task(500.0))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


@FAST
def test_a_token_of_length_zero_weighs_nothing_in_a_divided_error(step):
    weights, x_BD = random_weights(4, 6, 0, torch.float64), torch.randn(5, 4, dtype=torch.float64)
    x_BD[2] = 0
    mine, theirs = nan_like(weights), nan_like(weights)
    got = step(x_BD, x_BD, weights, mine, task(0.0, norm_power=2))
    reference.step(x_BD, x_BD, weights, theirs, task(0.0, norm_power=2))
    assert got.squared_error > got.terms[0] > 0
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("phi", ["relu", "tanh_relu"])
@pytest.mark.parametrize("weigh", [True, False])
@pytest.mark.parametrize("norm_power", [0, 1, 2])
def test_the_reference_agrees_with_finite_differences(phi, weigh, norm_power):
    weights = random_weights(3, 5, 1, torch.float64, E=4)
    x_BD, y_BE = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    asked = task(0.7, phi, weigh, norm_power, Noise(0.3, noise_key(0, 1)))
    gradients, unused = nan_like(weights), nan_like(weights)
    reference.step(x_BD, y_BE, weights, gradients, asked)

    def mean_loss() -> float:
        return loss(asked.objective, reference.step(x_BD, y_BE, weights, unused, asked).terms) / len(x_BD)

    for name, weight in weights.items():
        for at in np.ndindex(*weight.shape):
            there = weight[at].item()
            weight[at] = there + 1e-6
            above = mean_loss()
            weight[at] = there - 1e-6
            below = mean_loss()
            weight[at] = there
            assert (above - below) / 2e-6 == pytest.approx(gradients[name][at].item(), rel=1e-4, abs=1e-6)


@EVERY
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_in_the_activations_is_not_hidden(step, sign):
    weights = random_weights(4, 40, 0, torch.float32)
    gradients = nan_like(weights)
    x_BD = torch.randn(8, 4)
    x_BD[3, 1] = sign * torch.nan
    sums = step(x_BD, x_BD, weights, gradients, task(1.0))
    assert math.isnan(sums.squared_error)
    assert math.isnan(rows.finish(weights, gradients, False))
    assert sums.active_F.sum() > 0
    assert gradients["W_dec"].isnan().any()


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
    weights["b_enc"].mul_(size).add_(shift)
    weights["b_dec"].mul_(size)
    x_BD = torch.randn(B, 16, generator=torch.Generator().manual_seed(4)).bfloat16().float() * size
    mine, theirs = nan_like(weights), nan_like(weights)
    got, want = step(x_BD, x_BD, weights, mine, task(0.5)), reference.step(x_BD, x_BD, weights, theirs, task(0.5))
    assert worst(mine, theirs) < 1e-5
    assert got.squared_error == pytest.approx(want.squared_error, rel=1e-3)
    if abs(shift) > 1:
        torch.testing.assert_close(got.active_F, want.active_F)
        assert got.active_F.sum().item() == (B * F if shift > 0 else 0)


@ANY
def test_rows_empty_and_full_and_activations_that_are_not_contiguous(step):
    weights = in_bf16(random_weights(12, 90, 5, torch.float32))
    weights["b_enc"][:30], weights["b_enc"][30:33] = -1024, 1024  # never active, always active
    wide = torch.randn(24, 100, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    x_BD = wide.T[::2, ::2]
    mine, theirs = nan_like(weights), nan_like(weights)
    got, want = step(x_BD, x_BD, weights, mine, task(0.5)), reference.step(x_BD, x_BD, weights, theirs, task(0.5))
    assert worst(mine, theirs) < 1e-5
    assert got.active_F[:30].sum() == 0
    assert (got.active_F[30:33] == len(x_BD)).all()
    assert got.penalty == pytest.approx(want.penalty, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 200),
    D=st.integers(8, 40),  # with few numbers x̂ - x may all but cancel, and what is left is rounding
    E=st.one_of(st.none(), st.integers(8, 40)),
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
    B, D, E, F, l1, weigh, norm_power, unit_norm, active, mean, size, strided, seed
):
    g = torch.Generator().manual_seed(seed + 1)
    weights, mean_D = random_weights(D, F, seed, torch.float32, E), torch.full((D,), mean * size)
    x_BD = size * (torch.randn(D, 2 * B, generator=g).T[::2] if strided else torch.randn(B, D, generator=g))
    sure_F = torch.where(torch.rand(F, generator=g) < active, 2, -2)  # no z is near 0: rounding moves no feature
    weights["b_enc"].copy_(sure_F * x_BD.norm(dim=1).max() * weights["W_enc"].norm(dim=0))
    weights["b_enc"].sub_(mean_D @ weights["W_enc"])
    weights["b_dec"].mul_(size).add_(mean * size)
    y_BE = size * torch.randn(B, E, generator=g) + mean * size if E else x_BD + mean_D
    x_BD = x_BD + mean_D
    asked = task(l1, "relu", weigh, norm_power, None, unit_norm)
    exact = mapped(Tensor.double, weights)
    mine, theirs = nan_like(weights), nan_like(exact)
    got = dense_bf16_step(x_BD, y_BE, weights, mine, asked)
    want = reference.step(x_BD.double(), y_BE.double(), exact, theirs, asked)
    torch.testing.assert_close(got.active_F.double(), want.active_F)
    for a, b in ((got.squared_error, want.squared_error), (got.terms[0], want.terms[0])):
        assert a == pytest.approx(b, rel=0.02)
    assert got.penalty == pytest.approx(want.penalty, rel=0.01)
    square = rows.finish(weights, mine, unit_norm)
    reference.finish(exact, theirs, unit_norm)
    if size == 1:  # in a row of 2**26 the squares may leave float32
        assert square == pytest.approx(sum(g.double().square().sum().item() for g in mine.values()), rel=1e-3)
    for name, gradient in theirs.items():
        assert (mine[name] - gradient).norm() <= 0.02 * gradient.norm(), name


@pytest.mark.parametrize("steps", [0, 30, 120], ids=lambda n: f"after {n} steps")
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0, 3.0])
def test_dense_steps_in_bf16_err_no_more_than_autocast(mean, steps):
    """Also where the mean is not in b_dec, and the dictionary has to give it: ‖μ‖ is `mean` times ‖x - μ‖."""
    D, F, B = 64, 512, 512
    W_dec_FD = torch.randn(F, D, generator=torch.Generator().manual_seed(0))
    W_dec_FD *= 0.1 / W_dec_FD.norm(dim=1, keepdim=True)
    weights = {"W_enc": W_dec_FD.clone().T, "b_enc": torch.zeros(F), "W_dec": W_dec_FD, "b_dec": torch.zeros(D)}
    gradients, first, second = (like(weights, 0.0) for _ in range(3))
    directions = torch.randn(128, D, generator=torch.Generator().manual_seed(1))
    mean_D = torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(2)), dim=0)

    def batch(seed):
        g = torch.Generator().manual_seed(seed)
        x_BD = (torch.rand(B, 128, generator=g) * (torch.rand(B, 128, generator=g) < 0.04)) @ directions
        x_BD -= x_BD.mean(0)
        return D**0.5 * (x_BD / x_BD.norm(dim=1).mean() + mean * mean_D)

    for number in range(steps):
        x_BD = batch(10 + number)
        dense_step(x_BD, x_BD, weights, gradients, task(0.2))
        how = Adam(3e-3, number + 1, (0.9, 0.999), min(1.0, rows.finish(weights, gradients, False) ** -0.5))
        rows.adam(weights, gradients, first, second, how)
    x_BD, exact = batch(3), mapped(Tensor.double, weights)
    mine, wanted = nan_like(weights), nan_like(exact)
    dense_bf16_step(x_BD, x_BD, weights, mine, task(0.2))
    sums = reference.step(x_BD.double(), x_BD.double(), exact, wanted, task(0.2))
    leaves = mapped(lambda w: w.clone().requires_grad_(), weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        f_BF = torch.relu(x_BD @ leaves["W_enc"] + leaves["b_enc"])
        x_hat_BD = f_BF @ leaves["W_dec"] + leaves["b_dec"]
    penalty = (f_BF.float() * leaves["W_dec"].norm(dim=1)).sum(1).mean()
    whole = (x_hat_BD.float() - x_BD).square().sum(1).mean() + 0.2 * penalty
    theirs = dict(zip(leaves, torch.autograd.grad(whole, list(leaves.values())), strict=True))
    left = sums.squared_error / (x_BD - x_BD.mean(0)).square().sum().item()  # 1 - explained variance
    for name, want in wanted.items():
        error, of_autocast = ((g[name] - want).norm() / want.norm() for g in (mine, theirs))
        assert error <= 1.2 * of_autocast + 0.002, name
        assert error <= 0.012 / min(1, left) ** 0.5, name


@pytest.mark.parametrize("norm_power", [0, 2])
def test_a_dead_decoder_row_and_a_token_of_length_zero_in_bf16(norm_power):
    weights, x_BD = random_weights(16, 40, 0, torch.float32), torch.randn(30, 16)
    weights["b_enc"].copy_(torch.where(torch.arange(40) % 2 == 0, 100, -100))
    weights["W_dec"][2], x_BD[5] = 0, 0
    mine, theirs = nan_like(weights), nan_like(weights)
    got = dense_bf16_step(x_BD, x_BD, weights, mine, task(500.0, norm_power=norm_power))
    want = reference.step(x_BD, x_BD, weights, theirs, task(500.0, norm_power=norm_power))
    assert got.terms[0] == pytest.approx(want.terms[0], rel=0.02)
    for name, gradient in theirs.items():
        assert (mine[name] - gradient).norm() <= 0.02 * gradient.norm(), name


@pytest.mark.parametrize(("step", "missed"), [(bf16_step, 0.01), (int8_step, 0.0005)], ids=["bf16", "int8"])
@pytest.mark.parametrize(
    ("shift", "spread"),
    [(0.0, 1.0), (100.0, 1.0), (0.0, 30.0)],
    ids=["even", "one far dimension", "one wide dimension"],
)
def test_a_coarse_product_misses_only_what_lies_within_its_rounding_of_zero(step, missed, shift, spread):
    weights = random_weights(64, 500, 6, torch.float32)
    weights["b_enc"].sub_(8)  # a sixth is active
    x_BD = torch.randn(300, 64, generator=torch.Generator().manual_seed(7)) + 0.5
    x_BD[:, 3] = spread * x_BD[:, 3] + shift
    weights["W_enc"][3] /= spread**0.5  # so that the wide dimension does not decide alone
    weights["b_enc"].sub_(shift * weights["W_enc"][3])
    gradients, exact = nan_like(weights), nan_like(weights)
    got, want = step(x_BD, x_BD, weights, gradients, task(0.5)), reference.step(x_BD, x_BD, weights, exact, task(0.5))
    z_BF = x_BD @ weights["W_enc"] + weights["b_enc"]
    rounding = 2**-8 * (x_BD.abs() @ weights["W_enc"].abs() + weights["b_enc"].abs())
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
        sums = step(x_BD, x_BD, weights, gradients, task(0.5))
        found.append((gradients, sums, rows.finish(weights, gradients, False)))
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for gradients, sums, square in found[1:]:
        assert all(torch.equal(gradient, found[0][0][name]) for name, gradient in gradients.items())
        assert square == found[0][2]
        assert torch.equal(sums.active_F, found[0][1].active_F)


@settings(max_examples=20, deadline=None)
@given(
    D=st.integers(1, 40),
    F=st.integers(1, 40),
    number=st.sampled_from([1, 2, 1000]),
    shrink=st.sampled_from([1.0, 0.01]),
    unit_norm=st.booleans(),
    bias_rate=st.sampled_from([1.0, 24.0]),
    seed=st.integers(0, 10**6),
)
def test_adam_in_one_pass_is_adam(D, F, number, shrink, unit_norm, bias_rate, seed):
    mine, gradients, first = (random_weights(D, F, seed + n, torch.float64) for n in range(3))
    second = mapped(Tensor.square, random_weights(D, F, seed + 3, torch.float64))
    theirs = [mapped(Tensor.clone, tensors) for tensors in (mine, gradients, first, second)]
    how = Adam(lr=0.1, number=number, betas=(0.9, 0.99), shrink=shrink, unit_norm=unit_norm, bias_rate=bias_rate)
    rows.adam(mine, gradients, first, second, how)
    reference.adam(*theirs, how)
    torch.testing.assert_close([mine, first, second], [theirs[0], *theirs[2:]], rtol=1e-9, atol=1e-12)


def test_adam_is_that_of_torch():
    weights, gradients = random_weights(20, 30, 1, torch.float32), random_weights(20, 30, 2, torch.float32)
    theirs = mapped(lambda w: w.clone().requires_grad_(), weights)
    groups = [{"params": [leaf], "lr": 0.07 if name == "b_enc" else 0.01} for name, leaf in theirs.items()]
    torchs = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8)
    first, second = (like(weights, 0.0) for _ in range(2))
    for number in range(1, 6):
        scaled = mapped(lambda g: g * number, gradients)  # noqa: B023
        for name, leaf in theirs.items():
            leaf.grad = scaled[name]
        torchs.step()
        rows.adam(weights, scaled, first, second, Adam(0.01, number, (0.9, 0.999), bias_rate=7))
    torch.testing.assert_close(weights, mapped(Tensor.detach, theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [dense, dense_bf16, cpu], ids=["dense", "dense-bf16", "cpu"])
def test_a_step_allocates_nothing_of_the_size_of_tokens_by_features(kernel):
    B, D, F = 1024, 64, 2048
    weights = random_weights(D, F, 0, torch.float32)
    weights["b_enc"].sub_(16)  # a few percent active
    gradients, x_BD = nan_like(weights), torch.randn(B, D)
    workspace = {
        cpu: find.Workspace,
        dense: lambda: dense.Workspace(F, weights["b_enc"]),
        dense_bf16: lambda: dense_bf16.Workspace(F, D, D),
    }[kernel]()
    kernel.step(x_BD, x_BD, weights, gradients, task(5.0), workspace)
    tracemalloc.start()
    with torch.profiler.profile(profile_memory=True) as profile:
        kernel.step(x_BD, x_BD, weights, gradients, task(5.0), workspace)
    by_numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    by_torch = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert by_numpy + by_torch < B * F * 4 / 2, f"{by_numpy / 1e6:.1f} + {by_torch / 1e6:.1f} MB in one step"
