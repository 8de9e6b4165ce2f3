"""Put something in the place of an activation while the model runs.

with splice(model, "resid_post.3", sae):            x̂ for x
with splice(model, hook, error_of(sae)):            x - x̂ for x
with splice(model, hook, with_feature(sae, 7, 0)):  x with feature 7 taken out; 2.0: doubled
with splice(model, {"resid_post.3": sae, "mlp_out.4": steered(other, add={12: 3.0})}):      several places at once
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.lm.hooks import find_place
from unmix.lm.places import Running, attach
from unmix.lm.wrapped import module_of, place_name, require_added

Replacement = Callable[[Tensor], Tensor]


@contextmanager
def splice(
    model: object, hook: str | Mapping[str, Replacement], replacement: Replacement | None = None
) -> Iterator[None]:
    """While inside, the activation x (N, T, D) at the hook is replaced by `replacement(x)`, in x's dtype.

    Several hooks at once are hook -> replacement. Tokens that a dictionary was not trained on (`sae.longest`) stay
    unchanged; so they do with the replacements below. `model` is a causal LM of `transformers`, with hooks named as in
    a recipe; one of nnsight or nnterp around it, whose traces then run with the replacement; a model of
    TransformerLens; a model of ours; or any module, with hooks that are paths. The model is as it was afterwards, also
    after an exception.

    Raises `UserError` for a hook that the model lacks, for an `attn_out` or `mlp_out` that is not what its block adds
    (a pass over a few tokens shows it, the first time), and for a model that does not run here: one of another kind,
    or one whose weights are not loaded.
    """
    if isinstance(hook, str):
        if replacement is None:
            raise UserError(f"nothing was given to put in the place of {hook}; give a dictionary, or a function of x")
        hook = {hook: replacement}
    module = module_of(model)
    require_added(module, [place_name(module, name) for name in hook])
    with replaced(module, hook):
        yield


@contextmanager
def replaced(module: nn.Module, hook: Mapping[str, Replacement]) -> Iterator[None]:
    """`splice` for a module whose hooks were checked before."""
    places = {name: find_place(module, place_name(module, name)) for name in hook}
    running = Running(module)
    # those in the middle of a block read what goes into it as the others leave it
    ordered = sorted(hook, key=lambda name: places[name].onto is not None)
    handles = [attach(places[name], name, running, _of_trained(hook[name])) for name in ordered]
    try:
        yield
    finally:
        for handle in (*handles, running):
            handle.remove()


def error_of(sae: Dictionary) -> Replacement:
    """x - x̂: what the dictionary does not give back. Raises `UserError` for a transcoder."""
    _require_own_place(sae)
    return _where_trained(sae, lambda x: x - sae(x))


def with_feature(sae: Dictionary, feature: int, factor: float) -> Replacement:
    """x with feature i at `factor` times its activation: x + (factor - 1) f_i W_dec_i; the error stays as it is."""
    return steered(sae, multiply={feature: factor})


def steered(
    sae: Dictionary,
    *,
    ablate: Iterable[int] = (),
    clamp: Mapping[int, float] | None = None,
    add: Mapping[int, float] | None = None,
    multiply: Mapping[int, float] | None = None,
) -> Replacement:
    """x with features set to 0, held at a value on every token, moved by one, or multiplied; the error stays as it is.

    Features are whole numbers of any kind: Python's, numpy's, those in a tensor. Values are in the units of f. Raises
    `UserError` for a feature that the dictionary lacks, that is named twice, or that is no whole number, and for a
    transcoder, whose features are changed at another hook than it reads.
    """
    ablated = [_index(feature) for feature in ablate]
    clamped, added, multiplied = (
        [(_index(feature), value) for feature, value in (given or {}).items()] for given in (clamp, add, multiply)
    )
    named = [*ablated, *(feature for feature, _ in (*clamped, *added, *multiplied))]
    if twice := [feature for feature in named if named.count(feature) > 1]:
        raise UserError(f"feature {twice[0]} is changed in two ways; give one")
    values, amounts, factors = dict(clamped), dict(added), dict.fromkeys(ablated, 0.0) | dict(multiplied)

    def new(f_K: Tensor) -> Tensor:
        new_K = f_K.clone()
        for at, feature in enumerate(named):
            if feature in values:
                new_K[..., at] = values[feature]
            elif feature in amounts:
                new_K[..., at] += amounts[feature]
            else:
                new_K[..., at] *= factors[feature]
        return new_K

    return with_features(sae, named, new)


def with_features(sae: Dictionary, features: Sequence[int], new: Callable[[Tensor], Tensor]) -> Replacement:
    """x' = x + Δ(x), with the Δ of `moved_by`; float32.

    Raises `UserError` for a feature that the dictionary lacks, and for a transcoder.
    """
    _require_own_place(sae)
    moved = moved_by(sae, features, new)

    def replace(x: Tensor) -> Tensor:
        there = x.to(sae.W_dec.device)
        return (there.to(sae.W_dec.dtype) + moved(there)).to(x.device)

    return replace


def moved_by(sae: Dictionary, features: Sequence[int], new: Callable[[Tensor], Tensor]) -> Replacement:
    """Δ(x) = (new(f_K) - f_K) W_dec_K for the features K, times the scale where T scales each token; float32.

    (..., D) -> (..., E): an SAE's Δ is added to x, a transcoder's to the y at its other hook. It is 0 for tokens that
    the dictionary was not trained on. Raises `UserError` for a feature that the dictionary lacks.
    """
    features_K = [_index(feature) for feature in features]
    if absent := [feature for feature in features_K if not 0 <= feature < sae.features]:
        raise UserError(f"feature {absent[0]} is not there; the dictionary has 0 to {sae.features - 1}")

    def moved(x: Tensor) -> Tensor:
        there = x.to(sae.W_dec.device)
        x_D = there.to(sae.W_dec.dtype)
        f_K = sae.encode(x_D)[..., features_K]
        moved_E = (new(f_K) - f_K) @ sae.W_dec[features_K]
        if sae.per_token is not None:
            moved_E = moved_E * sae.token_scale(x_D)
        if sae.longest is not None:
            moved_E = moved_E.masked_fill(sae.leaves(there)[..., None], 0)
        return moved_E.to(x.device)

    return moved


def _require_own_place(sae: Dictionary) -> None:
    """Raises `UserError` for a transcoder, as far as its files say that it is one: its ŷ and its x are of two hooks."""
    if getattr(sae.cfg, "transcoder", False):
        at = f"{sae.cfg.hook or 'its input'} -> {sae.cfg.hook_out or 'its output'}"
        raise UserError(
            f"a transcoder ({at}) gives nothing of the place that it reads, where this would put it; "
            "unmix.explore.intervene.intervene(…, hook_out=…) changes its features"
        )


def _index(feature: Any) -> int:
    """A feature as Python's own whole number. Raises `UserError` for what is none; a bool is part of a mask."""
    try:
        if "bool" in str(getattr(feature, "dtype", type(feature).__name__)):
            raise TypeError
        return index(feature)
    except TypeError:
        raise UserError(f"feature {feature!r} is no whole number; give the indices of features") from None


def _of_trained(replacement: Replacement) -> Replacement:
    """A dictionary's x̂ where it was trained; another replacement as it is."""
    return _where_trained(replacement, replacement) if isinstance(replacement, Dictionary) else replacement


def _where_trained(sae: Dictionary, replacement: Replacement) -> Replacement:
    """The replacement, of tokens that the dictionary was trained on; the others keep x. It is made where `sae` lies."""

    def replace(x: Tensor) -> Tensor:
        there = x.to(sae.W_dec.device)
        new = replacement(there)
        if sae.longest is not None:
            new = torch.where(sae.leaves(there)[..., None], there, new)
        return new.to(x.device)

    return replace
