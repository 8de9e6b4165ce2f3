"""How decoder rows lie to each other: cos(i, j) = W_dec_i · W_dec_j / (||W_dec_i|| ||W_dec_j||).

Products are made some rows at a time. A row of length 0 has cosine 0 with every other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.explore.largest import largest
from unmix.explore.store import Floats, Ints

NAMED = 10
PIECE = 2**26  # bytes of cosines at a time


class Nearest(NamedTuple):
    """For each feature the k others with the largest cosine; -1 where there are fewer."""

    features_FK: Ints
    cosines_FK: Floats


class Match(NamedTuple):
    """For each feature the one of another dictionary with the largest cosine."""

    features_F: Ints
    cosines_F: Floats


def unit_rows(sae: Dictionary) -> Tensor:
    """Decoder rows of length 1, (F, E), float32."""
    rows_FE = sae.W_dec.detach().float()
    unit_FE: Tensor = rows_FE / rows_FE.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return unit_FE


def neighbours(rows_FE: Tensor, k: int = NAMED) -> Nearest:
    """Within one dictionary, each feature left out of its own neighbours."""
    features, cosines = [], []
    for at, cosine_fF in _products(rows_FE, rows_FE):
        cosine_fF[np.arange(len(cosine_fF)), np.arange(at.start, at.start + len(cosine_fF))] = -np.inf
        columns, values = largest(cosine_fF, k)
        features.append(columns)
        cosines.append(values)
    return Nearest(np.concatenate(features), np.concatenate(cosines))


def matches(a_FE: Tensor, b_GE: Tensor) -> tuple[Match, Match]:
    """(for each row of a its match in b, for each row of b its match in a); of equal cosines the lowest index."""
    of_a: list[tuple[Ints, Floats]] = []
    best_G, index_G = np.full(len(b_GE), -np.inf, dtype=np.float32), np.full(len(b_GE), -1)
    for at, cosine_fG in _products(a_FE, b_GE):
        column_f = cosine_fG.argmax(1)
        of_a.append((column_f, cosine_fG[np.arange(len(cosine_fG)), column_f]))
        row_G = cosine_fG.argmax(0)
        value_G = cosine_fG[row_G, np.arange(len(b_GE))]
        better_G = value_G > best_G
        best_G[better_G], index_G[better_G] = value_G[better_G], row_G[better_G] + at.start
    columns, values = zip(*of_a, strict=True)
    return Match(np.concatenate(columns), np.concatenate(values)), Match(index_G, best_G)


def _products(a_FE: Tensor, b_GE: Tensor) -> Iterator[tuple[slice, Floats]]:
    step = max(1, PIECE // (4 * len(b_GE)))
    for start in range(0, len(a_FE), step):
        at = slice(start, min(start + step, len(a_FE)))
        with torch.no_grad():
            yield at, (a_FE[at] @ b_GE.T).numpy()
