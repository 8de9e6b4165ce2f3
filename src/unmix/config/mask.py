"""Which tokens are left out."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from unmix.config.section import Section, endless

OUTLIER = 10.0
"""Times the median norm: a longer token is an outlier. "Massive activations" (Sun et al. 2024, arXiv 2402.17762) are
hundreds of times as long as the rest in most language models; Qwen's begin at about ten times the median (dictionary
learning by Marks et al., issue 52), SmolLM2's first position is at up to 157 times it."""


class MaskConfig(Section):
    """Tokens that are left out: of training, of what scales and starts a dictionary, of the headline numbers of an
    evaluation. `auto` in its place means the defaults here, `none` that every token stays."""

    special: bool = False
    """The tokenizer's special tokens, BOS and document separators among them."""
    norm_above: float | None = Field(default=OUTLIER, gt=0)
    """Tokens with norms above this many times the hook's median (over the first chunk); null keeps them."""

    @field_validator("norm_above", mode="before")
    @classmethod
    def _no_limit(cls, value: Any) -> Any:
        return endless(value)

    def __str__(self) -> str:
        said = ["special tokens"] * self.special
        if self.norm_above is not None:
            said.append(f"tokens with norms above {self.norm_above:g} times the median")
        return " and ".join(said)


EVERY_TOKEN = MaskConfig(special=False, norm_above=None)
MASKS: dict[Any, MaskConfig] = {"auto": MaskConfig(), "none": EVERY_TOKEN}


def as_keys(value: Any) -> Any:
    """A mask as its keys; what is neither a word for one nor keys is left for pydantic to refuse."""
    return MASKS[value].model_dump() if isinstance(value, str) and value in MASKS else value
