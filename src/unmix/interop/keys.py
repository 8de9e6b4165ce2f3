"""The keys of a configuration file: each is read, known not to change the function, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmix.errors import UserError
from unmix.yamltext import parse

AGAIN = "copy or download it again"


class Keys:
    """An object as it stands in a file. What was asked for is known; `finish` refuses what was not."""

    def __init__(self, path: Path, values: Mapping[str, Any], within: str = "") -> None:
        self.path = path
        self.values = values
        self._within = within
        self._known: set[str] = set()

    def said(self, key: str) -> str:
        """`"key": value` as it stands in the file, cut short."""
        value = json.dumps(self.values[key], default=str)
        name = json.dumps(self._within + key)[:60]
        return f"{name}: {value if len(value) <= 60 else value[:59] + '…'}"

    def refuse(self, key: str, why: str) -> UserError:
        """The error for a value that is not read."""
        return UserError(f"{self.path} says {self.said(key)}; {why}")

    def has(self, key: str) -> bool:
        """Whether it is there; it counts as read."""
        self._known.add(key)
        return key in self.values

    def one_of(self, key: str, values: Sequence[Any], why: str = "open it with the library that wrote it") -> Any:
        """The value, one of `values`; the first, if the key is absent. Raises `UserError` for any other."""
        if not self.has(key):
            return values[0]
        found = self.values[key]
        if not any(type(found) is type(value) and found == value for value in values):
            raise self.refuse(key, f"this version reads {', '.join(map(json.dumps, values))}: {why}")
        return found

    def whole(self, key: str, least: int = 1) -> int | None:
        """A whole number from `least` up. None, if the key is absent."""
        if not self.has(key) or self.values[key] is None:
            return None
        found = self.values[key]
        if isinstance(found, bool) or not isinstance(found, int) or not least <= found < 2**53:
            raise self.refuse(key, f"that is no whole number from {least} up: {AGAIN}")
        return found

    def number(self, key: str) -> float | None:
        """A finite number. None, if the key is absent."""
        if not self.has(key) or self.values[key] is None:
            return None
        found = self.values[key]
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(_float(found)):
            raise self.refuse(key, f"that is no finite number: {AGAIN}")
        return _float(found)

    def text(self, key: str) -> str | None:
        """A string that is not empty, without line breaks. None, if it is anything else or absent."""
        return text(self.values.get(key)) if self.has(key) else None

    def inside(self, key: str) -> Keys:
        """The object under the key; an empty one, if it is absent."""
        found = self.values.get(key, {}) if self.has(key) else {}
        if not isinstance(found, dict):
            raise self.refuse(key, f"that is no object: {AGAIN}")
        return Keys(self.path, found, f"{self._within}{key}.")

    def finish(self, ignored: Collection[str] = ()) -> None:
        """Raises `UserError` for the first key that was not asked for and is not one of `ignored`."""
        for key in self.values:
            if key not in self._known and key not in ignored:
                raise UserError(
                    f"{self.path} says {self.said(key)}, which this version does not know; "
                    "if it does not change what the SAE computes, remove it there"
                )


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


def text(value: Any) -> str | None:
    """The value, if it is a string for people: not empty, on one line, not endless."""
    return value if isinstance(value, str) and 0 < len(value) <= 500 and value.isprintable() else None


def fact(value: Any) -> float | None:
    """The value, if it is a number and finite: something that is shown and not counted with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _float(value) if math.isfinite(_float(value)) else None


def count(value: Any) -> int | None:
    """The value, if it is a whole number above 0: something that is shown."""
    return value if type(value) is int and value > 0 else None


def asked(l0: Any, l1: Any) -> dict[str, float]:
    """What a training was asked for, `Origin.asked`: the L0 if there is one, else the coefficient, else nothing."""
    for kind, number in (("l0", fact(l0)), ("l1", fact(l1))):
        if number is not None:
            return {kind: number}
    return {}


def read_keys(path: Path) -> Keys:
    """The object in a JSON or YAML file. Raises `UserError` if it cannot be read."""
    try:
        content = path.read_text(encoding="utf-8")
        found = parse(content) if path.suffix in (".yaml", ".yml") else json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        cause = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged or cannot be read ({cause}); {AGAIN}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{path} is damaged: it holds no object; {AGAIN}")
    return Keys(path, found)
