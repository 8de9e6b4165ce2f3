"""Which features are active together.

n_i counts the tokens on which feature i is active, n_ij those on which both are:

    P(j | i) = n_ij / n_i          Jaccard = n_ij / (n_i + n_j - n_ij)

Σ_t L0_t² pairs have to be looked at; the first sequences of the store, which are a random sample, are taken until they
come to PAIRS, or their entries to ENTRIES.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from unmix.explore.largest import place
from unmix.explore.store import Entries, Floats, Ints, Text
from unmix.kernels.code_cache import numba

NAMED = 10
PAIRS, ENTRIES = 4 * 10**9, 25 * 10**6


class Partners(NamedTuple):
    """For each feature those with the largest Jaccard index; -1 behind the last that is ever active with it."""

    features_FK: Ints
    given_FK: Floats
    """P(j | i)."""
    jaccard_FK: Floats


def sampled_tokens(l0_R: Ints, T: int) -> int:
    """Leading tokens, whole sequences of T and at least one, that are within PAIRS and ENTRIES."""
    l0_ST = l0_R.reshape(-1, T).astype(np.float64)
    fits_S = ((l0_ST**2).sum(1).cumsum() <= PAIRS) & (l0_ST.sum(1).cumsum() <= ENTRIES)
    return max(1, int(np.count_nonzero(fits_S))) * T


def partners(entries: Entries, text: Text, tokens: int, k: int = NAMED) -> Partners:
    """Of all F features, whose entries on the first `tokens` tokens these are; masked tokens are left out."""
    F = len(entries.starts_f1) - 1
    feature_n = np.repeat(np.arange(F, dtype=np.int32), np.diff(entries.starts_f1))
    kept_n = text.counted_R[entries.token_n]
    feature_n, token_n = feature_n[kept_n], entries.token_n[kept_n].astype(np.int32)
    count_F = np.bincount(feature_n, minlength=F)
    starts_F1 = np.concatenate([[0], count_F.cumsum()])
    of_token_R1 = np.concatenate([[0], np.bincount(token_n, minlength=tokens).cumsum()])
    by_token_n = feature_n[np.argsort(token_n, kind="stable")]
    features_FK = np.full((F, k), -1, dtype=np.int64)
    jaccard_FK = np.full((F, k), -np.inf, dtype=np.float32)
    both_FK = np.zeros((F, k), dtype=np.int64)
    _together(starts_F1, token_n, of_token_R1, by_token_n, count_F, features_FK, jaccard_FK, both_FK)
    there_FK = features_FK >= 0
    jaccard_FK[~there_FK] = 0
    given_FK = (both_FK / np.maximum(count_F, 1)[:, None]).astype(np.float32)
    return Partners(features_FK, given_FK, jaccard_FK)


@numba.njit(cache=True, parallel=True)
def _together(
    starts_F1: Any,
    token_n: Any,
    of_token_R1: Any,
    by_token_n: Any,
    count_F: Any,
    features_FK: Any,
    jaccard_FK: Any,
    both_FK: Any,
) -> None:
    F = len(count_F)
    for i in numba.prange(F):
        both_F = np.zeros(F, dtype=np.int32)  # a row of the F × F matrix, that fits the cache
        for n in range(starts_F1[i], starts_F1[i + 1]):
            t = token_n[n]
            for m in range(of_token_R1[t], of_token_R1[t + 1]):
                both_F[by_token_n[m]] += 1
        for j in range(F):
            if both_F[j] and j != i:
                index = np.float32(both_F[j] / (count_F[i] + count_F[j] - both_F[j]))
                place(index, j, features_FK[i], jaccard_FK[i])
        for k in range(features_FK.shape[1]):
            if features_FK[i, k] >= 0:
                both_FK[i, k] = both_F[features_FK[i, k]]
