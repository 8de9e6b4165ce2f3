"""Every key of a recipe in a page of Markdown, from the sections themselves: `scripts/recipe_reference`."""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from unmix.config.run import RunConfig

_HEAD = """# Every key of a recipe

A recipe is YAML with the sections below; each key can be given on the command line as `--section.key value`, in Python
as `section={"key": value}`. A key that does not exist is an error that names the nearest one. This page is written by
`scripts/recipe_reference` from the code, and a test holds that it is the newest.
"""


def page() -> str:
    """The page."""
    parts = [_HEAD, _table("", RunConfig)]
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            parts.append(f"## {name}\n\n{_plain(section.__doc__)}\n\n{_table(name, section)}")
    return "\n".join(parts)


def _table(section: str, model: type[BaseModel]) -> str:
    """Of the keys that are no sections themselves."""
    rows, docs = ["| key | default | what it does |", "|---|---|---|"], _docstrings(model)
    for key, field in model.model_fields.items():
        kind = field.annotation
        if not section and isinstance(kind, type) and issubclass(kind, BaseModel):
            continue
        rows.append(
            f"| `{section + '.' if section else ''}{key}` | {_default(field)} | {_what(field, docs.get(key, ''))} |"
        )
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None or field.default is PydanticUndefined:
        return "follows from others"
    value: Any = field.default
    if isinstance(value, BaseModel):
        value = value.model_dump()
    return f"`{value}`" if value is not None else "none"


def _what(field: FieldInfo, docstring: str) -> str:
    """Its values where they are listed, and its docstring, in one line that Markdown keeps in its cell."""
    values = re.findall(r"'([^']*)'", str(field.annotation)) if "Literal" in str(field.annotation) else []
    said = _plain(docstring)
    listed = ", ".join(f"`{value}`" for value in values)
    return f"{listed}{'. ' if listed and said else ''}{said}".replace("|", "\\|")


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """key -> the string that stands below it in the source."""
    found: dict[str, str] = {}
    for section in reversed(model.__mro__):
        if issubclass(section, BaseModel) and section is not BaseModel:
            [body] = [
                node.body for node in ast.parse(inspect.getsource(section)).body if isinstance(node, ast.ClassDef)
            ]
            for node, text in pairwise(body):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(text, ast.Expr):
                    found[node.target.id] = str(ast.literal_eval(text.value))
    return found


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())
