"""How many tokens published dictionaries were trained on: what to hold a plan against."""

from __future__ import annotations

import math
from typing import NamedTuple


class Budget(NamedTuple):
    """What one dictionary was given."""

    what: str
    features: int
    tokens: int
    source: str


BUDGETS = (
    Budget("dictionary_learning's end-to-end test, Pythia-70M", 4_096, 10_000_000, "dictionary_learning, tests"),
    Budget("OpenAI's first, GPT-2 small", 32_768, 64_000_000, "openai/sparse_autoencoder, paths.py: about 64M"),
    Budget("gpt2-small-res-jb, GPT-2 small", 24_576, 300_000_000, "huggingface.co/jbloom/GPT2-Small-SAEs"),
    Budget(
        "Matryoshka batchtopk by SAELens, Gemma 2 2B",
        32_768,
        750_000_000,
        "huggingface.co/chanind/gemma-2-2b-batch-topk-matryoshka-saes-w-32k-l0-40",
    ),
    Budget("Gemma Scope, Gemma 2 2B", 16_384, 4_000_000_000, "arXiv 2408.05147; huggingface.co/google/gemma-scope"),
    Budget("Gemma Scope, Gemma 2 2B", 65_536, 8_000_000_000, "arXiv 2408.05147; huggingface.co/google/gemma-scope"),
    Budget("Gemma Scope, Gemma 2 2B", 1_048_576, 16_000_000_000, "arXiv 2408.05147; huggingface.co/google/gemma-scope"),
)
"""Each as its source says it; rising in tokens."""


def beside(features: int, most: int = 3) -> list[Budget]:
    """Those of the nearest widths, rising in tokens."""
    near = sorted(BUDGETS, key=lambda budget: abs(math.log(budget.features / features)))[:most]
    return sorted(near, key=lambda budget: budget.tokens)
