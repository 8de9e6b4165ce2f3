"""Tokens that are left out, by kind or by length; and how much of a hook's length the outliers hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.config import OUTLIER, MaskConfig


class Mask:
    """Keeps a token unless it is special (if so configured) or longer than `norm_above` times the median norm."""

    def __init__(self, config: MaskConfig, special_ids: Sequence[int], median_norm: float) -> None:
        self.config = config
        self.special = torch.tensor(sorted(special_ids) if config.special else [], dtype=torch.int64)
        self.longest = config.norm_above * median_norm if config.norm_above is not None else None

    def facts(self) -> dict[str, Any]:
        """What a dictionary that was trained with it has to tell its readers; empty if it keeps every token."""
        if not str(self.config):
            return {}
        return {
            "rule": f"{self.config} were not trained on: leave x as it is there",
            "norm_above_median": self.config.norm_above,
            "longer_than": self.longest,
            "special_ids": self.special.tolist(),
        }

    def keeps(self, token_ids: Tensor, x: Tensor) -> Tensor:
        """Bools in the shape of `token_ids` (...); `x` (..., D) are their raw activations."""
        kept = ~torch.isin(token_ids, self.special)
        if self.longest is not None:
            kept &= ~longer(x.norm(dim=-1), self.longest)
        return kept


def longer(norm: Tensor, than: float) -> Tensor:
    """Which norms are above a bound; one that is not finite is no length, and is to be seen."""
    return (norm > than) & norm.isfinite()


class Outliers(NamedTuple):
    """The tokens of a sample that are longer than `times` times its median norm, and what they hold."""

    times: float
    longer_than: float
    tokens: int
    of_tokens: int
    norm: float
    """Σ||x|| over them; of all tokens:"""
    of_norm: float
    square: float
    """Σ||x||² over them, which a squared error is about in proportion to; of all tokens:"""
    of_square: float

    def plus(self, more: Outliers) -> Outliers:
        """Of both samples, by the same bound."""
        return Outliers(
            self.times,
            self.longer_than,
            self.tokens + more.tokens,
            self.of_tokens + more.of_tokens,
            self.norm + more.norm,
            self.of_norm + more.of_norm,
            self.square + more.square,
            self.of_square + more.of_square,
        )

    @property
    def share_of_tokens(self) -> float:
        return self.tokens / self.of_tokens if self.of_tokens else 0.0

    @property
    def share_of_norm(self) -> float:
        return self.norm / self.of_norm if self.of_norm else 0.0

    @property
    def share_of_square(self) -> float:
        return self.square / self.of_square if self.of_square else 0.0

    def facts(self) -> dict[str, float]:
        """As plain data, the shares beside the sums."""
        shares = ("share_of_tokens", "share_of_norm", "share_of_square")
        return self._asdict() | {name: getattr(self, name) for name in shares}

    def __str__(self) -> str:
        return (
            f"{_percent(self.share_of_square)} of Σ||x||² is on {_percent(self.share_of_tokens)} of the tokens, longer "
            f"than {self.times:g} times the median norm"
        )


def outliers(norm_R: Tensor, median_norm: float, times: float = OUTLIER) -> Outliers:
    """Of R tokens with these norms; sums in float64."""
    norm_R = norm_R.double()
    far_R = norm_R[longer(norm_R, times * median_norm)]
    sums = [far_R.sum(), norm_R.sum(), far_R.square().sum(), norm_R.square().sum()]
    return Outliers(times, times * median_norm, len(far_R), len(norm_R), *(value.item() for value in sums))


def from_facts(facts: dict[str, Any]) -> Outliers:
    """What `facts` gave."""
    return Outliers(**{name: facts[name] for name in Outliers._fields})


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
