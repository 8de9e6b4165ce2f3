"""Draws that depend on nothing but a seed and what is drawn from: no order, no batch, no shard changes them.

    h(seed, a, b) = mix(mix(mix(seed) ⊕ a) ⊕ b)        mix: the finaliser of SplitMix64 (Steele et al. 2014)

The n smallest hashes of a set are n members drawn uniformly, without replacement.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
SEED = 0


def mix(x: Words) -> Words:
    """One step of SplitMix64, element by element."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hashes(seed: int, *parts: NDArray[np.integer] | int) -> Words:
    """h(seed, …) of integers or arrays of them, at least 1-dimensional."""
    found: Words = mix(np.array([seed], dtype=np.uint64))
    for part in parts:
        found = mix(found ^ np.atleast_1d(np.asarray(part)).astype(np.uint64))
    return found
