"""The pass of the definition and its terms through `torch.compile`: elementwise operations become a few.

Steps that revive dead features are not compiled: the shapes of their terms differ each time. Neither is noise, whose
key does, nor an L0 that is aimed at; recipes with these are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor

from unmix.dictionary.terms import AuxK, L0Target, Pass, PreActivation
from unmix.kernels import reference
from unmix.kernels.task import Task

_CHANGING = (AuxK, L0Target, PreActivation)
MOST = 256
"""Functions that are kept, of all architectures and shapes; beyond these torch would compile no more."""


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


class CannotCompile(Exception):
    """torch cannot compile on this machine, or not this."""


@contextmanager
def attempt() -> Iterator[None]:
    """Raises `CannotCompile`, in one line: the pass is compiled when it is first called, its gradient after that."""
    import torch._dynamo.exc as dynamo

    try:
        yield
    except dynamo.TorchDynamoException as error:  # what the backend raises is one, or is wrapped in one
        raise CannotCompile(" ".join(str(error).split("\n")[:2]).strip() or type(error).__name__) from None


@cache
def _compiled() -> Any:
    """Sizes are symbols from the start, so that what is compiled, and its bits, do not depend on what came before."""
    import torch._dynamo

    limits: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"
    setattr(limits, name, max(MOST, getattr(limits, name)))
    return torch.compile(reference.passed, dynamic=True)
