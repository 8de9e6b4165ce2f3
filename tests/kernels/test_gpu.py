"""The GPU kernels of relu and tanh_relu, sparse and dense, their noise and update, against the definition.

On a GPU where there is one, else in Triton's interpreter.
"""

import math

import numpy as np
import pytest
import torch
from gpu_cases import DEVICE, small_blocks, there
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_cases import like, mapped, nan_like, random_weights, task
from torch import Tensor

from unmix.kernels import reference
from unmix.kernels.noise import add_noise, noise_key
from unmix.kernels.task import Adam, Noise, Sums, Weights

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.kernels import gpu, gpu_adam, gpu_noise
from unmix.kernels.gpu_launch import products
from unmix.kernels.gpu_workspace import TILE_BYTES, Workspace

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter of older tritons
Found = tuple[Sums, Weights, float]
SPARSE, DENSE = "sparse", "dense"
both = pytest.mark.parametrize("how", [SPARSE, DENSE])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    yield from small_blocks(monkeypatch)


def random_tokens(B: int, D: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def on_gpu(x_BD, weights, asked, tile: int = 1000, how: str = SPARSE, gradients: Weights | None = None) -> Found:
    weights = there(weights)
    gradients = nan_like(weights) if gradients is None else gradients
    workspace = Workspace(len(weights["b_enc"]), weights["b_enc"])
    workspace.tile = tile
    x_BD = x_BD.to(DEVICE)
    found = (gpu.step if how == SPARSE else gpu.dense_step)(x_BD, x_BD, weights, gradients, asked, workspace)
    assert found is not None
    square = gpu_adam.finish(weights, gradients, asked.unit_norm)
    return found[0], mapped(Tensor.cpu, gradients), square


def by_definition(x_BD, weights, asked) -> Found:
    gradients = nan_like(weights)
    sums = reference.step(x_BD, x_BD, weights, gradients, asked)
    return sums, gradients, reference.finish(weights, gradients, asked.unit_norm)


def assert_agree(got: Found, want: Found, near: float) -> None:
    assert got[1].keys() == want[1].keys()
    for name, b in want[1].items():
        a = got[1][name]
        torch.testing.assert_close(a, b, rtol=near, atol=near, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(got[0].active_F.cpu(), want[0].active_F)
    torch.testing.assert_close(got[0].square_B.cpu(), want[0].square_B, rtol=near, atol=near)
    assert got[2] == pytest.approx(want[2], rel=near, abs=near), "gradient square"
    for name in ("squared_error", "terms", "penalty"):
        assert getattr(got[0], name) == pytest.approx(getattr(want[0], name), rel=near, abs=near), name


def assert_same(a: Found, b: Found) -> None:
    (one, mine, square), (other, theirs, square_again) = a, b
    assert (one.squared_error, one.terms, one.penalty, square) == (
        other.squared_error, other.terms, other.penalty, square_again,
    )  # fmt: skip
    assert torch.equal(one.active_F, other.active_F)
    assert torch.equal(one.square_B, other.square_B)
    assert all(torch.equal(gradient, theirs[name]) for name, gradient in mine.items())


@settings(max_examples=10, deadline=None)
@given(
    B=st.integers(1, 9),
    D=st.integers(1, 9),
    F=st.integers(1, 17),
    l1=st.sampled_from([0.0, 0.3, 50.0]),
    shift=st.sampled_from([-9.0, -2.0, 0.0, 9.0]),
    phi=st.sampled_from(["relu", "tanh_relu"]),
    weigh=st.booleans(),
    norm_power=st.sampled_from([0, 1, 2]),
    unit_norm=st.booleans(),
    dense=st.booleans(),
    tile=st.sampled_from([3, 1000]),
    seed=st.integers(0, 10**6),
)
@example(1, 1, 1, 0.3, 9.0, "relu", True, 0, False, False, 1000, 0)
@example(7, 5, 9, 0.3, 0.0, "tanh_relu", True, 1, True, False, 3, 0)
@example(7, 5, 9, 0.3, 0.0, "tanh_relu", True, 1, True, True, 3, 0)
@example(7, 5, 9, 0.3, 0.0, "relu", False, 2, True, True, 1000, 0)
def test_agrees_with_the_reference_in_double_precision(
    B, D, F, l1, shift, phi, weigh, norm_power, unit_norm, dense, tile, seed
):
    weights, x_BD = random_weights(D, F, seed), random_tokens(B, D, seed + 1)
    weights["b_enc"].add_(shift)  # from no feature active to all of them
    if unit_norm:
        weights["W_dec"].div_(weights["W_dec"].norm(dim=1, keepdim=True))
    asked = task(l1, phi, weigh, norm_power, None, unit_norm)
    want = by_definition(x_BD, weights, asked)
    assert_agree(on_gpu(x_BD, weights, asked, tile, DENSE if dense else SPARSE), want, 1e-9)


@both
def test_agrees_with_the_reference_in_single_precision(how):
    weights, x_BD = random_weights(11, 23, 0), random_tokens(13, 11, 1)
    single = mapped(Tensor.float, weights)
    got = on_gpu(x_BD.float(), single, task(0.3, "tanh_relu", norm_power=1), how=how)
    assert got[0].active_F.dtype == torch.float32
    weights, x_BD = mapped(Tensor.double, single), x_BD.float().double()
    sums, gradients, square = by_definition(x_BD, weights, task(0.3, "tanh_relu", norm_power=1))
    want = sums._replace(active_F=sums.active_F.float()), mapped(Tensor.float, gradients), square
    assert_agree(got, want, 1e-5)


def test_what_is_too_much_for_a_sparse_step_is_not_taken():
    weights, x_BD = there(random_weights(3, 5, 0)), random_tokens(4, 3, 0).to(DEVICE)
    weights["b_enc"].add_(9)
    gradients, workspace = nan_like(weights), Workspace(5, weights["b_enc"])
    assert gpu.step(x_BD, x_BD, weights, gradients, task(0.3), workspace, 0.5) is None
    assert all(gradient.isnan().all() for name, gradient in gradients.items() if name != "b_dec")
    assert gpu.step(x_BD, x_BD, weights, gradients, task(0.3), workspace, 1.0)[1] == 1.0


def test_nothing_active():
    weights, x_BD = random_weights(3, 5, 0), random_tokens(4, 3, 0)
    weights["b_enc"].fill_(-1e6)
    sums, gradients, _ = on_gpu(x_BD, weights, task(0.3))
    assert sums.penalty == 0
    assert not sums.active_F.any()
    assert not any(gradients[name].any() for name in ("W_enc", "b_enc", "W_dec"))
    torch.testing.assert_close(gradients["b_dec"], 2 * (weights["b_dec"] - x_BD).mean(0))


def test_tokens_and_features_that_are_empty_or_full():
    weights, x_BD = random_weights(4, 9, 0), random_tokens(8, 4, 0)
    weights["b_enc"][2], weights["b_enc"][5] = 1e3, -1e3  # on every token, on none
    x_BD[3] = 0
    weights["b_enc"][x_BD.new_tensor([0, 1, 3, 4, 6, 7, 8]).long()] = -1e-3  # token 3 has the one feature alone
    got, want = on_gpu(x_BD, weights, task(0.3)), by_definition(x_BD, weights, task(0.3))
    assert_agree(got, want, 1e-8)
    assert got[0].active_F[2] == 8
    assert got[0].active_F[5] == 0


def test_any_layout_is_taken():
    weights, x_BD = random_weights(4, 6, 0), random_tokens(5, 4, 0)
    want = by_definition(x_BD, weights, task(0.3))
    apart = torch.zeros(5, 8, dtype=torch.float64)[:, ::2].copy_(x_BD)
    turned = mapped(lambda w: w.T.contiguous().T if w.dim() == 2 else w, weights)
    turned |= {"W_enc": weights["W_enc"].contiguous(), "b_enc": weights["b_enc"].repeat(2, 1).T[:, 0]}
    assert not turned["W_dec"].is_contiguous()
    gradients = nan_like(turned)
    assert not gradients["W_dec"].is_contiguous()
    assert_agree(on_gpu(apart, turned, task(0.3), gradients=there(gradients)), want, 1e-9)
    if DEVICE == "cpu":
        on_gpu(apart, turned, task(0.3), gradients=gradients)
        torch.testing.assert_close(gradients["W_enc"], want[1]["W_enc"])


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_huge_and_tiny_activations(scale):
    weights, x_BD = random_weights(4, 6, 0, torch.float32), random_tokens(5, 4, 0, torch.float32)
    weights["b_enc"].mul_(scale)
    weights["b_dec"].mul_(scale)
    asked = task(0.0)
    double = by_definition(x_BD.double() * scale, mapped(Tensor.double, weights), asked)
    sums, gradients, square = on_gpu(x_BD * scale, weights, asked)
    assert sums.squared_error == pytest.approx(double[0].squared_error, rel=1e-4)
    assert square == pytest.approx(double[2], rel=1e-4)  # beyond float32
    for name, ref in double[1].items():
        assert ((gradients[name].double() - ref).norm() / ref.norm()).item() < 1e-5


def test_squares_too_small_for_single_precision_are_counted():
    weights, x_BD = random_weights(4, 6, 0, torch.float32), random_tokens(5, 4, 0, torch.float32) * 1e-25
    weights |= {name: weights[name] * 1e-25 for name in ("b_enc", "b_dec")}
    double = by_definition(x_BD.double(), mapped(Tensor.double, weights), task(0.0))
    sums, _, square = on_gpu(x_BD, weights, task(0.0))
    assert sums.squared_error == pytest.approx(double[0].squared_error, rel=1e-4, abs=0)
    assert 0 < square < 1e-40


@both
@pytest.mark.parametrize("where", ["x", "W_enc", "b_enc", "W_dec", "b_dec"])
def test_nan_is_not_hidden(how, where):
    weights, x_BD = random_weights(4, 6, 0, torch.float32), random_tokens(8, 4, 0, torch.float32)
    weights["b_enc"].add_(9)
    row = {"x": x_BD[3], "W_enc": weights["W_enc"][1], "W_dec": weights["W_dec"][5]}.get(where, weights.get(where))
    row[1] = math.nan
    sums, gradients, square = on_gpu(x_BD, weights, task(1.0), how=how)
    assert math.isnan(sums.squared_error)
    assert math.isnan(square)
    assert sums.active_F.sum() > 0
    assert gradients["W_dec"].isnan().any()


def test_a_dead_decoder_row_has_the_gradients_of_the_reference():
    weights, x_BD = random_weights(4, 6, 0), random_tokens(8, 4, 0)
    weights["W_dec"][2] = 0
    want = by_definition(x_BD, weights, task(500.0))
    assert_agree(on_gpu(x_BD, weights, task(500.0)), want, 1e-9)


def test_a_token_of_length_zero_weighs_nothing_in_a_divided_error():
    weights, x_BD = random_weights(4, 6, 0), random_tokens(5, 4, 0)
    x_BD[2] = 0
    got = on_gpu(x_BD, weights, task(0.0, norm_power=2))
    assert got[0].squared_error > got[0].terms[0] > 0
    assert_agree(got, by_definition(x_BD, weights, task(0.0, norm_power=2)), 1e-9)


def test_with_unit_norm_the_gradient_has_no_part_along_a_row():
    weights, x_BD = random_weights(5, 7, 0), random_tokens(6, 5, 0)
    weights["W_dec"].div_(weights["W_dec"].norm(dim=1, keepdim=True))
    _, gradients, _ = on_gpu(x_BD, weights, task(0.3, weigh=False, unit_norm=True))
    assert gradients["W_dec"].abs().sum() > 1
    assert (gradients["W_dec"] * weights["W_dec"]).sum(1).abs().max() < 1e-12


@pytest.mark.parametrize(("T", "F", "first"), [(3, 1, 0), (2, 1027, 5), (2, 8, 2**31)])
def test_the_noise_is_that_of_the_cpu(T, F, first):
    for key in (0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, noise_key(3, 7)):
        noise, mine, theirs = Noise(1.5, key), torch.ones(T, F, device=DEVICE), np.ones((T, F))
        gpu_noise.add_noise(mine, noise, first)
        add_noise(theirs, noise, first)
        np.testing.assert_allclose(mine.cpu().numpy(), theirs, rtol=1e-6, atol=3e-6)


@both
def test_a_step_with_noise_agrees_in_any_tiling(how):
    weights, x_BD = random_weights(4, 7, 0), random_tokens(9, 4, 0)
    asked = task(0.3, noise=Noise(2.0, noise_key(0, 3)))
    want = by_definition(x_BD, weights, asked)
    for tile in (2, 5, 9):
        assert_agree(on_gpu(x_BD, weights, asked, tile, how), want, 1e-5)  # noise is made in float32


@both
def test_the_same_step_gives_the_same_bits(how):
    weights, x_BD = random_weights(9, 21, 0, torch.float32), random_tokens(11, 9, 0, torch.float32)
    asked = task(0.3, "tanh_relu", norm_power=1, noise=Noise(1.0, 5), unit_norm=True)
    assert_same(on_gpu(x_BD, weights, asked, 4, how), on_gpu(x_BD, weights, asked, 4, how))


def test_a_workspace_serves_batches_of_several_sizes():
    weights = random_weights(4, 7, 0)
    workspace = Workspace(7, there(weights)["b_enc"])
    for B in (3, 9, 5):
        x_BD, mine = random_tokens(B, 4, B), nan_like(there(weights))
        sums, _ = gpu.step(x_BD.to(DEVICE), x_BD.to(DEVICE), there(weights), mine, task(0.3), workspace)
        got = sums, mapped(Tensor.cpu, mine), gpu_adam.finish(there(weights), mine, False)
        assert_agree(got, by_definition(x_BD, weights, task(0.3)), 1e-9)
    assert Workspace(10**6, torch.zeros(1)).tile * 10**6 * 4 <= TILE_BYTES


def test_tf32_is_off_during_a_step_and_on_after_it_if_it_was():
    torch.set_float32_matmul_precision("high")
    try:
        with products(tf32=False):
            inside = getattr(torch.backends.cuda.matmul, "fp32_precision", "ieee")
        assert inside == "ieee"
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize(("D", "F"), [(1, 1), (5, 7), (33, 40)])
def test_adam_agrees_with_the_reference(D, F, unit_norm):
    theirs = [random_weights(D, F, 0), *(like(random_weights(D, F, 0), 0.0) for _ in "mv")]
    mine = [there(w) for w in theirs]
    mine = [mapped(Tensor.clone, kept) for kept in mine]
    for number in (1, 2, 3):
        g, how = random_weights(D, F, number), Adam(0.1, number, (0.9, 0.99), 0.7, unit_norm, bias_rate=5)
        gpu_adam.adam(mine[0], there(g), mine[1], mine[2], how)
        reference.adam(theirs[0], g, theirs[1], theirs[2], how)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(mapped(Tensor.cpu, a), b, rtol=1e-6, atol=1e-6)
    if unit_norm:
        torch.testing.assert_close(mine[0]["W_dec"].norm(dim=1).cpu(), torch.ones(F, dtype=torch.float64))


def test_adam_takes_any_layout_and_shows_nan():
    theirs = [random_weights(3, 4, seed) for seed in range(4)]
    theirs[3] = mapped(Tensor.square, theirs[3])
    theirs[1]["W_enc"][2, 1] = math.nan
    mine = [mapped(lambda w: w.clone(memory_format=torch.contiguous_format).to(DEVICE), kept) for kept in theirs]
    mine[1]["W_dec"] = mine[1]["W_dec"].T.contiguous().T
    how = Adam(0.1, 4, (0.9, 0.99))
    gpu_adam.adam(*mine, how)
    reference.adam(*theirs, how)
    for a, b in zip((mine[0], *mine[2:]), (theirs[0], *theirs[2:]), strict=True):
        torch.testing.assert_close(mapped(Tensor.cpu, a), b, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert mine[0]["W_enc"].isnan().sum() == 1
