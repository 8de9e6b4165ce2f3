"""What a dictionary does with short activations and with long ones.

Kept per token, with e = x̂ - x and μ the mean activation that the caller has measured:

    ||x||    ||e||²    ||x - μ||²    x·x̂ / (||x|| ||x̂||)    ||x̂||    #{f_i > 0}    Σ f_i ||W_dec_i||    Σ f_i

The n tokens stand in order of ||x||; of two equal norms the earlier token is the shorter. A decile is a tenth of them:
tokens ⌊i n / 10⌋ … ⌊(i + 1) n / 10⌋ - 1, for i = 0 (the shortest) … 9. The top 1 % are the last ⌈n / 100⌉ tokens, the
bottom 1 % the first ⌈n / 100⌉. For a set S of tokens, out of all tokens A:

    norm_from, norm_to      the smallest and the largest ||x|| in S
    explained_variance      1 - Σ_S ||e||² / Σ_S ||x - μ||²         one μ for every S: predicting it scores 0 in each
    normalised_mse          Σ_S ||e||² / Σ_S ||x||²
    cosine                  mean over S of x·x̂ / (||x|| ||x̂||)     0 where x or x̂ is 0
    norm_ratio              mean over S of ||x̂|| / ||x||            0 where x is 0
    l0, l1, f_sum           mean over S of #{f_i > 0}, of Σ f_i ||W_dec_i||, of Σ f_i
    share_of_loss           Σ_S ||e||² / Σ_A ||e||²                 plain squared error, whatever was trained on
    share_of_penalty        Σ_S Σ f_i ||W_dec_i|| / Σ_A Σ f_i ||W_dec_i||

A number is null where S is empty or what it divides by is 0. Histograms count a group's tokens by L0 and by L1 between
edges that the three groups share: the first bin, from 0 to the smallest value above 0, holds the zeros and nothing
else; the others are equal on a log scale (for L0, rounded to whole numbers); the last includes its upper edge.

Values are kept as float32 (32 bytes a token), sums are taken in float64 over tokens in order, so that no number depends
on how tokens were batched.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unmix.activations.norms import MASK, by_length, top_count

BY_NORM_TOKENS = 200_000  # of an evaluation, the first ones
BINS, BINS_A_DECADE, MOST_BINS = 24, 20, 200  # of a histogram: the middle one decides, between the others

Values = npt.NDArray[np.float32]
Edges = npt.NDArray[np.float64]

_NORM, _ERROR, _CENTRED, _COSINE, _RECONSTRUCTED, _L0, _L1, _F_SUM = range(8)


class ByNorm:
    """The tokens of one SAE: `add` batches, then ask for `metrics`."""

    def __init__(self, norm_F: Tensor, mean_D: Tensor, *, mask: str = MASK) -> None:
        self.norm_F, self.mean_D, self.mask = norm_F.detach(), mean_D.detach().double(), mask
        self._columns: Values = np.empty((8, 0), dtype=np.float32)
        self._there: list[Tensor] = []
        """Columns that lie on a device until they are asked for."""
        self.tokens = 0

    def add(self, x_BD: Tensor, f_BF: Tensor, x_hat_BD: Tensor) -> None:
        """Keep every token of a batch, where it lies; which to give, and how many, the caller decides."""
        x, y = x_BD.double(), x_hat_BD.double()
        x_norm, y_norm = x.norm(dim=1), y.norm(dim=1)
        tiny = torch.finfo(torch.float64).tiny
        columns = torch.stack(
            [
                x_norm,
                (y - x).square().sum(1),
                (x - self.mean_D).square().sum(1),
                (x * y).sum(1) / (x_norm * y_norm).clamp_min(tiny),
                y_norm,
                (f_BF != 0).sum(1, dtype=torch.int32).double(),
                (f_BF.abs() * self.norm_F)
                .sum(1)
                .double(),  # row by row: a matrix product's last bit depends on the batch
                f_BF.abs().sum(1).double(),
            ]
        )
        if x_BD.is_cpu:
            self._keep(columns.float().numpy())
        else:
            self._there.append(columns.float())

    def _keep(self, columns: Values) -> None:
        end = self.tokens + columns.shape[1]
        if end > self._columns.shape[1]:  # in one piece: small ones among the batches split the heap
            grown = np.empty((8, max(2 * end, 4096)), dtype=np.float32)
            grown[:, : self.tokens] = self._columns[:, : self.tokens]
            self._columns = grown
        self._columns[:, self.tokens : end] = columns
        self.tokens = end

    def metrics(self) -> dict[str, Any]:
        """Every number, as plain data."""
        for columns in self._there:
            self._keep(columns.cpu().numpy())
        self._there = []
        tokens = self._columns[:, : self.tokens]
        tokens = tokens[:, by_length(tokens[_NORM])]
        n, one = tokens.shape[1], top_count(tokens.shape[1])
        groups = {
            "bottom 1 %": tokens[:, : min(one, n - one)],
            "the rest": tokens[:, one : n - one],
            "top 1 %": tokens[:, n - one :],
        }
        l0_edges, l1_edges = _whole_edges(tokens[_L0]), _edges(tokens[_L1])
        totals = _sums(tokens)
        return {
            "tokens": n,
            "mask": self.mask,
            "deciles": [_row(tokens[:, i * n // 10 : (i + 1) * n // 10], totals) for i in range(10)],
            "groups": {
                name: {
                    **_row(part, totals),
                    "l0_proportions": _proportions(part[_L0], l0_edges),
                    "l1_proportions": _proportions(part[_L1], l1_edges),
                }
                for name, part in groups.items()
            },
            "l0_edges": [int(edge) for edge in l0_edges],
            "l1_edges": l1_edges.tolist(),
        }


def _sums(part: Values) -> list[float]:
    return [float(column.sum(dtype=np.float64)) for column in part]


def _row(part: Values, totals: list[float]) -> dict[str, float | int | None]:
    """The numbers of a set of tokens, in order; `totals` are the sums over all."""
    n, sums = part.shape[1], _sums(part)
    norm, length = part[_NORM].astype(np.float64), part[_RECONSTRUCTED].astype(np.float64)
    unexplained = _ratio(sums[_ERROR], sums[_CENTRED])
    return {
        "norm_from": float(norm[0]) if n else None,
        "norm_to": float(norm[-1]) if n else None,
        "tokens": n,
        "explained_variance": None if unexplained is None else 1 - unexplained,
        "normalised_mse": _ratio(sums[_ERROR], float((norm**2).sum())),
        "cosine": _ratio(sums[_COSINE], n),
        "norm_ratio": _ratio(float(np.divide(length, norm, out=np.zeros(n), where=norm > 0).sum()), n),
        "share_of_loss": _ratio(sums[_ERROR], totals[_ERROR]),
        "share_of_penalty": _ratio(sums[_L1], totals[_L1]),
        "l0": _ratio(sums[_L0], n),
        "l1": _ratio(sums[_L1], n),
        "f_sum": _ratio(sums[_F_SUM], n),
    }


def _edges(values: Values) -> Edges:
    """0, then from the smallest value above 0 to the largest in equal steps of the logarithm."""
    above = values[values > 0].astype(np.float64)
    if not above.size:
        return np.array([0.0, 1.0])
    low, high = float(above.min()), max(float(above.max()), 1.001 * float(above.min()))
    bins = min(max(BINS, math.ceil(BINS_A_DECADE * math.log10(high / low))), MOST_BINS)
    return np.concatenate([[0.0], np.geomspace(low, high, bins + 1)])


def _whole_edges(counts: Values) -> Edges:
    """The same for whole numbers: bin a … b holds a, a + 1, … b - 1."""
    above = counts[counts > 0]
    ends = np.array([above.min(), above.max() + 1], dtype=np.float32) if above.size else np.array([], dtype=np.float32)
    return np.unique(np.floor(_edges(ends)))


def _proportions(values: Values, edges: Edges) -> list[float]:
    """Share of the values in each bin."""
    counts = np.histogram(values.astype(np.float64), edges)[0]
    return (counts / max(values.size, 1)).tolist()  # type: ignore[no-any-return]


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None
