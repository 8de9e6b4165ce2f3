"""Steps that are recorded and replayed do what steps that are launched one by one do, to the bit.

On a processor nothing can be recorded: what stands in for a graph calls the same work again, into the same places.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from gpu_cases import small_blocks
from late_cases import batch, few, in_time, member_of, spoiled
from torch import Tensor

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.dictionary.nonlinearities import TopK
from unmix.dictionary.terms import SquaredError
from unmix.kernels import gpu_graph, gpu_workspace
from unmix.kernels.dispatch import Step

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter of older tritons
STEPS = 12
KEYS: dict[str, Any] = {"border": 0.9, "mask": "none", "auxk": 0.0, "kernels": "auto"}


@dataclass
class Again:
    """Calls the work anew, and leaves what it answers where the first answer was."""

    call: Any
    found: Any
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        for old, new in zip(tensors(self.found), tensors(self.call()), strict=True):
            old.copy_(new)


def tensors(found: Any) -> list[Tensor]:
    pending, square_1 = found
    return [pending.number_K, pending.active_F, pending.square_B, square_1]


@pytest.fixture
def graphs(monkeypatch):
    """What was recorded."""
    made: list[Again] = []

    def stands_in(call, workspace):
        found = call()
        for left in tensors(found):
            left.fill_(-1)  # recording runs nothing
        made.append(Again(call, found))
        return made[-1], found

    monkeypatch.setattr(gpu_graph, "record", stands_in)
    return made


@pytest.fixture(autouse=True)
def by_gpu_kernels(monkeypatch):
    monkeypatch.setattr(Step, "_kernels", lambda step, where: "portable" if step.portable else "cuda")
    yield from small_blocks(monkeypatch)


def trained(batches, architecture, l0, replayed, **keys):
    member = member_of(architecture, l0, **(KEYS | keys))
    member.step.replays = gpu_graph.Replays() if replayed else None
    member.step.sparse = True
    return member, in_time(member, batches)


def assert_same(one, other):
    for kept in (one.weights, one.first, one.second):
        theirs = {id(one.weights): other.weights, id(one.first): other.first, id(one.second): other.second}[id(kept)]
        for name, weight in kept.items():
            assert torch.equal(weight, theirs[name]), name
    assert torch.equal(one.silent_F, other.silent_F)
    assert float(one.threshold) == float(other.threshold)
    metrics = [member.metrics(1000) for member in (one, other)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("architecture", "l0", "keys"),
    [
        ("relu", None, {}),  # its coefficient has a warm-up
        ("relu", 2.0, {"decoder": "unit_norm"}),  # its coefficient is a controller's
        ("relu", None, {"border": 0.001}),  # dense
        ("topk", 2.0, {"multi_k": 0.5}),
        ("batchtopk", 2.0, {"aligned": True}),
        ("matryoshka", 2.0, {}),
        ("jumprelu", None, {"centre": "mean"}),
        ("jumprelu_tanh", 2.0, {}),
    ],
)
def test_a_replayed_step_is_a_launched_one(architecture, l0, keys, graphs):
    """Tokens are 4 or 5 a batch; one is not finite and is left out."""
    batches = {step: few(batch(step + 1), 4 + step % 2) for step in range(STEPS)} | {9: few(spoiled(10, math.nan), 4)}
    keys = keys | {"on_nonfinite": "skip"}
    one, said = trained(batches, architecture, l0, True, **keys)
    other, said_too = trained(batches, architecture, l0, False, **keys)
    assert said == said_too
    assert len(said) == 1
    assert_same(one, other)
    assert sum(graph.replays for graph in graphs) > STEPS // 3


def test_a_step_without_room_is_taken_anew_and_recorded_anew(graphs, monkeypatch):
    monkeypatch.setattr(gpu_workspace, "FIRST_ROOM", 0.0)
    batches = {step: few(batch(step + 1), 4) for step in range(STEPS)}
    one, _ = trained(batches, "relu", None, True)
    other, _ = trained(batches, "relu", None, False)
    assert_same(one, other)
    assert graphs


@pytest.mark.parametrize(
    ("architecture", "keys"), [("relu", {"noise": 0.1}), ("jumprelu_quadratic", {}), ("topk", {"random_prefixes": 2})]
)
def test_what_is_another_step_each_time_is_not_recorded(architecture, keys, graphs):
    trained({step: few(batch(step + 1), 4) for step in range(4)}, architecture, None, True, **keys)
    assert sum(graph.replays for graph in graphs) == 0


def test_what_would_make_a_recorded_step_wrong_makes_another_of_it():
    member, other = member_of("topk", **KEYS), member_of("topk", **KEYS)
    workspace = gpu_workspace.Workspace(24, member.weights["b_enc"])
    task, kept = member.task(0, 0.0), []

    def keep(task, weights):
        kept.append(gpu_graph._like(task, weights, workspace))

    keep(task, member.weights)
    keep(task, other.weights)
    keep(task._replace(phi=TopK(3)), member.weights)
    keep(task._replace(unit_norm=not task.unit_norm), member.weights)
    keep(task._replace(objective=((0.5, SquaredError()),)), member.weights)
    keep(task._replace(objective=((1.0, SquaredError(1)),)), member.weights)
    keep(task._replace(objective=((1.0, SquaredError(0, (3, 24))),)), member.weights)
    workspace.make_room("entries", 5)
    keep(task, member.weights)
    workspace.array("z", 7)
    keep(task, member.weights)
    assert all(one != other for i, one in enumerate(kept) for other in kept[:i])
    keep(task, member.weights)
    assert kept[-1] == kept[-2]


def test_where_nothing_can_be_recorded_steps_are_launched_and_that_is_said_once(monkeypatch):
    def refuses(call, workspace):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(gpu_graph, "record", refuses)
    batches = {step: few(batch(step + 1), 4) for step in range(STEPS)}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        one, _ = trained(batches, "topk", None, True)
    assert [str(warning.message) for warning in seen if "one by one" in str(warning.message)] == [
        "steps are launched one by one, as one could not be recorded: operation not permitted when stream is capturing"
    ]
    assert_same(one, trained(batches, "topk", None, False)[0])
