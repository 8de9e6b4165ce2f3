"""How much of a hook's norms its outliers hold: sums over a sample of tokens, and the shares that they come to."""

from __future__ import annotations

from typing import Any, NamedTuple


class Outliers(NamedTuple):
    """The tokens of a sample with norms above `times` times its median, and what they hold."""

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
            f"{_percent(self.share_of_square)} of Σ||x||² is on {_percent(self.share_of_tokens)} of the tokens, whose "
            f"norms are above {self.times:g} times the median"
        )


def from_facts(facts: dict[str, Any]) -> Outliers:
    """What `facts` gave."""
    return Outliers(**{name: facts[name] for name in Outliers._fields})


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
