"""The text around a token: BEFORE tokens ahead of it, AFTER behind it, within its document and its sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from unmix.explore.rounding import rounded
from unmix.explore.store import Floats, Ints, Text

BEFORE, AFTER = 14, 5


def bounds(peak_w: Ints, text: Text) -> tuple[Ints, Ints]:
    """(first, last) token of each window."""
    return (
        np.maximum(peak_w - BEFORE, text.first_R[peak_w]),
        np.minimum(peak_w + AFTER, text.last_R[peak_w]),
    )


def windows(peak_w: Ints, token_n: Ints, act_n: Floats, text: Text) -> list[dict[str, Any]]:
    """Each window as the page reads it, with a feature's entries.

    s the sequence, p the position of the first of n tokens, c the offset of the peak, v [offset, value] where the
    feature is active, m the offsets that are masked.
    """
    first_w, last_w = bounds(peak_w, text)
    from_w, to_w = np.searchsorted(token_n, first_w), np.searchsorted(token_n, last_w + 1)
    active_w = to_w - from_w
    end_w = active_w.cumsum()
    entry_v = np.arange(int(active_w.sum())) + np.repeat(from_w - (end_w - active_w), active_w)
    offset_v = (token_n[entry_v] - np.repeat(first_w, active_w)).tolist()
    value_v = list(zip(offset_v, rounded(act_n[entry_v]), strict=True))
    length_w = last_w - first_w + 1
    until_w = length_w.cumsum()
    token_k = np.arange(int(length_w.sum())) + np.repeat(first_w - (until_w - length_w), length_w)
    masked_k = np.flatnonzero(~text.counted_R[token_k])
    masked_w = np.searchsorted(masked_k, np.append(0, until_w)).tolist()
    found = []
    columns = (array.tolist() for array in (peak_w, first_w, length_w, until_w, active_w, end_w))
    for w, (peak, first, length, until, active, end) in enumerate(zip(*columns, strict=True)):
        masked = masked_k[masked_w[w] : masked_w[w + 1]] - (until - length)
        found.append(
            {
                "s": peak // text.T,
                "p": first % text.T,
                "c": peak - first,
                "n": length,
                "v": value_v[end - active : end],
                "m": masked.tolist(),
            }
        )
    return found


def with_ids(shown: list[dict[str, Any]], text: Text) -> list[dict[str, Any]]:
    """The same with `ids`, for a reader that has not the texts of the site."""
    for window in shown:
        first = window["s"] * text.T + window["p"]
        window["ids"] = text.id_R[first : first + window["n"]].tolist()
    return shown
