"""Gaussian noise as a function of (seed, step, token, feature): nothing is drawn in an order, nothing is saved.

Each pair of neighbouring features of a token hashes its own counter (splitmix64: Steele, Lea & Flood 2014) into two
uniforms, which Box-Muller turns into two normals. The same noise therefore comes out in any tiling, on any number of
threads, and after a resume.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from unmix.kernels.code_cache import numba
from unmix.kernels.task import Noise

_MASK = 2**64 - 1


def noise_key(seed: int, step: int) -> int:
    """The key of a step's noise."""
    return _mix_int(_mix_int(seed & _MASK) + step)


def add_noise(z_TF: Any, noise: Noise, first_token: int, first_feature: int = 0) -> None:
    """z += ε in place; z_TF[0, 0] is of those two, and the first feature is even. Floats of 32 or 64 bits."""
    _add(z_TF, z_TF.dtype.type(noise.sigma), np.uint64(noise.key), first_token, first_feature // 2)


def _mix_int(x: int) -> int:
    return int(_mix(np.uint64(x & _MASK)))


@numba.njit(cache=True, inline="always")
def _mix(x: Any) -> Any:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(parallel=True, cache=True)
def _add(z_TF: Any, sigma: Any, key: Any, first_token: int, first_pair: int) -> None:
    T, F = z_TF.shape
    pairs = (F + 1) // 2
    for t in numba.prange(T):
        row = _mix(key ^ _mix(np.uint64(first_token + t)))
        for j in range(pairs):
            bits = _mix(row + np.uint64(first_pair + j))
            # 32 bits each, both in (0, 1): no logarithm of 0
            radius = math.sqrt(-2 * math.log((np.float64(bits >> np.uint64(32)) + 0.5) * 2.0**-32))
            angle = 2 * math.pi * (np.float64(bits & np.uint64(0xFFFFFFFF)) + 0.5) * 2.0**-32
            z_TF[t, 2 * j] += sigma * radius * math.cos(angle)
            if 2 * j + 1 < F:
                z_TF[t, 2 * j + 1] += sigma * radius * math.sin(angle)
