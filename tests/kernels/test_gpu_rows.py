"""Every row of the table that the GPU kernels know, against the definition; in Triton's interpreter without a GPU."""

import math

import pytest
import torch
from gpu_cases import (
    COVERED,
    DEVICE,
    Case,
    assert_agree,
    assert_same,
    by_definition,
    case,
    every_row,
    finite,
    on_gpu,
    small_blocks,
    there,
    workspace_for,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import mapped, nan_like

from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, JumpRelu, TopK
from unmix.dictionary.terms import SquaredError
from unmix.kernels.dispatch import Step
from unmix.kernels.task import Task

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.kernels import gpu, gpu_dense, tiles

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter of older tritons


@pytest.fixture(autouse=True)
def small(monkeypatch):
    yield from small_blocks(monkeypatch)


OPTIONS = {
    "norm power, unit norm": {"norm_power": 1, "decoder": "unit_norm", "penalty": "decoder_norm"},
    "all at once": {"norm_power": 2, "prefixes": True, "auxk": 0.5, "preactivation": 0.5, "multi_k": 0.5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@every_row
def test_the_step_is_the_definition(row, options):
    """In double precision; tiles of three tokens."""
    this = case(row, **options)
    assert_agree(on_gpu(this, tile=3), by_definition(this), 1e-9)


@pytest.mark.parametrize("keys", [{}, {"norm_power": 1, "decoder": "unit_norm", "penalty": "decoder_norm"}])
@pytest.mark.parametrize("row", [row for row in COVERED if row.startswith(("relu", "tanh_relu", "jumprelu"))])
def test_the_dense_step_is_the_definition(row, keys, monkeypatch):
    """In double precision, in tiles; some z lie within the window of a jump."""
    monkeypatch.setattr(gpu_dense, "JUMPS", 2)
    this = case(row, B=5, shift=0.5, **keys)
    weights, workspace = there(this.weights), workspace_for(this, tile=4)
    gradients = nan_like(weights)
    x_BD, y_BE = (t.to(DEVICE) for t in this[:2])
    sums, _ = gpu.dense_step(x_BD, y_BE, weights, gradients, this.asked, workspace)
    assert_agree((sums, mapped(torch.Tensor.cpu, gradients)), wanted := by_definition(this), 1e-9)
    assert "threshold" not in this.weights or wanted[1]["threshold"].any()


@settings(max_examples=12)
@given(
    row=st.sampled_from(COVERED),
    B=st.integers(1, 5),
    D=st.integers(1, 5),
    E=st.integers(1, 5),
    F=st.integers(1, 40),
    k=st.sampled_from([1.0, 2.5, 7.0, 500.0]),
    shift=st.sampled_from([-9.0, -2.0, 0.0, 9.0]),
    prefixes=st.booleans(),
    more=st.sampled_from([{}, {"multi_k": 0.3}, {"auxk": 0.3, "preactivation": 0.2}]),
    tile=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_any_shape(row, B, D, E, F, k, shift, prefixes, more, tile, seed):
    this = case(row, B=B, D=D, E=E, F=F, k=k, shift=shift, prefixes=prefixes, seed=seed, **more)
    assert_agree(on_gpu(this, tile=tile), by_definition(this), 1e-8)


@pytest.mark.parametrize("row", ["tanh_relu", "topk", "batchtopk", "jumprelu_tanh"])
def test_in_single_precision_it_differs_by_rounding_and_room_does_not_matter(row):
    """The same bits twice, where it has to be taken anew with more room first."""
    this = case(row, B=3, D=9, E=11, seed=1).to(torch.float32)
    got, tight = on_gpu(this), workspace_for(this)
    assert got[0].active_F.dtype == torch.float32
    assert_agree(got, by_definition(this), 1e-4)
    tight._room = {"entries": 2, "candidates": 2}
    assert_same(on_gpu(this, workspace=tight), got)


@pytest.mark.parametrize("row", ["batchtopk", "jumprelu"])
def test_noise_is_that_of_the_definition_in_any_tiling(row):
    this = case(row, sigma=1.0)
    assert_agree(on_gpu(this, tile=2), by_definition(this), 1e-5)  # noise is made in float32


EDGES = {
    "one feature": {"F": 1},
    "one token": {"B": 1},
    "one of all": {"B": 1, "D": 1, "E": 1, "F": 1, "k": 1},
    "k is F": {"k": 9},
    "k is more than F": {"k": 40},
    "k is more than are positive": {"k": 7, "shift": -1.5},
    "nothing active": {"shift": -50.0},
    "all active": {"shift": 50.0},
    "rows of norm 0": {},
    "a token of length 0": {"norm_power": 2},
    "no weight on the penalty": {"coefficient": 0.0},
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("row", ["topk", "matryoshka", "jumprelu_tanh"])
def test_edges(row, edge):
    this = case(row, **{"F": 9, "B": 3} | EDGES[edge])
    if edge == "rows of norm 0":
        this.weights["W_dec"][[3, 7]] = 0
    if edge == "a token of length 0":
        this.x_BD[2], this.y_BE[2] = 0, 0
    assert_agree(on_gpu(this), by_definition(this), 1e-8)


@pytest.mark.parametrize("where", ["x", "W_enc", "b_enc", "W_dec", "b_dec"])
@pytest.mark.parametrize("row", ["abstopk", "batchtopk", "jumprelu"])
def test_nan_shows(row, where):
    this = case(row, B=3, F=9).to(torch.float32)
    found = {"x": this.x_BD, "W_enc": this.weights["W_enc"].T}.get(where, this.weights.get(where))
    found.view(-1)[2] = math.nan
    sums, gradients = on_gpu(this)
    assert not finite(sums, gradients)


def test_nan_in_a_threshold_shows():
    this = case("jumprelu").to(torch.float32)
    this.weights["threshold"][4] = math.nan
    assert not finite(*on_gpu(this))


@pytest.mark.parametrize("phi", [TopK(3), TopK(3, weigh_by_norm=False), AbsTopK(3), BatchTopK(2.5), BatchTopK(7.25)])
def test_of_equal_contributions_those_with_the_lowest_index_are_kept(phi):
    """Whole numbers, most of them equal: z is exact, and the definition breaks the ties."""
    g = torch.Generator().manual_seed(0)
    B, D, F = 4, 6, 45
    x_BD = torch.randint(-1, 2, (B, D), generator=g).double()
    W_FD = torch.randint(-1, 2, (F, D), generator=g).double()
    lengths = torch.tensor([1.0, 2.0, 0.5])[torch.arange(F) % 3].double()
    W_dec_FD = torch.nn.functional.one_hot(torch.arange(F) % D, D).double() * lengths[:, None]
    weights = {"W_enc": W_FD.T, "b_enc": torch.zeros(F).double(), "W_dec": W_dec_FD, "b_dec": torch.zeros(D).double()}
    this = Case(x_BD, x_BD, weights, Task(phi, ((1.0, SquaredError()),)))
    z_BF = x_BD @ weights["W_enc"]
    assert len(z_BF.abs().unique()) < 8
    want = by_definition(this)
    assert want[0].active_F.sum() == (3 * B if not isinstance(phi, BatchTopK) else round(phi.k * B))
    assert_agree(on_gpu(this.to(torch.float32), tile=3), want, 1e-6)


def test_a_batchtopk_that_keeps_none_and_one_that_wants_more_than_there_are():
    for k in (0.01, 50.0):
        this = case("batchtopk", k=k, F=20)
        assert isinstance(this.asked.phi, BatchTopK)
        got = on_gpu(this)
        assert_agree(got, by_definition(this), 1e-9)
        assert got[0].threshold == 0


@pytest.mark.parametrize("row", ["jumprelu", "jumprelu_tanh", "jumprelu_quadratic"])
def test_a_threshold_moves_by_what_is_below_it_too(row):
    """Nothing is active, and yet entries lie in the window: only they give the threshold its gradient."""
    this = case(row)
    assert isinstance(this.asked.phi, JumpRelu)
    z_BF = this.x_BD @ this.weights["W_enc"] + this.weights["b_enc"]
    this.weights["threshold"].copy_(z_BF.max(0).values + 0.1)
    got = on_gpu(this)
    assert not got[0].active_F.any()
    assert got[1]["threshold"].abs().min() > 0
    assert_agree(got, by_definition(this), 1e-9)


def test_any_layout_is_taken():
    this = case("topk")
    want = by_definition(this)
    apart = torch.zeros(4, 8, dtype=torch.float64)[:, ::2].copy_(this.x_BD)
    turned = this.weights | {name: this.weights[name].T.contiguous().T for name in ("W_dec",)}
    turned["W_enc"] = this.weights["W_enc"].contiguous()
    assert not turned["W_dec"].is_contiguous()
    assert_agree(on_gpu(Case(apart, this.y_BE, turned, this.asked)), want, 1e-9)


# ------------------------------------------------------------------------------------------------ which step is taken


def taken(step: Step, this: Case, monkeypatch) -> tuple[list[str], tuple]:
    """What the dispatch called, in order, and what came of it."""
    called: list[str] = []
    watched = {"gpu.step": gpu.step, "gpu.dense_step": gpu.dense_step, "tiles.launch": tiles.launch}
    for name, inner in watched.items():

        def watch(*words, name=name, inner=inner):
            called.append(name)
            return inner(*words)

        monkeypatch.setattr(f"unmix.kernels.{name}", watch)
    weights = there(this.weights)
    gradients = nan_like(weights)
    sums = step._on_gpu(this.x_BD.to(DEVICE), this.y_BE.to(DEVICE), weights, gradients, this.asked)
    monkeypatch.undo()
    return called, (sums, {name: gradient.cpu() for name, gradient in gradients.items()})


@pytest.mark.parametrize("row", [*COVERED, "gated"])
def test_no_row_falls_through(row, monkeypatch):
    """Every row, few or many active, comes to what the definition says, by kernels that know it."""
    for shift in (-1.0, 9.0):
        this, step = case(row, shift=shift, F=12, B=2), Step(border=0.5)
        step.sparse = True
        called, found = taken(step, this, monkeypatch)
        assert_agree(found, by_definition(this), 1e-9)
        if row == "gated":
            assert called == ["tiles.launch"]
        elif shift == 9.0 and not row.endswith("topk") and row != "matryoshka":
            assert called == ["gpu.step", "gpu.dense_step"]
            assert not step.sparse
        else:
            assert called == ["gpu.step"]
            assert step.sparse == (found[0].active_F.sum() < 0.5 * 1.25 * 12 * 2)


def test_a_member_is_dense_until_few_are_active(monkeypatch):
    step, few, many = Step(border=0.3), case("relu", shift=-3.0, F=9, B=2), case("relu", shift=9.0, F=9, B=2)
    calls = [taken(step, this, monkeypatch)[0] for this in (many, few, few, many)]
    assert calls == [["gpu.dense_step"], ["gpu.dense_step"], ["gpu.step"], ["gpu.step", "gpu.dense_step"]]
