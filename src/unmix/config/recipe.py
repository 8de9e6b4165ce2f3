"""A recipe, read and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unmix import yamltext
from unmix.config.corpus import corpus_keys, of_earlier
from unmix.config.mask import as_keys
from unmix.config.messages import problems_line
from unmix.config.run import RunConfig
from unmix.errors import UserError

_OPENED: dict[str, Callable[[Any], Any]] = {"mask": as_keys, "corpus": corpus_keys}
"""Sections that may stand as a word or a list, and how they are opened."""


def load(recipe: Path | None = None, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Defaults <- recipe <- dotted overrides. Raises `UserError` in one line for anything that does not fit."""
    data: dict[str, Any] = {}
    if recipe is not None:
        try:
            text = recipe.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"no recipe at {recipe}; `unmix sweep --help` lists those that ship with unmix") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {recipe}: {error}") from None
        try:
            loaded = yamltext.parse(text)
        except ValueError as error:
            raise UserError(f"{recipe} is not YAML for a recipe: {error}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise UserError(f"{recipe} holds a {type(loaded).__name__}, not sections such as `training:`")
        data = loaded or {}
    for dotted, value in (overrides or {}).items():
        *path, key = dotted.split(".")
        at = data
        for part in path:
            inside = at.get(part)
            inside = {} if inside is None else _OPENED.get(part, lambda value: value)(inside)
            # a copy: what stands in several places of the recipe (`*name`) is changed in one
            at[part] = inside = dict(inside) if isinstance(inside, dict) else inside
            at = inside
            if not isinstance(at, dict):
                raise UserError(f"--{dotted}: {part} is a value in the recipe, not a section")
        at[key] = value
        if dotted == "corpus.source":
            at.pop("sources", None)  # in place of what the recipe has
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(problems_line(error, RunConfig)) from None


def load_resolved(data: Any, path: Path) -> RunConfig:
    """The recipe of a run folder. Raises `UserError` if this version cannot read it.

    Where it does not say `sae.bias_rate`, the run is from before that was a key, and moves biases as all other weights.
    """
    if isinstance(data, dict) and "corpus" in data:
        data = {**data, "corpus": of_earlier(data["corpus"])}
    if isinstance(data, dict) and isinstance(data.get("sae"), dict):
        data = {**data, "sae": {"bias_rate": 1.0} | data["sae"]}
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(
            f"the recipe in {path} cannot be read by this version of unmix: {problems_line(error, RunConfig)}"
        ) from None


def dump(config: RunConfig) -> dict[str, Any]:
    """The resolved recipe as plain data; `load` of it gives the same run."""
    return config.model_dump(mode="json")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return found
