"""Which tasks the GPU's kernels know; all others go to the portable step (`tiles`). Needs no triton.

    nonlinearity                     with beside the squared error (prefixes and norm power too)
    relu, tanh_relu                  L1                              sparse, or dense where much is active
    jumprelu                         L1, L0, L0Target, Tanh          as relu
    topk, batchtopk                  L1, MoreActive                  sparse
    abstopk                          MoreActive                      sparse

and of dead features AuxK and PreActivation, without noise: z of a dead feature would need its share of it. A gated
dictionary is not covered, nor is a `MoreActive` of another nonlinearity.
"""

from __future__ import annotations

from typing import Any

from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, JumpRelu, Relu, TanhRelu, TopK
from unmix.dictionary.terms import L0, L1, AuxK, L0Target, MoreActive, PreActivation, SquaredError, Tanh
from unmix.kernels.task import Task

_OF_DEAD = (AuxK, PreActivation)
_DENSE: dict[type, tuple[Any, ...]] = {Relu: (L1,), TanhRelu: (L1,), JumpRelu: (L1, L0, L0Target, Tanh)}
_TERMS: dict[type, tuple[Any, ...]] = {
    Relu: (L1,),
    TanhRelu: (L1,),
    JumpRelu: (L1, L0, L0Target, Tanh),
    TopK: (L1, MoreActive),
    BatchTopK: (L1, MoreActive),
    AbsTopK: (MoreActive,),
}
"""By nonlinearity, what it may be trained for beside the squared error and what revives dead features."""


def covers(task: Task) -> bool:
    """Whether the sparse step knows the nonlinearity and all terms, and how they go together."""
    terms = _TERMS.get(type(task.phi))
    if terms is None or not task.only(SquaredError, *terms, *_OF_DEAD) or task.term(SquaredError) is None:
        return False
    more = task.term(MoreActive)
    if isinstance(more, MoreActive) and type(more.phi) is not type(task.phi):
        return False
    same_width = [term for _, term in task.objective if isinstance(term, L0 | L0Target)]
    if isinstance(task.phi, JumpRelu) and any(term.bandwidth != task.phi.bandwidth for term in same_width):
        return False
    return not (task.noise and any(task.term(kind) for kind in _OF_DEAD))


def dense_covers(task: Task) -> bool:
    """Whether the dense step does."""
    known: tuple[type, ...] = _DENSE.get(type(task.phi), ())
    one_error = not task.error.prefixes and bool(task.coefficient(SquaredError) == 1)
    return bool(known) and task.only(SquaredError, *known) and one_error
