"""What to give, beside what was given, so that a recipe is again that of a run, or of a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from unmix.config import GIVEN, RunConfig, dump, flat
from unmix.words import option

_L0_L1 = ("training.l0", "training.l1")
"""Keys of which one takes the place of the other."""
_KEYWORDS = {"activations.hooks": "hook", "training.steps": "steps"}
"""Keys that `unmix.sweep` has a keyword for, by which it looks for the hook of activations."""


def to_resume(recipe: RunConfig, began: RunConfig, keys: Iterable[str]) -> str:
    """These keys as a run began: options, or keywords of `unmix.sweep` if it was handed its activations in Python."""
    keys, then, now = set(keys), flat(dump(began)), flat(dump(recipe))
    kinds = {key for key in keys if key == "sae.architecture" or key.startswith("variants")}
    values = _kinds(recipe, began, "sae.architecture" in kinds) if kinds else {}
    if keys & {*_L0_L1}:
        values |= {key: then[key] for key in _L0_L1 if then[key] != now[key]}
    values |= as_then(sorted(keys - kinds - {*_L0_L1}), then)
    given = as_keywords(values) if began.activations.rows == GIVEN else as_options(values)
    if began.variants or not recipe.variants or _by_architecture(recipe):
        return given
    return " and ".join([f"leave out the variants {', '.join(recipe.variants)}", *([f"give {given}"] if given else [])])


def as_then(keys: Iterable[str], then: Mapping[str, Any]) -> dict[str, Any]:
    """key -> its value in a flat recipe, from which keys at their default may be absent."""
    defaults, found = RunConfig(), {}
    for key in keys:
        if key in ("corpus.source", "corpus.sources"):  # the one takes both
            found["corpus.source"] = then.get("corpus.sources") or then.get("corpus.source")
        else:
            found[key] = then[key] if key in then else _at(defaults, key)
    return found


def as_options(values: Mapping[str, Any]) -> str:
    """For a shell."""
    return " ".join(option(key, value) for key, value in values.items())


def as_keywords(values: Mapping[str, Any]) -> str:
    """For Python."""
    named = {_KEYWORDS.get(key, key): value for key, value in values.items()}
    words = [f"{key}={named.pop(key)!r}" for key in [*named] if "." not in key]
    return ", ".join([*words, *([f"**{named!r}"] if named else [])])


def _kinds(recipe: RunConfig, began: RunConfig, architecture: bool) -> dict[str, Any]:
    """The architecture and the variants of a run, as far as they are others."""
    if _by_architecture(began):
        return {"architecture": [*began.variants]}
    found: dict[str, Any] = {}
    if architecture or _by_architecture(recipe):
        found["architecture"] = [began.sae.architecture]
    now = dump(recipe)["variants"]
    for name, own in dump(began)["variants"].items():
        found |= {f"variants.{name}.{key}": keys for key, keys in own.items() if now.get(name, {}).get(key) != keys}
    return found


def _by_architecture(recipe: RunConfig) -> bool:
    """Whether its variants are what `--architecture A B …` makes."""
    kinds = recipe.variants.items()
    return len(kinds) > 1 and all(own.sae == {"architecture": name} and not own.training for name, own in kinds)


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config
