"""A feature's examples as text for a model: which are shown, which are kept back, and how active tokens are marked."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

Window = dict[str, Any]
"""{s, p, c, ids, v, m}, as in the site's records of features."""
BytesOf = Callable[[int], bytes]
OPEN, CLOSE = "⟦", "⟧"
SHOWN, HELD = 10, 20  # windows
LEAST = 2  # of each, below which a feature is left out


class Split(NamedTuple):
    """Windows of one feature; none of `shown` overlaps one of `held`."""

    shown: list[Window]
    """What a description is made from: of the top, and one of every band of values, in turn."""
    held: list[Window]
    """Firings that it is tried on: those drawn uniformly, then those of bands of mass."""
    silent: list[Window]
    """Windows without any firing, which overlap no `held` one: places where its token does not fire, and others."""


def split(record: dict[str, Any]) -> Split:
    """The windows of a feature's record; a feature with few firings keeps half of them back."""
    groups = record["groups"]
    value, mass = ([w for band in groups[kind] for w in band["windows"]] for kind in ("value", "mass"))
    distinct = _apart([*groups["uniform"], *mass, *groups["top"], *value])
    held = _apart([*groups["uniform"], *mass])[: min(HELD, len(distinct) // 2)]
    one_a_band = [band["windows"][0] for band in reversed(groups["value"]) if band["windows"]]
    candidates = [*_in_turn(groups["top"], one_a_band), *groups["top"], *value, *mass, *groups["uniform"]]
    shown = _apart(candidates, held)[:SHOWN]
    silent = _apart([window for window in [*groups["near"], *groups["silent"]] if not window["v"]], held)
    return Split(shown, held, silent)


def _apart(windows: Iterable[Window], others: Iterable[Window] = ()) -> list[Window]:
    """Those that overlap neither one before them nor one of the others."""
    kept: list[Window] = []
    taken = list(others)
    for window in windows:
        if not any(_overlap(window, other) for other in taken):
            kept.append(window)
            taken.append(window)
    return kept


def _overlap(a: Window, b: Window) -> bool:
    (first_a, first_b), (n_a, n_b) = (int(a["p"]), int(b["p"])), (len(a["ids"]), len(b["ids"]))
    return bool(a["s"] == b["s"]) and first_a < first_b + n_b and first_b < first_a + n_a


def _in_turn(a: list[Window], b: list[Window]) -> Iterator[Window]:
    for pair in zip(a, b, strict=False):
        yield from pair


def active(window: Window) -> list[int]:
    """Offsets at which the feature fires, but for masked ones such as the BOS."""
    return [offset for offset, _ in window["v"] if offset not in window["m"]]


def elsewhere(window: Window, draw: random.Random) -> list[int] | None:
    """As many offsets as `active` ones, at which it does not fire and that are not masked; none if there are fewer."""
    fires = {offset for offset, _ in window["v"]}
    silent = sorted(set(range(len(window["ids"]))) - fires - set(window["m"]))
    wanted = len(active(window))
    return sorted(draw.sample(silent, wanted)) if wanted <= len(silent) else None


def text_of(window: Window, bytes_of: BytesOf, marked: Collection[int] = ()) -> str:
    """The window in one line, with the tokens at these offsets between ⟦ and ⟧; neighbours share a pair.

    A character of which one byte is marked is marked whole. What is no text is �, line breaks and tabs are escaped.
    """
    data, of_token = b"", []
    for offset, token in enumerate(window["ids"]):
        found = bytes_of(token)
        data += found
        of_token += [offset] * len(found)
    parts, at, inside = [], 0, False
    for character in data.decode("utf-8", "surrogateescape"):
        length = len(character.encode("utf-8", "surrogateescape"))
        now = any(offset in marked for offset in of_token[at : at + length])
        if now != inside:
            parts.append(OPEN if now else CLOSE)
        parts.append(_shown(character))
        at, inside = at + length, now
    return "".join(parts) + (CLOSE if inside else "")


def _shown(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return "�"
    if character in (OPEN, CLOSE):
        return "[" if character == OPEN else "]"
    return character if character.isprintable() else character.encode("unicode_escape").decode()
