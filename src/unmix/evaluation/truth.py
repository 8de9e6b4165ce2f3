"""How much of the truth a dictionary has found, where the truth is known: the numbers of SynthSAEBench.

Letters: F learned features with decoder rows w_j, N true ones with directions d_i, B tokens. With the likeness
c_ji = |w_j·d_i| / (||w_j|| ||d_i||) and i(j) the true feature that c_ji is largest for (Chanin & Garriga-Alonso 2026,
arXiv 2602.14687; MCC: arXiv 2505.20254):

    MCC            mean of c_ji over the one-to-one pairing of min(F, N) that makes it largest
    uniqueness     #{i(1), …, i(F)} / F
    precision_j    tokens where j and i(j) are active / tokens where j is          0 if it never is
    recall_j       tokens where j and i(j) are active / tokens where i(j) is       0 if it never is
    F1_j           2 precision_j recall_j / (precision_j + recall_j)               0 if both are
    F1, precision, recall     means over all F features, dead ones too

Explained variance, L0, shrinkage (mean ||x̂|| / ||x||) and the share of features that are never active are those of
`fidelity`. A feature is active where it is not 0. Only counts are kept: no number depends on how tokens were batched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.evaluation.fidelity import Activations, Fidelity
from unmix.evaluation.matching import best_matching
from unmix.evaluation.memory import pieces
from unmix.kernels.find import Code


class Scores(NamedTuple):
    """Of one dictionary."""

    f1: float
    precision: float
    recall: float
    mcc: float
    uniqueness: float
    explained_variance: float
    l0: float
    dead: float
    """Share of the F features."""
    shrinkage: float
    true_l0: float
    """Of the samples."""
    tokens: int


def judge(
    saes: Mapping[str, Dictionary], directions_ND: Tensor, samples: Iterable[tuple[Tensor, Code]]
) -> dict[str, Scores]:
    """The scores of dictionaries over the same samples: (x_BD, the true features that are in it).

    A dictionary is anything that has `encode`, `decode`, `W_dec` and `features` as `Dictionary` has them.
    """
    alike, judged = {}, {}
    for name, sae in saes.items():
        c_FN = likenesses(sae.W_dec.detach(), directions_ND)  # one at a time: it may be large
        alike[name] = mcc(c_FN)
        judged[name] = sae, Fidelity(sae), Detection(c_FN.argmax(1), len(directions_ND))
        del c_FN
    x_sums = Activations(directions_ND.shape[1])
    with torch.no_grad():
        for x_BD, code in samples:
            x_sums.add(x_BD)
            for sae, fidelity, detection in judged.values():
                for at in pieces(len(x_BD), sae.features):
                    x_bD = x_BD[at]
                    f_bF = sae.encode(x_bD)
                    fidelity.add(x_bD, f_bF, sae.decode(f_bF, x_bD))
                    detection.add(f_bF, _rows(code, at.start, at.start + len(x_bD)))
    scores = {}
    for name, (_, fidelity, detection) in judged.items():
        x = fidelity.metrics(x_sums)
        precision, recall, f1 = detection.metrics()
        scores[name] = Scores(
            f1,
            precision,
            recall,
            alike[name],
            uniqueness(detection.nearest_F),
            x["explained_variance"],
            x["l0"],
            x["dead"],
            x["norm_ratio"],
            detection.true_N.sum().item() / x["tokens"],
            x["tokens"],
        )
    return scores


def likenesses(rows_FD: Tensor, directions_ND: Tensor) -> Tensor:
    """c, (F, N); 0 for a row of length 0."""
    w_FD, d_ND = (r / r.norm(dim=1, keepdim=True).clamp_min(1e-8) for r in (rows_FD, directions_ND))
    c_FN: Tensor = w_FD @ d_ND.T
    return c_FN.abs_()


def mcc(likeness_FN: Tensor) -> float:
    """The mean of the best one-to-one pairing."""
    return likeness_FN[best_matching(likeness_FN)].mean(dtype=torch.float64).item()


def uniqueness(nearest_F: Tensor) -> float:
    """How many different true features are the nearest of one, to each of the F."""
    return len(set(nearest_F.tolist())) / len(nearest_F)


class Detection:
    """Counts of where a learned feature and the true one nearest to it are active."""

    def __init__(self, nearest_F: Tensor, true_features: int) -> None:
        self.nearest_F = nearest_F
        """i(j)."""
        self.active_F = torch.zeros(len(nearest_F), dtype=torch.int64)
        self.both_F = torch.zeros(len(nearest_F), dtype=torch.int64)
        self.true_N = torch.zeros(true_features, dtype=torch.int64)
        # the learned features of each true one, side by side: those of i are by_true[start_i : start_i + number_i]
        self._by_true_F = nearest_F.argsort(stable=True)
        self._number_N = torch.bincount(nearest_F, minlength=true_features)
        self._start_N = self._number_N.cumsum(0) - self._number_N

    def add(self, f_BF: Tensor, code: Code) -> None:
        """Count a batch. No array of B x N is made: only true features that are active are looked at."""
        active_BF = f_BF != 0
        self.active_F += active_BF.sum(0)
        token_n, true_n = entries(code)
        self.true_N += torch.bincount(true_n, minlength=len(self.true_N))
        number_n = self._number_N[true_n]
        first_n = number_n.cumsum(0) - number_n
        n_m = torch.repeat_interleave(torch.arange(len(true_n)), number_n)  # one m for each learned feature of n
        learned_m = self._by_true_F[self._start_N[true_n[n_m]] + torch.arange(len(n_m)) - first_n[n_m]]
        both_m = active_BF[token_n[n_m], learned_m]
        self.both_F += torch.bincount(learned_m[both_m], minlength=len(self.both_F))

    def metrics(self) -> tuple[float, float, float]:
        """(precision, recall, F1)."""
        true_F = self.true_N[self.nearest_F]
        of = (self.active_F, true_F, self.active_F + true_F)
        # F1 is 2 both / (active + true); where a count is 0, so is `both`
        precision, recall, half = ((self.both_F.double() / n_F.clamp_min(1)).mean().item() for n_F in of)
        return precision, recall, 2 * half


def entries(code: Code) -> tuple[Tensor, Tensor]:
    """(token, feature) of every entry."""
    starts_B1 = torch.from_numpy(code.starts_B1)
    return torch.repeat_interleave(torch.arange(len(starts_B1) - 1), starts_B1.diff()), torch.from_numpy(
        code.features_N
    )


def _rows(code: Code, first: int, last: int) -> Code:
    """Tokens first … last - 1."""
    begin, end = code.starts_B1[first], code.starts_B1[last]
    return Code(code.starts_B1[first : last + 1] - begin, code.features_N[begin:end], code.values_N[begin:end])
