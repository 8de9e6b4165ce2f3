"""The memory of an evaluation: how many sequences go through the model at once, and what that needs at the peak.

A pass over n sequences of T tokens holds the logits of the untouched and of the spliced pass, 2 n T V numbers of 4
bytes, with V entries of the vocabulary. n is the largest number, at most MOST_SEQUENCES, for which they fill no more
than BUDGET, and at least 1: a single sequence may need more. Log-probabilities and features are made a few tokens at a
time (PIECE), and do not grow with n.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from unmix.dictionary.model import Dictionary
from unmix.evaluation.by_norm import BY_NORM_TOKENS
from unmix.lm.hooks import text_config
from unmix.lm.model import LanguageModel

BUDGET = 2**30  # bytes of logits
PIECE = 2**24  # bytes of log-probabilities, or of features, made at a time
MOST_SEQUENCES = 16
HEAD_SEQUENCES = 64  # measured first: the median norm for the mask, the mean that variance by norm is taken around


def sequences_at_once(T: int, vocabulary: int) -> int:
    """n for sequences of T tokens."""
    return min(MOST_SEQUENCES, max(1, BUDGET // (8 * T * vocabulary)))


def pieces(tokens: int, width: int) -> Iterator[slice]:
    """Ranges of tokens for which an array of float32 of this width fills at most PIECE bytes, or of one token each."""
    step = max(1, PIECE // (4 * width))
    return (slice(start, start + step) for start in range(0, tokens, step))


def peak(model: LanguageModel, saes: Iterable[Dictionary], T: int, n: int, tokens: int) -> int:
    """Bytes at the peak beyond what the process has once model, tokens and dictionaries are loaded.

    `saes` are those of one hook, judged on so many tokens; n sequences of T go through the model at once.
    """
    saes = list(saes)
    D = max(max(sae.width, sae.W_dec.shape[1]) for sae in saes)
    F, V, rows = max(sae.features for sae in saes), model.vocabulary, n * T
    config = text_config(model.model)
    narrow = model.model.dtype != torch.float32 or getattr(config, "final_logit_softcapping", None)
    # two copies, a third where they are widened or go through tanh, and what the heap cannot use again
    logits = (14 if narrow else 10) * rows * V
    vectors = 60 * rows * D  # x and x̂ in float64
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * model.width
    blocks = 4 * rows * (6 * model.width + 2 * int(inner))
    head = 8 * min(HEAD_SEQUENCES * T, tokens) * D
    covariances = 5 * 8 * D * D
    by_norm = len(saes) * 64 * min(BY_NORM_TOKENS, tokens)  # 32 bytes a token, room to grow, a sorted copy
    alike = 8 * F * D
    passing = max(logits + blocks, 4 * rows * V + vectors, head + blocks, alike)
    return passing + 10 * PIECE + covariances + by_norm


def refitting(sae: Dictionary, tokens: int, rows: int) -> int:
    """Bytes at the peak of a refit on so many tokens (`debias.py`), `rows` at a time, beyond what the process has."""
    D, F = sae.width, sae.features
    return 8 * tokens * D + 9 * rows * F + 24 * F * F
