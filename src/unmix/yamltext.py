"""YAML from anywhere: plain data of a bounded size, or one line of what is wrong with it."""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 100_000  # a recipe has a hundred; a run.yaml some thousand


def parse(text: str) -> Any:
    """Plain data. Raises `ValueError`, in one line, for what is no YAML, or is much more than it looks.

    References (`*name`) are counted as often as they stand: a page of them can stand for more than any memory holds.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    left, waiting = MOST_VALUES, [data]
    while waiting:
        value = waiting.pop()
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        left -= 1 + len(inner)
        if left < 0:
            raise ValueError(f"it stands for more than {MOST_VALUES:,} values")
        waiting.extend(inner)
    return data
