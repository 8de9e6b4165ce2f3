"""Candidates found by a product that is off by nearly its margin: what comes out is the definition all the same."""

import pytest
import torch
from gpu_cases import (
    COVERED,
    DEVICE,
    assert_agree,
    assert_same,
    by_definition,
    case,
    on_gpu,
    small_blocks,
    there,
    workspace_for,
)

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.kernels import gpu, gpu_near
from unmix.kernels.dispatch import Step
from unmix.kernels.gpu_workspace import Workspace, go
from unmix.kernels.task import Noise

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter of older tritons


@pytest.fixture(autouse=True)
def small(monkeypatch):
    yield from small_blocks(monkeypatch)


class Off(Workspace):
    """Its product is wrong by up to the margin, one way or the other."""

    seed = 0
    times = 50  # small sizes need errors that matter

    def margin(self, x_BD, weights, noise):
        found = super().margin(x_BD, weights, noise)
        return found and found._replace(x_T=found.x_T * self.times)

    def encode(self, x_TD, weights, noise, first, near=None):
        z_TF = super().encode(x_TD, weights, noise, first, near)
        if near is not None:
            sign_TF = torch.rand(z_TF.shape, generator=torch.Generator().manual_seed(self.seed)).to(z_TF) * 2 - 1
            z_TF += 0.99 * sign_TF * near.x_T[:, None] * near.W_F
        return z_TF


def off_for(this, tile=1000, seed=0):
    workspace = Off(len(this.weights["b_enc"]), this.weights["b_enc"].to(DEVICE), near=True)
    workspace.tile, workspace.seed = tile, seed
    return workspace


@pytest.mark.parametrize("options", [{}, {"prefixes": True, "auxk": 0.5, "preactivation": 0.5, "multi_k": 0.5}])
@pytest.mark.parametrize("row", COVERED)
def test_what_comes_out_is_the_definition(row, options):
    for seed in range(2):
        this = case(row, B=7, F=40, seed=seed, **options)
        assert_agree(on_gpu(this, workspace=off_for(this, tile=3, seed=seed)), by_definition(this), 1e-9)


@pytest.mark.parametrize("row", ["topk", "batchtopk"])
def test_nothing_below_zero_fills_up_a_token_with_fewer_positive_features_than_k(row):
    """Of the candidates that may be positive, those that turn out not to be stay out, even where there are k."""
    this = case(row, B=2, k=8, shift=-1.0)
    wanted, workspace = by_definition(this), off_for(this)
    workspace.times = 800  # all are candidates
    assert 0 < wanted[0].active_F.sum() < 2 * 8
    assert_agree(on_gpu(this, workspace=workspace), wanted, 1e-9)


def test_without_the_margin_it_would_not_be(monkeypatch):
    """That the errors of these tests matter."""
    nothing = lambda x_BD, weights: gpu_near.Margin(0 * x_BD[:, 0], 0 * weights["b_enc"])  # noqa: E731
    this = case("relu", B=7, F=40)
    wanted, found = by_definition(this)[0], off_for(this)
    with monkeypatch.context() as patch:
        patch.setattr(Off, "encode", lambda self, x, w, n, first, near=None: _wrong(x, w, self))
        patch.setattr(gpu_near, "margin", nothing)
        assert not torch.equal(on_gpu(this, workspace=found)[0].active_F.cpu().double(), wanted.active_F)


def _wrong(x_TD, weights, workspace):
    z_TF = x_TD @ weights["W_enc"]
    return z_TF + 0.1 * torch.randn(z_TF.shape, generator=torch.Generator().manual_seed(0)).to(z_TF)


def test_the_margin_bounds_a_product_of_numbers_cut_off_after_ten_bits():
    g = torch.Generator().manual_seed(0)
    x_BD, W_DF = torch.randn(50, 300, generator=g), torch.randn(300, 70, generator=g)
    x_BD[:, 3] *= 1000  # a dimension that outweighs all others
    x_BD[:, 4:] = x_BD[:, 4:].abs()
    W_DF[4:] = W_DF[4:].abs()  # errors that add up
    cut_BD, cut_DF = ((t.view(torch.int32) & ~0x1FFF).view(torch.float32) for t in (x_BD, W_DF.contiguous()))
    off_BF = (cut_BD @ cut_DF).double() - x_BD.double() @ W_DF.double()
    margin = gpu_near.margin(x_BD, {"W_enc": W_DF})
    allowed_BF = margin.x_T.double()[:, None] * margin.W_F.double()
    assert (off_BF.abs() <= allowed_BF).all()
    assert (off_BF.abs() / allowed_BF).max() > 0.15  # and is no wild guess


def test_with_noise_the_product_is_exact():
    this = case("relu", sigma=0.5)
    assert isinstance(this.asked.noise, Noise)
    assert_same(on_gpu(this, workspace=off_for(this)), on_gpu(this))


def test_nan_is_seen():
    this = case("topk", B=5, F=20)
    this.x_BD[2, 1] = float("nan")
    assert torch.isnan(torch.tensor(on_gpu(this, workspace=off_for(this))[0].squared_error))


def test_a_step_that_is_stopped_refines_nothing():
    this = case("topk", B=3, F=20)
    weights, stop_1 = there(this.weights), go(this.weights["b_enc"].to(DEVICE)).fill_(1)
    workspace = off_for(this)
    value_n = workspace.array("z of candidate", 100).fill_(7.0)
    gradients = {name: torch.zeros_like(w) for name, w in weights.items()}
    gpu.launch(this.x_BD.to(DEVICE), this.y_BE.to(DEVICE), weights, gradients, this.asked, workspace, stop_1)
    assert (value_n == 7.0).all()


@pytest.mark.parametrize(("select", "dtype", "near"), [
    ("fp32", torch.float32, False), ("tf32", torch.float32, True), ("int8", torch.float32, True),
    ("tf32", torch.float64, False),
])  # fmt: skip
def test_which_steps_look_near(select, dtype, near):
    weights = {"b_enc": torch.zeros(3, dtype=dtype)}
    assert Step(select)._workspace(weights).near == near
    assert workspace_for(case("topk")).near is False
