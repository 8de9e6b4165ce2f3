"""Steps whose sums are read late: nothing in them waits for the device, and what went wrong undoes nothing."""

import math

import pytest
import torch
from gpu_cases import Case, assert_same, by_definition, case, on_gpu, small_blocks, there, workspace_for
from kernel_cases import like, mapped, nan_like
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unmix.kernels import reference
from unmix.kernels.task import Adam, Weights

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.kernels import gpu, gpu_adam, gpu_workspace

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter of older tritons
WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}
CLIP, LR = 0.5, 0.03


@pytest.fixture(autouse=True)
def small(monkeypatch):
    yield from small_blocks(monkeypatch)


class NoWaiting(TorchDispatchMode):
    """Raises where the host would need a number from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in WAITING, f"the host waits for the device in {func}"
        return func(*args, **kwargs or {})


@pytest.fixture
def no_waiting(monkeypatch):
    def refused(tensor):
        raise AssertionError("the host waits for the device in tolist")

    monkeypatch.setattr(Tensor, "tolist", refused)
    return NoWaiting()


def test_waiting_is_noticed(no_waiting):
    for waits in (Tensor.item, Tensor.tolist, bool, float, int, Tensor.nonzero):
        with pytest.raises(AssertionError, match="waits"), no_waiting:
            waits(torch.ones(1))


@pytest.mark.parametrize("row", ["relu", "topk", "matryoshka", "jumprelu_tanh"])
def test_a_step_and_an_update_do_not_wait(row, no_waiting, monkeypatch):
    this = case(row, prefixes=True, multi_k=0.5, decoder="unit_norm", B=3, F=9)
    weights, workspace = mapped(Tensor.clone, there(this.weights)), with_room(this, tile=2)
    gradients, first, second = (like(weights, 0.0) for _ in range(3))
    stop_1 = gpu_workspace.go(weights["b_enc"])
    x_BD, y_BE = (t.to(stop_1.device) for t in this[:2])
    with no_waiting:
        pending = gpu.launch(x_BD, y_BE, weights, gradients, this.asked, workspace, stop_1)
        square_1 = gpu_adam.square(weights, gradients, True)
        gpu_adam.stop_unless_finite(stop_1, pending.number_K, square_1)
        how = Adam(LR, 1, (0.9, 0.99), unit_norm=True)
        gpu_adam.adam(weights, gradients, first, second, how, stop_1, gpu_adam.shrink(square_1, CLIP))
    monkeypatch.undo()
    sums, wanted = pending.read().sums, by_definition(this)[0]
    assert sums.terms == pytest.approx(wanted.terms)
    assert not torch.equal(weights["W_dec"].cpu(), this.weights["W_dec"])


def with_room(this: Case, tile: int = 1000) -> gpu_workspace.Workspace:
    """For all entries there could be: whether they fit is not known before a step is read."""
    workspace = workspace_for(this, tile)
    workspace._room = dict.fromkeys(("entries", "candidates"), len(this.x_BD) * workspace.features)
    return workspace


class Run:
    """A dictionary in training: steps are launched, and read when the caller likes."""

    def __init__(self, this: Case) -> None:
        self.case, self.workspace = this, with_room(this)
        self.weights = mapped(Tensor.clone, there(this.weights))
        self.gradients, self.first, self.second = (like(self.weights, 0.0) for _ in range(3))
        self.stop_1 = gpu_workspace.go(self.weights["b_enc"])
        self.updates = 0

    def launch(self, x_BD: Tensor) -> gpu.Pending:
        x_BD, weights = x_BD.to(self.stop_1.device), self.weights
        pending = gpu.launch(x_BD, x_BD, weights, self.gradients, self.case.asked, self.workspace, self.stop_1)
        square_1 = gpu_adam.square(weights, self.gradients, False)
        gpu_adam.stop_unless_finite(self.stop_1, pending.number_K, square_1)
        self.updates += 1
        how, shrink_1 = Adam(LR, self.updates, (0.9, 0.99)), gpu_adam.shrink(square_1, CLIP)
        gpu_adam.adam(weights, self.gradients, self.first, self.second, how, self.stop_1, shrink_1)
        return pending


def by_reference(this: Case, batches: list[Tensor]) -> Weights:
    weights = mapped(Tensor.clone, this.weights)
    gradients, first, second = (like(weights, 0.0) for _ in range(3))
    for number, x_BD in enumerate(batches, start=1):
        reference.step(x_BD, x_BD, weights, gradients, this.asked)
        norm = math.sqrt(reference.finish(weights, gradients, False))
        reference.adam(weights, gradients, first, second, Adam(LR, number, (0.9, 0.99), min(1.0, CLIP / norm)))
    return weights


def batches(this: Case, how_many: int) -> list[Tensor]:
    shape = this.x_BD.shape
    return [torch.randn(shape, generator=torch.Generator().manual_seed(n)).double() for n in range(how_many)]


@pytest.mark.parametrize("row", ["jumprelu", "batchtopk"])
def test_from_a_step_without_room_on_nothing_moves_and_it_is_taken_anew(row):
    this = case(row, E=4, B=3, F=9)
    run, x_KBD = Run(this), batches(this, 3)
    run.launch(x_KBD[0])
    before = mapped(Tensor.clone, run.weights)
    run.workspace._room = {"entries": 1, "candidates": 1}
    if row == "batchtopk":  # which takes room for what it keeps
        run.workspace.room = lambda kind, tokens, at_least=0: 4
    pending = [run.launch(x_BD) for x_BD in x_KBD[1:]]
    assert all(torch.equal(run.weights[name], before[name]) for name in before)
    read = pending[0].read()
    assert run.stop_1.item() == 1
    assert read.stopped
    assert pending[1].read().stopped
    assert read.needed > 1
    run.workspace = workspace_for(this)
    run.workspace.make_room(pending[0].room, 2 * read.needed)
    run.stop_1.zero_()
    run.updates = 1
    assert not any(run.launch(x_BD).read().stopped for x_BD in x_KBD[1:])
    for name, weight in by_reference(this, x_KBD).items():
        torch.testing.assert_close(run.weights[name].cpu(), weight, rtol=1e-5, atol=1e-5)


def test_from_a_batch_that_is_not_finite_on_nothing_moves_and_it_can_be_left_out():
    this = case("topk", E=4, B=3, F=9)
    run, x_KBD = Run(this), batches(this, 4)
    good, x_KBD[1] = [x_KBD[0], *x_KBD[2:]], x_KBD[1] * math.nan
    pending = [run.launch(x_BD) for x_BD in x_KBD]
    read = [each.read() for each in pending]
    assert [math.isfinite(each.sums.squared_error) for each in read[:2]] == [True, False]
    assert [each.stopped for each in read] == [False, False, True, True]  # the one itself was computed
    assert run.stop_1.item() == gpu_adam.NOT_FINITE
    run.stop_1.zero_()
    run.updates = 1
    for x_BD in x_KBD[2:]:
        run.launch(x_BD)
    for name, weight in by_reference(this, good).items():
        torch.testing.assert_close(run.weights[name].cpu(), weight, rtol=1e-5, atol=1e-5)


def test_a_step_that_is_stopped_writes_nothing():
    this = case("jumprelu_tanh", B=3, F=9)
    weights = there(this.weights)
    gradients, stop_1 = nan_like(weights), gpu_workspace.go(weights["b_enc"]).fill_(1)
    x_BD, y_BE = (t.to(stop_1.device) for t in this[:2])
    gpu.launch(x_BD, y_BE, weights, gradients, this.asked, workspace_for(this), stop_1)
    assert all(gradient.isnan().all() for name, gradient in gradients.items() if name != "b_dec")


def test_what_is_left_in_a_workspace_does_not_matter():
    this, other = case("topk", B=3, F=9), case("topk", B=4, F=9, seed=5)
    workspace = workspace_for(this)
    on_gpu(other, workspace=workspace)
    assert_same(on_gpu(this, workspace=workspace), on_gpu(this))
