"""The loss of the language model on a text, before anything is trained on it: one line that catches most mistakes.

    loss       mean of -ln p(next token), in nats, over some rows of the text
    uniform    ln V: what a model that knows nothing pays
    unigram    -Σ_v p_v ln p_v over the text's own token frequencies: what guessing by frequency alone pays

A loss above the unigram entropy says that the model does not know this text: the tokenizer is not its own, the weights
are not trained, or the language is foreign to it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from unmix.lm.model import LanguageModel

ROWS, LONGEST = 8, 256  # rows spread evenly over the text, and how much of each is read
_AT_ONCE = 32  # positions whose log-probabilities are held at a time: a vocabulary may have 256,000 entries
COUNTED = 2_000_000  # tokens that the frequencies are taken from


class TextLoss(NamedTuple):
    """Nats a token."""

    loss: float
    tokens: int
    """Predictions that the loss is the mean of."""
    uniform: float
    unigram: float

    @property
    def knows(self) -> bool:
        """Whether the model does better than guessing by frequency."""
        return self.loss < self.unigram

    def __str__(self) -> str:
        said = f"{self.loss:.2f} nats per token on {self.tokens:,} tokens of your text"
        against = f"uniform is {self.uniform:.2f}, guessing by token frequency {self.unigram:.2f}"
        if self.knows:
            return f"the model's loss is {said}; {against}"
        return (
            f"this model does not know this text: its loss is {said}, where {against}. Is the tokenizer its own? Are "
            "the weights trained? Is it the right language?"
        )


def text_loss(model: LanguageModel, ids_NT: NDArray[Any]) -> TextLoss:
    """Measured on the beginnings of rows of ids_NT, one at a time: little more than the logits of one is held."""
    rows = np.unique(np.linspace(0, len(ids_NT) - 1, ROWS).round().astype(int))
    total, tokens = 0.0, 0
    for row in rows:
        ids_1T = torch.from_numpy(ids_NT[row : row + 1, :LONGEST].astype(np.int64))
        logits_TV, next_T = model.logits(ids_1T)[0, :-1], ids_1T[0, 1:]
        for logits_tV, next_t in zip(torch.split(logits_TV, _AT_ONCE), torch.split(next_T, _AT_ONCE), strict=True):
            total += F.cross_entropy(logits_tV, next_t.to(logits_tV.device), reduction="sum").item()
        tokens += len(next_T)
    counted = ids_NT[: max(1, COUNTED // ids_NT.shape[1]), 1:]
    p = np.bincount(counted.ravel()) / counted.size
    p = p[p > 0]
    return TextLoss(total / tokens, tokens, math.log(model.vocabulary), float(-(p * np.log(p)).sum()))
