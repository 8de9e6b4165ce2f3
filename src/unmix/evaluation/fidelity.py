"""How well an SAE gives activations back, and with how many features: sums over tokens, in float64.

With e = x̂ - x and μ the mean of x over the same tokens:

    explained variance      1 - Σ||e||² / Σ||x - μ||²       predicting μ scores 0
    normalised MSE          Σ||e||² / Σ||x||²
    cosine                  mean of x·x̂ / (||x|| ||x̂||)
    norm ratio              mean of ||x̂|| / ||x||
    reconstruction bias     Σ||x̂||² / Σ x·x̂                 below 1: shrunk (Rajamanoharan et al. 2024, eq. 10)
    L0, L1                  mean of #{f_i > 0}, of Σ f_i ||W_dec_i||

Only sums are kept, so that no number depends on how tokens were batched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.evaluation.memory import PIECE, pieces

CPU = torch.device("cpu")
DENSITY_EDGES = [10.0**e for e in range(-7, 1)]


class Activations:
    """Sums over the activations themselves: mean, variance, covariance."""

    def __init__(self, width: int, device: torch.device = CPU) -> None:
        self.tokens = 0
        self.sum_D = torch.zeros(width, dtype=torch.float64, device=device)
        self.square_DD = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, x_BD: Tensor) -> None:
        """Count a batch."""
        x_BD = x_BD.double()
        self.tokens += len(x_BD)
        self.sum_D += x_BD.sum(0)
        self.square_DD += x_BD.T @ x_BD

    @property
    def mean_D(self) -> Tensor:
        """μ."""
        return self.sum_D / self.tokens

    @property
    def square(self) -> float:
        """Σ||x||²."""
        return self.square_DD.diagonal().sum().item()

    @property
    def variance(self) -> float:
        """Σ||x - μ||²."""
        return self.square - self.sum_D.square().sum().item() / self.tokens

    @property
    def along_ones(self) -> float:
        """The share of Σ||x||² along the all-ones direction, Σ D mean_d(x)² / Σ||x||²: what centring takes out."""
        return self.square_DD.sum().item() / len(self.sum_D) / self.square if self.square > 0 else float("nan")

    def pca_explained_variance(self) -> Tensor:
        """Explained variance of the best k directions, for k = 0 … D; fitted on the tokens it is judged on."""
        centred_DD = self.square_DD - torch.outer(self.sum_D, self.sum_D) / self.tokens
        eigenvalues = torch.linalg.eigvalsh(centred_DD.cpu()).flip(0).clamp_min(0)
        return torch.cat([torch.zeros(1, dtype=torch.float64), eigenvalues.cumsum(0) / eigenvalues.sum()])


class Fidelity:
    """Sums of one SAE, on its device; `metrics` reads them."""

    def __init__(self, sae: Dictionary) -> None:
        self.norm_F = sae.W_dec.detach().norm(dim=1)
        self.tokens = 0
        self._sums_6 = torch.zeros(6, dtype=torch.float64, device=self.norm_F.device)
        """Σ||e||², Σ||x̂||², Σ x·x̂, Σ cosine, Σ ||x̂|| / ||x||, Σ L1."""
        self.active_F = torch.zeros(sae.features, dtype=torch.int64, device=self.norm_F.device)
        self.l0_counts = torch.zeros(sae.features + 1, dtype=torch.int64, device=self.norm_F.device)
        """Tokens with 0, 1, … F active features."""

    def add(self, x_BD: Tensor, f_BF: Tensor, x_hat_BD: Tensor) -> None:
        """Count a batch."""
        x, y = x_BD.double(), x_hat_BD.double()
        xx, yy, xy = x.square().sum(1), y.square().sum(1), (x * y).sum(1)
        tiny = torch.finfo(torch.float64).tiny
        self.tokens += len(x)
        self._sums_6 += torch.stack(
            [
                (y - x).square().sum(),
                yy.sum(),
                xy.sum(),
                (xy / (xx * yy).sqrt().clamp_min(tiny)).sum(),
                (yy / xx.clamp_min(tiny)).sqrt().sum(),
                (f_BF.abs() @ self.norm_F).sum(dtype=torch.float64),
            ]
        )
        active_BF = f_BF != 0
        self.active_F += active_BF.sum(0, dtype=torch.int32)  # a sum of bools widens all of them first
        l0_B = active_BF.sum(1, dtype=torch.int32).long()
        self.l0_counts.index_add_(0, l0_B, torch.ones_like(l0_B))

    def metrics(self, x: Activations) -> dict[str, Any]:
        """Every number, over `self.tokens` tokens."""
        n, F = self.tokens, len(self.active_F)
        error, reconstructed, dot, cosine, norm_ratio, l1 = self._sums_6.tolist()
        active_F = self.active_F.cpu()
        density_F = active_F.double() / n
        edges = torch.tensor(DENSITY_EDGES, dtype=torch.float64)
        return {
            "tokens": n,
            "explained_variance": 1 - error / x.variance if x.variance > 0 else float("nan"),
            "normalised_mse": error / x.square if x.square > 0 else float("nan"),
            "cosine": cosine / n,
            "norm_ratio": norm_ratio / n,
            "reconstruction_bias": reconstructed / dot if dot else float("nan"),
            "l0": active_F.sum().item() / n,
            "l0_percentiles": {str(p): self._l0_percentile(p) for p in (5, 50, 95)},
            "l1": l1 / n,
            "dead": (active_F == 0).double().mean().item(),
            "above_1_percent": (density_F > 0.01).double().mean().item(),
            "above_10_percent": (density_F > 0.1).double().mean().item(),
            "density_edges": DENSITY_EDGES,
            "density_counts": torch.histogram(density_F[density_F > 0].clamp_min(edges[0]), edges).hist.long().tolist(),
            "features": F,
        }

    def _l0_percentile(self, percent: int) -> int:
        return int((self.l0_counts.cumsum(0) >= self.tokens * percent / 100).nonzero()[0])


def redundancy(sae: Dictionary) -> dict[str, float]:
    """How alike decoder rows are: per feature the largest cosine with another one; and with its own encoder."""
    rows_FD = sae.W_dec.detach()
    rows_FD = rows_FD / rows_FD.norm(dim=1, keepdim=True).clamp_min(1e-12)
    F, largest = len(rows_FD), []
    cosine_fF = rows_FD.new_empty(max(1, min(F, PIECE // (4 * F))), F)  # used again and again
    for at in pieces(F, F):
        cosine = torch.matmul(rows_FD[at], rows_FD.T, out=cosine_fF[: len(rows_FD[at])])
        cosine[torch.arange(len(cosine)), torch.arange(at.start, at.start + len(cosine))] = -1
        largest.append(cosine.max(dim=1).values)
    W_enc_FD = sae.W_enc.detach().T
    nearest = torch.cat(largest)
    own = torch.full_like(nearest, torch.nan)  # of a transcoder from one width to another
    if W_enc_FD.shape == rows_FD.shape:
        own = (rows_FD * W_enc_FD).sum(1) / W_enc_FD.norm(dim=1).clamp_min(1e-12)
    return {
        "max_decoder_cosine_mean": nearest.mean().item(),
        "max_decoder_cosine_above_0.9": (nearest > 0.9).double().mean().item(),
        "encoder_decoder_cosine_mean": own.mean().item(),
    }
