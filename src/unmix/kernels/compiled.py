"""The pass of the definition and its terms through `torch.compile`: elementwise operations become a few.

What is another function at each step is left as it is, since each would be compiled anew: noise, whose key changes;
the terms of dead features, whose shapes do; an L0 that is aimed at.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.terms import AuxK, L0Target, Pass, PreActivation
from unmix.errors import UserError
from unmix.kernels import reference
from unmix.kernels.task import Task

_CHANGING = (AuxK, L0Target, PreActivation)


def passed(
    x_BD: Tensor, y_BE: Tensor, weights: Mapping[str, Tensor], task: Task, first_token: int = 0
) -> tuple[Pass, list[Tensor]]:
    """As `reference.passed`; agrees with it up to rounding."""
    if task.noise or any(task.term(kind) for kind in _CHANGING):
        return reference.passed(x_BD, y_BE, weights, task, first_token)
    # the coefficients come after it: a new one is no new function
    plain = task._replace(objective=tuple((1.0, term) for _, term in task.objective))
    with warnings.catch_warnings():
        # it looks at .grad of the moved biases of `autocast`, which are no leaves
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        found: tuple[Pass, list[Tensor]] = _compiled()(x_BD, y_BE, weights, plain)
    return found


@contextmanager
def refusal() -> Iterator[None]:
    """Raises `UserError` where torch cannot compile: the pass when it is first called, its gradient after that."""
    import torch._dynamo.exc
    import torch._inductor.exc

    try:
        yield
    except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"training.compile = true: torch cannot compile here ({reason}); leave it out") from None


@cache
def _compiled() -> Any:
    return torch.compile(reference.passed)
