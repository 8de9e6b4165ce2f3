"""How much of each text a site keeps token by token: as many features of each token as BYTES of files have room for.

BYTES are of all members of a site. A member has an equal share of what those before it have left; it keeps every
sequence, so that every example opens its text, with the `strongest` N features of each token, N the largest for which

    r(N) (11 R + 6 Σ_t min(L0_t, N)) ≤ share        N ≤ MOST

R tokens with so many entries are the bytes in the brackets before they are packed (`token_pages`), and r(N) is what
packing leaves of them, measured on the pages of the first SAMPLE sequences: the store's are in a random order. Where
N = LEAST is too much, those sequences are kept that have the most examples.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from unmix.explore.pack import script_of_bytes
from unmix.explore.store import Ints, Store, Text
from unmix.explore.token_pages import A_TOKEN, AN_ENTRY, token_pages

BYTES = 30_000_000  # of a site: with 16,384 features, about 25 MB, it stays below 60 MB
MOST, LEAST = 64, 4  # features of a token
LEAST_SEQUENCES = 16
SAMPLE = 64  # sequences, four pages
Packed = Callable[[int], float]


class Kept(NamedTuple):
    """Which sequences are kept, and how many features of each of their tokens."""

    sequences: list[int]
    strongest: int
    bytes: int
    """What their pages come to, about."""


class Budget:
    """What is left for the members that are still to come."""

    def __init__(self, members: int, total: int | None = None) -> None:
        self.members, self.left = members, BYTES if total is None else total

    def take(self, windows_S: Ints, l0_R: Ints, T: int, packed: Packed) -> Kept:
        """What the next member keeps (`kept`)."""
        found = kept(windows_S, l0_R, T, packed, self.left // self.members)
        self.members, self.left = self.members - 1, max(0, self.left - found.bytes)
        return found


def kept(windows_S: Ints, l0_R: Ints, T: int, packed: Packed, budget: int) -> Kept:
    """Of S sequences with so many examples; of equal ones the lowest is kept. `packed(N)` is r(N)."""

    @cache
    def size(strongest: int) -> int:
        return round(packed(strongest) * (A_TOKEN * len(l0_R) + AN_ENTRY * int(np.minimum(l0_R, strongest).sum())))

    strongest = LEAST - 1 + bisect_right(range(LEAST, MOST + 1), budget, key=size)
    if strongest >= LEAST:
        return Kept(list(range(len(windows_S))), strongest, size(strongest))
    order_S = np.argsort(-windows_S, kind="stable")
    entries_S = np.minimum(l0_R, LEAST).reshape(-1, T).sum(1)
    size_S = packed(LEAST) * (A_TOKEN * T + AN_ENTRY * entries_S[order_S]).cumsum()
    fit = min(len(size_S), max(LEAST_SEQUENCES, int(np.count_nonzero(size_S <= budget))))
    return Kept(sorted(order_S[:fit].tolist()), LEAST, round(float(size_S[fit - 1])) if fit else 0)


def packed(store: Store, member: str, text: Text) -> Packed:
    """r(N), measured."""
    sequences = range(min(SAMPLE, len(text.id_R) // text.T))

    def share(strongest: int) -> float:
        pages = list(token_pages(store, member, text, sequences, strongest))
        files = sum(len(script_of_bytes(key, data)) for key, data in pages)
        return files / max(1, sum(len(data) for _, data in pages))

    return share
