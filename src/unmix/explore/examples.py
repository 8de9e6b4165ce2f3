"""Which tokens stand for a feature. Every choice is over counted tokens, and depends on no order of the entries.

top       the 20 sequences with the largest a = |f|, one example each, at its largest a (of equal ones the first);
          of equal sequences the lowest come first
uniform   10 firings, each as likely as any other: those with the smallest h(seed, feature, token)
value     five equal widths of (0, max]; of each the 4 firings with the smallest hash
mass      five bands cut at 20, 40, 60, 80 % of Σa, of each 2 firings: cut c_b is the smallest value for which
          Σ_{a ≤ c_b} a reaches that share, band b is (c_b, c_{b+1}], so that equal values are in one band
near      4 places of the token with the most mass on which the feature stays silent, smallest h(seed, token) first
silent    2 windows without any firing, of peaks in the order of h(seed, token), from a place h(seed, feature) in
          it on; at most TRIED peaks are looked at, so that a feature that is always on has none
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix.explore.draw import SEED, hashes
from unmix.explore.feature import BINS, Doubles, bins
from unmix.explore.store import Floats, Ints, Text
from unmix.explore.windows import bounds

TOP, UNIFORM, OF_VALUE, OF_MASS, NEAR, SILENT = 20, 10, 4, 2, 4, 2  # 16,384 features are to fit into 60 MB
BANDS = 5
TRIED, AT_ONCE = 1024, 64


class Band(NamedTuple):
    """A range (low, high] of values, with its share of the firings and of Σa."""

    low: float
    high: float
    firings: float
    mass: float
    peaks: Ints


class Examples(NamedTuple):
    """Tokens of the peaks, group by group."""

    top: Ints
    uniform: Ints
    value: list[Band]
    mass: list[Band]
    near: Ints
    silent: Ints


def all_peaks(found: Examples) -> list[Ints]:
    """Those of every group."""
    bands = [band.peaks for band in (*found.value, *found.mass)]
    return [found.top, found.uniform, found.near, found.silent, *bands]


class Places(NamedTuple):
    """What every feature draws its silent examples from; made once a hook."""

    drawn_C: Ints
    """Counted tokens by h(seed, token)."""
    by_id_C: Ints
    """The same by (id, h(seed, token))."""
    starts_V: Ints
    """Where each id begins there; one more at the end."""


def places(text: Text, seed: int = SEED) -> Places:
    """Of the counted tokens of a hook."""
    token_C = np.flatnonzero(text.counted_R)
    drawn_C = token_C[np.argsort(hashes(seed, token_C), kind="stable")]
    by_id_C = drawn_C[np.argsort(text.id_R[drawn_C], kind="stable")]
    V = int(text.id_R.max()) + 1
    return Places(drawn_C, by_id_C, np.searchsorted(text.id_R[by_id_C], np.arange(V + 1)))


def choose(
    feature: int,
    token_n: Ints,
    act_n: Floats,
    text: Text,
    source: Places,
    edges: Doubles,
    top_id: int,
    seed: int = SEED,
) -> Examples:
    """Of a feature with these entries, the edges of its histogram, and the id with the most mass (-1 if it is dead)."""
    counted_n = text.counted_R[token_n]
    token_c, a_c = token_n[counted_n], np.abs(act_n[counted_n])
    drawn_c = np.argsort(hashes(seed, feature, token_c), kind="stable")
    near = _near(token_n, source, top_id)
    silent = _silent(feature, token_n, text, source, seed)
    if not len(token_c):
        return Examples(token_c, token_c, [], [], near, silent)
    wide_c = a_c.astype(np.float64)
    return Examples(
        strongest(token_c, a_c, text.T),
        token_c[drawn_c[:UNIFORM]],
        _bands(token_c, wide_c, edges[:: BINS // BANDS], drawn_c, OF_VALUE),
        _bands(token_c, wide_c, mass_edges(wide_c), drawn_c, OF_MASS),
        near,
        silent,
    )


def top(token_n: Ints, act_n: Floats, text: Text) -> Ints:
    """The peak of every sequence, the largest first, where a feature with these entries fires on a counted token."""
    counted_n = text.counted_R[token_n]
    return strongest(token_n[counted_n], np.abs(act_n[counted_n]), text.T, None)


def uniform(feature: int, token_n: Ints, text: Text, seed: int = SEED) -> Ints:
    """Every counted firing, in the order in which they are drawn."""
    token_c = token_n[text.counted_R[token_n]]
    return token_c[np.argsort(hashes(seed, feature, token_c), kind="stable")]


def strongest(token_c: Ints, a_c: Floats, T: int, most: int | None = TOP) -> Ints:
    """The peak of every sequence, the largest first, at most so many; tokens in rising order."""
    seq_c = token_c // T
    starts_s = np.flatnonzero(np.diff(seq_c, prepend=-1))
    largest_s = np.maximum.reduceat(a_c, starts_s) if len(starts_s) else a_c
    order_s = np.argsort(-largest_s, kind="stable")[:most]  # sequences come in order
    ends_s = np.append(starts_s[1:], len(seq_c))
    peaks = [starts_s[s] + int(a_c[starts_s[s] : ends_s[s]].argmax()) for s in order_s]  # argmax: the first
    return token_c[peaks] if peaks else token_c[:0]


def mass_edges(a_c: Doubles) -> Doubles:
    """0, the four cuts, the largest value."""
    sorted_c = np.sort(a_c)
    mass_c = sorted_c.cumsum()
    at = np.searchsorted(mass_c, mass_c[-1] * np.arange(1, BANDS) / BANDS, side="left")
    return np.concatenate([[0.0], sorted_c[at], sorted_c[-1:]])


def _bands(token_c: Ints, a_c: Doubles, edges: Doubles, drawn_c: NDArray[np.int64], most: int) -> list[Band]:
    band_c = bins(a_c, edges)
    count = np.bincount(band_c, minlength=BANDS) / len(a_c)
    mass = np.bincount(band_c, a_c, minlength=BANDS) / a_c.sum()
    drawn_band_c = band_c[drawn_c]
    return [
        Band(
            float(edges[b]),
            float(edges[b + 1]),
            float(count[b]),
            float(mass[b]),
            token_c[drawn_c[np.flatnonzero(drawn_band_c == b)[:most]]],
        )
        for b in range(BANDS)
    ]


def _near(token_n: Ints, source: Places, top_id: int) -> Ints:
    if top_id < 0:
        return token_n[:0]
    there_o = source.by_id_C[source.starts_V[top_id] : source.starts_V[top_id + 1]]
    found, start, step = token_n[:0], 0, AT_ONCE
    while len(found) < NEAR and start < len(there_o):
        part = there_o[start : start + step]
        found = np.concatenate([found, part[~_among(part, token_n)]])
        start, step = start + step, 2 * step
    return found[:NEAR]


def _silent(feature: int, token_n: Ints, text: Text, source: Places, seed: int) -> Ints:
    C = len(source.drawn_C)
    found = token_n[:0]
    if not C:
        return found
    begin = int(hashes(seed, feature)[0] % np.uint64(C))
    for start in range(0, min(TRIED, C), AT_ONCE):
        part = source.drawn_C[(begin + np.arange(start, min(start + AT_ONCE, TRIED, C))) % C]
        first, last = bounds(part, text)
        empty = np.searchsorted(token_n, first) == np.searchsorted(token_n, last + 1)
        found = np.concatenate([found, part[empty]])
        if len(found) >= SILENT:
            break
    return found[:SILENT]


def _among(tokens: Ints, sorted_n: Ints) -> NDArray[np.bool_]:
    """Which of the tokens are in a sorted array."""
    if not len(sorted_n):
        return np.zeros(len(tokens), dtype=bool)
    at = np.searchsorted(sorted_n, tokens)
    return sorted_n[np.minimum(at, len(sorted_n) - 1)] == tokens  # type: ignore[no-any-return]
