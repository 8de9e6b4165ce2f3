"""Steps whose sums are read late: nothing in them waits for the device, and what went wrong undoes nothing."""

import math

import pytest
import torch
from gpu_cases import Case, assert_same, by_definition, case, on_gpu, small_blocks, there, workspace_for
from kernel_cases import like, mapped, nan_like
from late_cases import batch, few, in_time, member_of, spoiled
from torch import Tensor
from waiting import NoWaiting

from unmix.kernels import reference
from unmix.kernels.task import Adam, Weights

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.kernels import gpu, gpu_adam, gpu_workspace
from unmix.kernels.dispatch import Step
from unmix.training.late import Late

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter of older tritons
CLIP, LR = 0.5, 0.03


@pytest.fixture(autouse=True)
def small(monkeypatch):
    yield from small_blocks(monkeypatch)


@pytest.mark.parametrize("row", ["relu", "topk", "matryoshka", "jumprelu_tanh"])
def test_a_step_and_an_update_do_not_wait(row):
    this = case(row, prefixes=True, multi_k=0.5, decoder="unit_norm", B=3, F=9)
    weights, workspace = mapped(Tensor.clone, there(this.weights)), with_room(this, tile=2)
    gradients, first, second = (like(weights, 0.0) for _ in range(3))
    stop_1 = gpu_workspace.go(weights["b_enc"])
    x_BD, y_BE = (t.to(stop_1.device) for t in this[:2])
    with NoWaiting():
        pending = gpu.launch(x_BD, y_BE, weights, gradients, this.asked, workspace, stop_1)
        square_1 = gpu_adam.square(weights, gradients, True)
        gpu_adam.stop_unless_finite(stop_1, pending.number_K, square_1)
        how = Adam(LR, 1, (0.9, 0.99), unit_norm=True)
        gpu_adam.adam(weights, gradients, first, second, how, stop_1, gpu_adam.shrink(square_1, CLIP))
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


@pytest.fixture
def by_gpu_kernels(monkeypatch):
    """Members whose steps and updates are those of the kernels, wherever their tensors are."""
    monkeypatch.setattr(Step, "_kernels", lambda step, where: "portable" if step.portable else "cuda")


@pytest.mark.usefixtures("by_gpu_kernels")
@pytest.mark.parametrize(("architecture", "l0"), [("relu", 2.0), ("jumprelu", None), ("batchtopk", 2.0)])
def test_a_member_trained_late_by_the_kernels_is_one_of_the_portable_step(architecture, l0, monkeypatch):
    """There is no room at first: steps are taken anew. A batch that is not finite is left out."""
    keys = {"border": 0.9, "on_nonfinite": "skip", "mask": "none", "auxk": 0.0, "features": 9}
    batches = {step: few(batch(step + 1), 4) for step in range(3)} | {1: few(spoiled(2, math.nan), 4)}
    mine, theirs = (member_of(architecture, l0, kernels=kernels, **keys) for kernels in ("auto", "portable"))
    monkeypatch.setattr(gpu_workspace, "FIRST_ROOM", 0.0)
    launch, launched = Late._launch, []

    def watched(*words):
        with NoWaiting():
            launched.append(len(taken := launch(*words)))
        return taken

    monkeypatch.setattr(Late, "_launch", watched)
    mine.step.sparse = True
    said = in_time(mine, batches)
    # there is always room for what a batchtopk keeps; a batch that is not finite has every feature active
    assert launched == ([3, 2, 1] if architecture == "batchtopk" else [3, 3, 2, 1])
    assert said == in_time(theirs, batches)
    assert mine.updates == 2
    for name, weight in theirs.weights.items():
        torch.testing.assert_close(mine.weights[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("by_gpu_kernels")
def test_a_batch_with_too_much_active_for_the_sparse_kernels_is_taken_densely(monkeypatch):
    keys = {"border": 0.01, "mask": "none", "features": 9}
    mine, theirs = (member_of(kernels=kernels, **keys) for kernels in ("auto", "portable"))
    monkeypatch.setattr(gpu_workspace, "FIRST_ROOM", 0.0)
    mine.step.sparse = True
    batches = {0: few(batch(1), 4), 1: few(batch(2), 4)}
    assert in_time(mine, batches) == in_time(theirs, batches) == []
    assert not mine.step.sparse
    torch.testing.assert_close(mine.weights["W_dec"], theirs.weights["W_dec"], rtol=1e-3, atol=1e-4)
