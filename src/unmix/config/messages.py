"""What does not fit, in a line for people."""

from __future__ import annotations

import difflib
import re
import reprlib
from typing import Any, get_args

from pydantic import ValidationError

from unmix.config.section import DEVICES, Section


def problems_line(error: ValidationError, section: type[Section]) -> str:
    """The first problems in one line; not the defaults that could not be made because of them."""
    problems = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]
    return "; ".join(problem_text(problem, section) for problem in problems[:3])


def problem_text(problem: Any, section: type[Section]) -> str:
    """One of the problems that pydantic found in the keys of a section."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys(problem["loc"][:-1], section)
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, 1, 0.5)
        remedy = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"unknown key {where}; {remedy}"
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        close = difflib.get_close_matches(
            problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]), 1, 0.5
        )
        if close:
            return f"{where} = {_short(problem['input'])}: did you mean {close[0]}?"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == DEVICES:
        message = "give auto, cpu, cuda, cuda:1, mps or xpu"
    given = problem["input"]
    shown = "" if isinstance(given, (dict, Section)) or not where else f" = {_short(given)}"
    return f"{where}{shown}: {message}" if where else message


def _short(value: Any) -> str:
    """`repr`, of what is long or deep only the beginning."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxlist, brief.maxstring, brief.maxother = 2, 12, 120, 120
    return brief.repr(value)


def _keys(path: tuple[Any, ...], model: Any) -> list[str]:
    for part in path:
        if isinstance(part, int):  # an entry of a list of sections
            model = next(iter(get_args(model)), model)
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))
