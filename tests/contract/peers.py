"""What the tests beside other libraries share: a batch, and how our step is held against their loss.

Their parameters keep their own names and layouts. A test says how they are brought to ours, `to_ours`, in equations
that autograd can follow; our gradients go back through it by the chain rule and are compared with theirs, parameter by
parameter, in float64. Letters: B tokens, D width, F features, P prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from contract.cases import config_of, draw, task_of
from kernel_cases import nan_like
from torch import Tensor, nn

from unmix.dictionary.nonlinearities import row_norms
from unmix.dictionary.terms import AuxK, loss
from unmix.kernels import cpu, find, reference
from unmix.kernels.task import Sums, Task, Weights

B, D, F, K = 24, 6, 20, 3
WIDTHS = (4, 11, F)
"""The prefixes of a matryoshka."""
DEAD_N = (2, 7, 11, 13, 18)
"""Features that are called dead, where some are."""
K_AUX = D // 2
"""How many of them AuxK takes of a token, in both libraries."""
TOLERANCE = 1e-9

ToOurs = Callable[[Mapping[str, Tensor]], Weights]


def x_of() -> Tensor:
    """A batch whose mean is not 0, (B, D)."""
    return draw(B, D, seed=100) + 0.5


def fill(model: nn.Module) -> dict[str, Tensor]:
    """Draw every parameter anew; answers them by name, to change in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for seed, parameter in enumerate(parameters.values()):
            parameter.copy_(0.5 * draw(*parameter.shape, seed=seed))
    return {name: parameter.detach() for name, parameter in parameters.items()}


def call_dead(weights: Mapping[str, Tensor], bias: float) -> None:
    """Make `DEAD_N` of W_enc, b_enc and W_dec what is never kept: z near `bias`. All rows get length 1."""
    weights["W_enc"][:, DEAD_N] *= 0.05
    weights["b_enc"][list(DEAD_N)] = bias
    weights["W_dec"].div_(row_norms(weights)[:, None])


def topk_task(architecture: str, k: float, dead: int = 0, auxk: float = 0.0, **keys: Any) -> Task:
    """‖x̂ - x‖², of a matryoshka its mean over `WIDTHS`, and AuxK of so many dead features."""
    prefixes = [*WIDTHS[:-1]] if architecture == "matryoshka" else []
    config = config_of(architecture, F, prefixes=prefixes, auxk=auxk, **keys)
    both_signs = architecture == "abstopk"
    term = AuxK(min(K_AUX, dead), torch.tensor(DEAD_N[:dead]), both_signs=both_signs) if dead else None
    return task_of(config, k, 0.0, auxk=term)


def normal_form(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, centred: bool, **own: Tensor) -> Weights:
    """Our weights of theirs: a b_dec that they take from x before the encoder goes into b_enc.

    (x - b_dec) W_enc + b_enc = x W_enc + (b_enc - b_dec W_enc)
    """
    b_enc = b_enc - b_dec @ W_enc if centred else b_enc
    return {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, **own}


def gated_form(
    W_enc: Tensor, b_gate: Tensor, r_mag: Tensor, b_mag: Tensor, W_dec: Tensor, b_dec: Tensor, centred: bool
) -> Weights:
    """The same of a gated dictionary, in which x goes two ways:

    exp(r) ((x - b_dec) W_enc) + b_mag = exp(r) (x W_enc) + (b_mag - exp(r) b_dec W_enc)
    """
    b_mag = b_mag - r_mag.exp() * (b_dec @ W_enc) if centred else b_mag
    return normal_form(W_enc, b_gate, W_dec, b_dec, centred, r_mag=r_mag, b_mag=b_mag)


class Found(NamedTuple):
    """A loss, the mean over the tokens, and its gradient by the names of the other library."""

    path: str
    loss: float
    gradients: dict[str, Tensor]
    sums: Sums | None = None

    def plus(self, other: Found) -> Found:
        """Of the sum of two losses."""
        both = {name: gradient + other.gradients[name] for name, gradient in self.gradients.items()}
        return Found(f"{self.path} and {other.path}", self.loss + other.loss, both)


def by_autograd(path: str, mean_loss: Tensor, leaves: Mapping[str, Tensor]) -> Found:
    """Of a loss, or a part of one that some parameters have nothing to do with."""
    wanted = list(leaves.values())
    gradients = torch.autograd.grad(mean_loss, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    return Found(path, mean_loss.item(), dict(zip(leaves, gradients, strict=True)))


def theirs(model: nn.Module, mean_loss: Tensor) -> Found:
    """What autograd makes of their loss."""
    return by_autograd("theirs", mean_loss, dict(model.named_parameters()))


def ours(model: nn.Module, to_ours: ToOurs, x_BD: Tensor, task: Task) -> list[Found]:
    """What each of our steps that knows the task makes of their parameters: the definition first."""
    leaves = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    mapped = to_ours(leaves)
    weights = {name: weight.detach().clone() for name, weight in mapped.items()}
    weights["W_enc"] = weights["W_enc"].T.contiguous().T  # a feature's numbers side by side, as a member has them
    steps: dict[str, Callable[..., Sums]] = {"definition": reference.step}
    if cpu.covers(task):
        steps["sparse"] = lambda *args: cpu.step(*args, find.Workspace("fp32"))
    found = []
    for path, step in steps.items():
        gradients = nan_like(weights)
        sums = step(x_BD, x_BD, weights, gradients, task)
        back = torch.autograd.grad(
            list(mapped.values()), list(leaves.values()), [gradients[name] for name in mapped], retain_graph=True
        )
        mean = loss(task.objective, sums.terms) / len(x_BD)
        found.append(Found(path, mean, dict(zip(leaves, back, strict=True)), sums))
    return found


def assert_same(mine: list[Found], them: Found, but: tuple[str, ...] = ()) -> None:
    """The loss, and every gradient up to its largest entry times the tolerance; none of them is 0 throughout."""
    for found in mine:
        assert found.loss == pytest.approx(them.loss, rel=TOLERANCE), found.path
        for name, wanted in them.gradients.items():
            if name not in but:
                assert wanted.abs().max() > 0, name
                assert apart(found.gradients[name], wanted) < TOLERANCE, (found.path, name)


def apart(gradient: Tensor, wanted: Tensor) -> float:
    """The largest difference, over the largest entry that is wanted."""
    return ((gradient - wanted).abs().max() / wanted.abs().max()).item()


def assert_same_pass(
    model: nn.Module, to_ours: ToOurs, x_BD: Tensor, task: Task, f_BF: Tensor, x_hat_BD: Tensor
) -> None:
    """Their f, in our units, and their x̂ are ours."""
    weights = to_ours({name: parameter.detach() for name, parameter in model.named_parameters()})
    passed = reference.forward(x_BD, x_BD, weights, task)
    torch.testing.assert_close(f_BF.detach(), passed.f_BF, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(x_hat_BD.detach(), passed.y_hat_BE, rtol=TOLERANCE, atol=TOLERANCE)
