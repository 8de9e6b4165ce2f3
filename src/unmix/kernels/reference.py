"""The definition of correct: the loss of a dictionary written as its equation, the gradients left to autograd.

    z = x W_enc + b_enc (+ ε),   f = phi(z),   ŷ = f W_dec + b_dec
    loss = mean_B Σ_terms coefficient · term           e.g. ||ŷ - y||²  +  l1 · Σ_i ||W_dec_i|| f_i

With a decoder of unit norm, the part of each row's gradient along the row is taken out before an update, which puts
the row back on the sphere. The nonlinearities and the terms are those of `unmix.dictionary`.

The other kernels compute the same `step` and the same `adam`; this file is what they are tested against, and what runs
where none of them knows a nonlinearity or a term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import BatchTopK, Nonlinearity, row_norms
from unmix.dictionary.terms import Pass, squares
from unmix.kernels.portable import gaussian
from unmix.kernels.task import Adam, Number, Sums, Task, Weights, wide

Passed = Callable[[Tensor, Tensor, Mapping[str, Tensor], Task, int], tuple[Pass, list[Tensor]]]


def step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, first_token: int = 0) -> Sums:
    """Write d loss / d weights into `gradients` and answer the sums of the batch.

    `first_token`: where it begins in a larger one, whose noise it has.
    """
    return launch(x_BD, y_BE, weights, gradients, task, first_token).read()


def passed(
    x_BD: Tensor, y_BE: Tensor, weights: Mapping[str, Tensor], task: Task, first_token: int = 0
) -> tuple[Pass, list[Tensor]]:
    """The pass, and the terms of the objective on it."""
    found = forward(x_BD, y_BE, weights, task, first_token)
    return found, [term(found) for _, term in task.objective]


def launch(
    x_BD: Tensor,
    y_BE: Tensor,
    weights: Weights,
    gradients: Weights,
    task: Task,
    first_token: int = 0,
    passed: Passed = passed,
) -> Sums:
    """The same without waiting for the device, where the sums stay. `passed`: another way to make the same pass."""
    leaves = grown(weights)
    return descend(*passed(x_BD, y_BE, leaves, task, first_token), leaves, gradients, task)


def grown(weights: Weights) -> Weights:
    """The weights as autograd's leaves."""
    return {name: w.detach().requires_grad_() for name, w in weights.items()}


def descend(found: Pass, terms: Sequence[Tensor], leaves: Weights, gradients: Weights, task: Task) -> Sums:
    """The gradients of a pass whose terms came to these, and its sums; does not wait."""
    weighed = (_like(c, term) * term for (c, _), term in zip(task.objective, terms, strict=True))
    loss = sum(weighed, found.x_BD.new_zeros(())) / len(found.x_BD)
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    for gradient, slope in zip(gradients.values(), slopes, strict=True):
        gradient.copy_(slope)
    return sums(found, task, terms)


def _like(coefficient: Number, term: Tensor) -> Number:
    """In the dtype of the term, as torch takes a number of the host."""
    return coefficient.to(term.dtype) if isinstance(coefficient, Tensor) else coefficient


def forward(x_BD: Tensor, y_BE: Tensor, weights: Mapping[str, Tensor], task: Task, first_token: int = 0) -> Pass:
    """The equations."""
    z_BF = x_BD @ weights["W_enc"] + weights["b_enc"]
    if task.noise:
        z_BF = z_BF + gaussian(z_BF.detach(), task.noise, first_token)
    f_BF = task.phi(z_BF, weights)
    return Pass(x_BD, y_BE, z_BF, f_BF, f_BF @ weights["W_dec"] + weights["b_dec"], weights)


@torch.no_grad()
def alone(x_BD: Tensor, y_BE: Tensor, weights: Weights, task: Task, threshold: Any) -> Sums:
    """The sums of a batch as the saved dictionary takes it: each token by itself, without noise. Does not wait."""
    phi, own = task.phi.alone(weights, threshold)
    task = task._replace(phi=phi, noise=None)
    found, terms = passed(x_BD, y_BE, own, task)
    return sums(found, task, terms)


@torch.no_grad()
def sums(p: Pass, task: Task, terms: Sequence[Tensor]) -> Sums:
    """The sums of a pass, given those of its terms; they stay on the device."""
    square_B = wide(squares(p.y_hat_BE, p.y_BE))
    w_F = row_norms(p.weights) if task.weigh_by_norm else torch.ones_like(p.weights["b_enc"])
    return Sums(
        squared_error=square_B.sum(),
        terms=tuple(wide(term) for term in terms),
        penalty=p.f_BF.abs().sum(0, dtype=square_B.dtype) @ wide(w_F),
        active_F=(p.f_BF != 0).sum(0).to(p.x_BD.dtype),
        square_B=square_B,
        threshold=_least_kept(p, task.phi),
    )


def _least_kept(p: Pass, phi: Nonlinearity) -> Tensor | None:
    """Of a batchtopk, the least contribution that it kept; 0 where there were fewer than it wanted."""
    if not isinstance(phi, BatchTopK):
        return None
    if not (wanted := phi.entries(len(p.f_BF))):
        return wide(p.f_BF.new_zeros(()))
    kept_BF = p.f_BF > 0
    least = torch.where(kept_BF, p.f_BF * row_norms(p.weights), torch.inf).min()
    return wide(torch.where(kept_BF.sum() >= wanted, least, 0))


def finish(weights: Weights, gradients: Weights, unit_norm: bool) -> float:
    """Take the part along decoder rows of length 1 out of their gradients; answer Σ g² over all gradients."""
    return square(weights, gradients, unit_norm).item()


def square(weights: Weights, gradients: Weights, unit_norm: bool) -> Tensor:
    """The same left on the device, ()."""
    if unit_norm:
        g_FE, W_FE = gradients["W_dec"], weights["W_dec"]
        g_FE -= W_FE * (g_FE * W_FE).sum(1, keepdim=True)
    squares = [g.square().sum(dtype=wide(g[:0]).dtype) for g in gradients.values()]
    return sum(squares, torch.zeros_like(squares[0]))


def adam(weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
    """One update in place; `first` and `second` are the running means of the gradient and of its square.

    m ← β₁ m + (1-β₁) g,   v ← β₂ v + (1-β₂) g²,   W ← W - lr · (m / (1-β₁^t)) / (√(v / (1-β₂^t)) + eps)

    b_enc has its own lr, `how.bias_rate` times the others'.
    """
    b1, b2 = how.betas
    for name, W in weights.items():
        g, m, v = gradients[name] * how.shrink, first[name], second[name]
        put(m, m * b1 + g * (1 - b1), how.stop_1)
        put(v, v * b2 + g * g * (1 - b2), how.stop_1)
        change = how.rate(name) * (m / (1 - b1**how.number)) / ((v / (1 - b2**how.number)).sqrt() + how.eps)
        put(W, W - change, how.stop_1)
    if how.unit_norm:
        W_FE = weights["W_dec"]
        put(W_FE, W_FE / W_FE.norm(dim=1, keepdim=True), how.stop_1)


def put(old: Tensor, new: Tensor, stop_1: Tensor | None) -> None:
    """The new numbers in place of the old ones; not where `stop` is set."""
    old.copy_(new if stop_1 is None else torch.where(stop_1 == 0, new, old))
