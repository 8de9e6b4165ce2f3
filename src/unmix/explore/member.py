"""What the manifest says of a member as a whole; over counted tokens, unless it is by norm.

l0                   mean L0 of a token
explained_variance   1 - Σ||y - ŷ||² / Σ||y - μ||²     μ: the mean of the first sequences, as by norm
dead, never          share, and number, of features without a firing
frequent             share of features on more than 10 % of the tokens
density              features that fired, by log₁₀ of their density, in bins of DENSITY_BIN
by_norm              tenths of all tokens by ||x||: edges, tokens, explained variance, mean L0, and error
                     Σ||y - ŷ||² / Σ||y||²; shares of all tokens' Σ||y - ŷ||², ΣL0 and ΣL1, L1 = Σ |f_i| ||W_dec_i||

y = x but of transcoders.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmix.explore.feature import DECILES, Lengths
from unmix.explore.rounding import rounded, short
from unmix.explore.store import Floats, Ints, Text

FREQUENT = 0.1
DENSITY_BIN = 0.25  # of log₁₀


def facts(
    text: Text, where: Lengths, err_R: Floats, l0_R: Ints, l1_R: Floats, density_F: NDArray[np.float64]
) -> dict[str, Any]:
    """Of a member with these errors, L0 and densities."""
    kept_R = text.counted_R
    return {
        "l0": short(float(l0_R[kept_R].mean())),
        "explained_variance": _explained(err_R[kept_R], text.deviation_R[kept_R]),
        "dead": short(float((density_F == 0).mean())),
        "never": int((density_F == 0).sum()),
        "frequent": short(float((density_F > FREQUENT).mean())),
        "density": _densities(density_F[density_F > 0]),
        "by_norm": _by_norm(text, where, err_R, l0_R, l1_R),
    }


def _explained(err_n: Floats, deviation_n: Floats) -> float | None:
    variance = deviation_n.sum(dtype=np.float64)
    return short(1 - float(err_n.sum(dtype=np.float64) / variance)) if variance > 0 else None


def _densities(density_n: NDArray[np.float64]) -> dict[str, Any]:
    if not len(density_n):
        return {"edges": [], "counts": []}
    logarithm_n = np.log10(density_n)
    low = math.floor(float(logarithm_n.min()) / DENSITY_BIN)
    edges = np.arange(low, 1) * DENSITY_BIN if low < 0 else np.array([-DENSITY_BIN, 0.0])
    return {"edges": edges.tolist(), "counts": np.histogram(logarithm_n, edges)[0].tolist()}


def _by_norm(text: Text, where: Lengths, err_R: Floats, l0_R: Ints, l1_R: Floats) -> dict[str, Any]:
    parts = [np.flatnonzero(where.decile_R == i) for i in range(DECILES)]
    norms = [float(text.norm_R[part].min()) if len(part) else math.nan for part in parts]
    return {
        "edges": rounded([*norms, float(text.norm_R.max())]),
        "tokens": [len(part) for part in parts],
        "explained_variance": [_explained(err_R[part], text.deviation_R[part]) for part in parts],
        "l0": [short(float(l0_R[part].mean())) if len(part) else None for part in parts],
        "error": [_ratio(_sum(err_R[part]), _sum(text.length_R[part].astype(np.float64) ** 2)) for part in parts],
        "error_share": [_ratio(_sum(err_R[part]), _sum(err_R)) for part in parts],
        "l0_share": [_ratio(_sum(l0_R[part]), _sum(l0_R)) for part in parts],
        "l1_share": [_ratio(_sum(l1_R[part]), _sum(l1_R)) for part in parts],
    }


def _sum(values: NDArray[Any]) -> float:
    return float(values.sum(dtype=np.float64))


def _ratio(part: float, whole: float) -> float | None:
    return short(part / whole) if whole > 0 else None
