"""A text as a model reads it, and all features of a dictionary that are active on each of its tokens.

    ids_T = BOS, then the tokens of the text        as the rows that dictionaries are trained on begin (`corpus.tokens`)
    err_t = ||x_t - x̂_t||² / ||x_t||²               the part of ||x||² that the dictionary does not give back

A text never yields a special token, except the BOS in front: one that spells `<|endoftext|>` gives ordinary tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.activations.mask import Mask
from unmix.config import OUTLIER, MaskConfig
from unmix.corpus.tokens import markers, plain
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.evaluate import SKIP
from unmix.lm.model import LanguageModel

LONGEST = 512  # tokens of a prompt, BOS included


class Prompt(NamedTuple):
    """A text in tokens."""

    ids_T: Tensor
    """int64, on the CPU; the first one is the BOS."""
    truncated: bool
    """Whether the text had more of them than are read."""


class Read(NamedTuple):
    """What a dictionary makes of a text of T tokens."""

    ids_T: Tensor
    truncated: bool
    norm_T: Tensor
    """||x||."""
    error_T: Tensor
    """||x - x̂||² / ||x||²; NaN where x is 0."""
    masked_T: Tensor
    """Bools: what an evaluation leaves out, position 0 and what the mask does not keep."""
    features: list[list[tuple[int, float]]]
    """Of each token: (feature, value) of every active one, the largest |value| first, of equal ones the lowest."""


def prompt_ids(lm: LanguageModel, text: str, longest: int = LONGEST) -> Prompt:
    """BOS and the first tokens of the text: at most `longest` together, and no more than the model takes.

    Raises `UserError` if the text has a token outside the model's vocabulary: the tokenizer is not its own.
    """
    longest = longest if lm.context is None else min(longest, lm.context)
    ids = [markers(lm.tokenizer)[0], *_encoder(lm.tokenizer).encode(text, add_special_tokens=False).ids]
    kept = ids[:longest]
    if (largest := max(kept)) >= lm.vocabulary:
        raise UserError(
            f"token id {largest} is outside the vocabulary of {lm.name}, {lm.vocabulary}; "
            "use the tokenizer that came with the model"
        )
    return Prompt(torch.tensor(kept, dtype=torch.int64), len(ids) > len(kept))


def read_prompt(
    lm: LanguageModel, hook: str, sae: Dictionary, text: str, *, mask: Mask | None = None, longest: int = LONGEST
) -> Read:
    """All active features of every token of the text; without a mask, only position 0 counts as left out.

    Raises `UserError` for what `prompt_ids` does, for a hook that the model lacks, and for a dictionary of activations
    of another width.
    """
    prompt = prompt_ids(lm, text, longest)
    x_TD = lm.activations(prompt.ids_T[None], [hook])[hook][0]
    if x_TD.shape[1] != sae.width:
        raise UserError(
            f"the dictionary is for activations of width {sae.width}, and {hook} of {lm.name} has {x_TD.shape[1]}; "
            "give the hook that it was trained on"
        )
    return reading(prompt, x_TD, sae, mask)


def reading(prompt: Prompt, x_TD: Tensor, sae: Dictionary, mask: Mask | None) -> Read:
    """The same of activations that are there, brought to the dictionary's device."""
    ids_T, x_TD = prompt.ids_T, x_TD.to(sae.W_enc.device)
    with torch.no_grad():
        f_TF = sae.encode(x_TD)
        error_TD = (x_TD - sae.decode(f_TF, x_TD)).double()
    square_T = x_TD.double().square().sum(1)
    masked_T = torch.zeros(len(ids_T), dtype=torch.bool) if mask is None else ~mask.keeps(ids_T, x_TD.cpu())
    masked_T[:SKIP] = True
    return Read(ids_T, prompt.truncated, square_T.sqrt(), error_TD.square().sum(1) / square_T, masked_T, _active(f_TF))


def mask_of(trained: MaskConfig, special: list[int], measured: dict[str, float] | None, sae: Dictionary) -> Mask:
    """What an evaluation leaves out: by the median norm that the store was built with, else by the training's bound."""
    if measured is not None:
        return Mask(trained, special, float(measured["median_norm"]))
    if sae.longest is not None:
        return Mask(trained, special, sae.longest / (trained.norm_above or OUTLIER))
    return Mask(MaskConfig(special=trained.special, norm_above=None), special, 0.0)


def _active(f_TF: Tensor) -> list[list[tuple[int, float]]]:
    found = []
    for f_F in f_TF.cpu():
        features_K = f_F.nonzero().squeeze(1)
        value_K = f_F[features_K]
        order_K = value_K.abs().sort(descending=True, stable=True).indices
        found.append(list(zip(features_K[order_K].tolist(), value_K[order_K].tolist(), strict=True)))
    return found


def special_ids(tokenizer: Any) -> list[int]:
    """The tokenizer's special tokens, those at the start of rows and between documents among them."""
    return sorted({int(i) for i in tokenizer.all_special_ids} | set(markers(tokenizer)))


def separator_id(tokenizer: Any) -> int:
    """The token that ends a document in training."""
    return markers(tokenizer)[1]


@lru_cache(maxsize=4)
def _encoder(tokenizer: Any) -> Any:
    """Copying a tokenizer takes longer than reading a prompt with it."""
    return plain(tokenizer)
