"""The numbers of one feature, from its entries.

a = |f| over the counted tokens on which it fires (only an abstopk has f < 0), n of them out of R counted tokens:

    density      n / R
    max, mean    of a; std is that of a population
    q            50 %, 90 %, 99 %, 99.9 % of a, linear between neighbours
    hist         20 bins (e_b, e_{b+1}] of equal width over (0, max]
    tokens       by id: share of firings, mean of a; those with the most mass Σa first, of equal ones the lowest id
    entropy      -Σ p log₂ p over ids, p the share of firings; top_share is the largest p
    by_position  share of Σa in each eighth of a sequence

Over every token, masked ones and position 0 among them, as whatever an evaluation says by norm:

    by_norm      share of Σa in each tenth of the tokens by ||x||
    long         share of Σa on the top 1 % of tokens by ||x||
    first        share of Σa at position 0
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix.activations.norms import by_length, top_count
from unmix.explore.store import Floats, Ints, Text

BINS, OCTILES, DECILES = 20, 8, 10
QUANTILES = (0.5, 0.9, 0.99, 0.999)
NAMED = 10
SPARKS = 8  # small bars of a row of the list, each 0 … 9
Doubles = NDArray[np.float64]


class Lengths(NamedTuple):
    """Where each of the R tokens stands by ||x||."""

    decile_R: NDArray[np.int8]
    top_R: NDArray[np.bool_]
    """The top 1 % by norm."""


def lengths(norm_R: Floats) -> Lengths:
    """Deciles as in `evaluation.by_norm`: tokens ⌊i R / 10⌋ … ⌊(i + 1) R / 10⌋ - 1 by length, for i = 0 … 9."""
    R, order_R = len(norm_R), by_length(norm_R)
    decile_R, top_R = np.empty(R, np.int8), np.zeros(R, bool)
    for i in range(DECILES):
        decile_R[order_R[i * R // DECILES : (i + 1) * R // DECILES]] = i
    top_R[order_R[R - top_count(R) :]] = True
    return Lengths(decile_R, top_R)


class Numbers(NamedTuple):
    """See the page's head. What a feature without a firing has none of is NaN, or empty."""

    firings: int
    density: float
    max: float
    mean: float
    std: float
    q: Doubles
    edges: Doubles
    counts: Ints
    ids_K: Ints
    shares_K: Doubles
    """Of the firings."""
    means_K: Doubles
    masses_K: Doubles
    """Shares of Σa."""
    entropy: float
    top_share: float
    by_position: Doubles
    by_norm: Doubles
    long: float
    first: float


def numbers(token_n: Ints, act_n: Floats, text: Text, where: Lengths, counted: int) -> Numbers:
    """Of a feature with these entries; `counted` is R."""
    a_n = np.abs(act_n).astype(np.float64)
    everywhere = a_n.sum()
    by_norm = shares(where.decile_R[token_n], a_n, DECILES)
    long = a_n[where.top_R[token_n]].sum() / everywhere if len(a_n) else np.nan
    first = a_n[token_n % text.T == 0].sum() / everywhere if len(a_n) else np.nan
    kept_n = text.counted_R[token_n]
    token_n, a_n = token_n[kept_n], a_n[kept_n]
    n = len(a_n)
    if not n:
        none, no_ids = np.empty(0), np.empty(0, np.int64)
        return Numbers(
            0, 0.0, 0.0, np.nan, np.nan, none, none, no_ids, no_ids, none, none, none, np.nan, np.nan,
            np.full(OCTILES, np.nan), by_norm, long, first,
        )  # fmt: skip
    edges = bin_edges(a_n.max())
    ids_V, kind_n = np.unique(text.id_R[token_n], return_inverse=True)
    firings_V, mass_V = np.bincount(kind_n), np.bincount(kind_n, a_n)
    p_V = firings_V / n
    most = np.lexsort((ids_V, -mass_V))[:NAMED]
    return Numbers(
        n,
        n / counted,
        float(a_n.max()),
        float(a_n.mean()),
        float(a_n.std()),
        np.quantile(a_n, QUANTILES),
        edges,
        np.bincount(bins(a_n, edges), minlength=BINS),
        ids_V[most],
        p_V[most],
        mass_V[most] / firings_V[most],
        mass_V[most] / mass_V.sum(),
        float(-(p_V * np.log2(p_V)).sum()) + 0.0,  # no -0
        float(p_V.max()),
        shares(token_n % text.T * OCTILES // text.T, a_n, OCTILES),
        by_norm,
        float(long),
        float(first),
    )


def bin_edges(top: float) -> Doubles:
    """BINS + 1 edges of equal width from 0 to `top`."""
    edges: Doubles = top * np.arange(BINS + 1) / BINS
    edges[-1] = top
    return edges


def bins(a_n: Doubles, edges: Doubles) -> Ints:
    """The bin (e_b, e_{b+1}] of each value."""
    return np.searchsorted(edges[1:-1], a_n, side="left")


def shares(bin_n: NDArray[np.integer], a_n: Doubles, count: int) -> Doubles:
    """The share of Σa in each bin; NaN if there is nothing."""
    total = a_n.sum()
    return np.bincount(bin_n, a_n, minlength=count) / total if total > 0 else np.full(count, np.nan)


def spark(counts: Ints) -> list[int]:
    """SPARKS bars of a histogram: 9 log(1 + c) / log(1 + the largest c), rounded up, of pairs of bins or so."""
    if not len(counts):
        return [0] * SPARKS
    c = np.add.reduceat(counts, np.arange(SPARKS) * len(counts) // SPARKS)
    return np.ceil(9 * np.log1p(c) / np.log1p(c.max())).astype(int).tolist()  # type: ignore[no-any-return]
