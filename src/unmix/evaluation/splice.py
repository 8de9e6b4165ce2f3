"""Put something in the place of an activation while the model runs.

with splice(model, "resid_post.3", sae):            x̂ for x
with splice(model, hook, error_of(sae)):            x - x̂ for x
with splice(model, hook, with_feature(sae, 7, 0)):  x with feature 7 taken out; 2.0: doubled
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unmix.dictionary.model import Dictionary
from unmix.lm.hooks import find_place
from unmix.lm.places import Running, attach

Replacement = Callable[[Tensor], Tensor]


@contextmanager
def splice(model: nn.Module, hook: str, replacement: Replacement) -> Iterator[None]:
    """While inside, the activation x (N, T, D) at the hook is replaced by `replacement(x)`, in x's dtype.

    Tokens that a dictionary was not trained on (`sae.longest`) stay unchanged; so they do with the replacements below.
    `model` is a causal LM of `transformers`; hooks are named as in a recipe. Raises `UserError` for a hook that the
    model lacks. The model is as it was afterwards, also after an exception.
    """
    place, running = find_place(model, hook), Running(model)
    if isinstance(replacement, Dictionary):
        replacement = _where_trained(replacement, replacement)
    handle = attach(place, hook, running, replacement)
    try:
        yield
    finally:
        handle.remove()
        running.remove()


def error_of(sae: Dictionary) -> Replacement:
    """x - x̂: what the dictionary does not give back."""
    return _where_trained(sae, lambda x: x - sae(x))


def with_feature(sae: Dictionary, feature: int, factor: float) -> Replacement:
    """x with feature i at `factor` times its activation: x + (factor - 1) f_i W_dec_i; the error stays as it is."""

    def replace(x: Tensor) -> Tensor:
        contribution = sae.encode(x)[..., feature, None] * sae.W_dec[feature]
        if sae.per_token_scaling:
            contribution = contribution * sae.token_scale(x)
        return x + (factor - 1) * contribution

    return _where_trained(sae, replace)


def _where_trained(sae: Dictionary, replacement: Replacement) -> Replacement:
    """The replacement, of tokens that the dictionary was trained on; the others keep x."""
    if sae.longest is None:
        return replacement
    return lambda x: torch.where(sae.leaves(x)[..., None], x, replacement(x))
