"""What a feature does on tokens that no other number counts, reason by reason, so that a reader can count them in.

first     position 0, where it is a BOS
long      ||x|| above the mask's bound
special   the other tokens of the mask

Of each reason for which the feature fires, with a = |f| on its tokens:

    firings, mass, max    number, sum and largest of a
    counts                by the bins of the feature's histogram; one more for a above its last edge
    peaks                 the WINDOWS sequences with the largest a, one place each
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix.explore.examples import strongest
from unmix.explore.feature import Doubles, bins
from unmix.explore.store import Floats, Ints, Text

REASONS = ("first", "long", "special")
WINDOWS = 3
Reasons = NDArray[np.int8]


class LeftOut(NamedTuple):
    """See the page's head."""

    firings: int
    mass: float
    max: float
    counts: Ints
    peaks: Ints


def reasons(text: Text, longest: float | None) -> Reasons:
    """reason_R: of each token the first of REASONS that holds, -1 where it is counted."""
    first_R = np.arange(len(text.id_R)) % text.T < text.skip
    long_R = text.norm_R > (np.inf if longest is None else longest)
    found_R = np.where(first_R, 0, np.where(long_R, 1, 2)).astype(np.int8)
    found_R[text.counted_R] = -1
    return found_R


def totals(reason_R: Reasons) -> dict[str, int]:
    """How many tokens are left out, by reason."""
    return {reason: int(np.count_nonzero(reason_R == k)) for k, reason in enumerate(REASONS)}


def left_out(token_n: Ints, act_n: Floats, reason_R: Reasons, edges: Doubles, T: int) -> dict[str, LeftOut]:
    """Of a feature with these entries; `edges` of its histogram, none if it fires on no counted token."""
    reason_n = reason_R[token_n]
    found = {}
    for k in np.unique(reason_n[reason_n >= 0]).tolist():
        token_k, a_k = token_n[reason_n == k], np.abs(act_n[reason_n == k])
        wide_k = a_k.astype(np.float64)
        bin_k = np.where(wide_k > edges[-1], len(edges) - 1, bins(wide_k, edges)) if len(edges) else wide_k * 0
        found[REASONS[k]] = LeftOut(
            len(a_k),
            float(wide_k.sum()),
            float(wide_k.max()),
            np.bincount(bin_k.astype(np.int64), minlength=max(1, len(edges))),
            strongest(token_k, a_k, T, WINDOWS),
        )
    return found
