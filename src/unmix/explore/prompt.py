"""A text as a model reads it, and all features of a dictionary that are active on each of its tokens.

    ids_T = BOS, then the tokens of the text        as the rows that dictionaries are trained on begin (`corpus.tokens`)
    err_t = ||y_t - ŷ_t||² / ||y_t||²               the part of ||y||² that the dictionary does not give back

y = x but of transcoders, whose y is read at another hook. Where rows had no BOS, ids_T has none. A text never yields a
special token, except the BOS in front: one that spells `<|endoftext|>` gives ordinary tokens.
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
from unmix.lm.model import LanguageModel

LONGEST = 512  # tokens of a prompt, a BOS included


class Prompt(NamedTuple):
    """A text in tokens."""

    ids_T: Tensor
    """int64, on the CPU; the first one is the BOS, with `bos`."""
    truncated: bool
    """Whether the text had more of them than are read."""


class Read(NamedTuple):
    """What a dictionary makes of a text of T tokens."""

    ids_T: Tensor
    truncated: bool
    norm_T: Tensor
    """||x||."""
    error_T: Tensor
    """||y - ŷ||² / ||y||²; NaN where y is 0."""
    masked_T: Tensor
    """Bools: what an evaluation leaves out, a BOS at position 0 and what the mask does not keep."""
    features: list[list[tuple[int, float]]]
    """Of each token: (feature, value) of every active one, the largest |value| first, of equal ones the lowest."""


def prompt_ids(lm: LanguageModel, text: str, longest: int = LONGEST, *, bos: bool = True) -> Prompt:
    """BOS and the first tokens of the text: at most `longest` together, and no more than the model takes.

    Raises `UserError` if the text has a token outside the model's vocabulary (the tokenizer is not its own), and if
    there is none at all, without a BOS.
    """
    longest = longest if lm.context is None else min(longest, lm.context)
    first = markers(lm.tokenizer)[:1] if bos else ()
    ids = [*first, *_encoder(lm.tokenizer).encode(text, add_special_tokens=False).ids]
    if not ids:
        raise UserError("an empty text has no token to read: the dictionary was trained without a BOS; give some text")
    kept = ids[:longest]
    if (largest := max(kept)) >= lm.vocabulary:
        raise UserError(
            f"token id {largest} is outside the vocabulary of {lm.name}, {lm.vocabulary}; "
            "use the tokenizer that came with the model"
        )
    return Prompt(torch.tensor(kept, dtype=torch.int64), len(ids) > len(kept))


def read_prompt(
    lm: LanguageModel,
    hook: str,
    sae: Dictionary,
    text: str,
    *,
    hook_out: str | None = None,
    bos: bool = True,
    mask: Mask | None = None,
    longest: int = LONGEST,
) -> Read:
    """All active features of every token of the text; without a mask, only a BOS at position 0 counts as left out.

    `hook_out`: where the y of a transcoder is read. `bos`: whether the dictionary's rows began with one. Raises
    `UserError` for what `prompt_ids` does, for a hook that the model lacks, and for a dictionary of activations of
    another width.
    """
    prompt = prompt_ids(lm, text, longest, bos=bos)
    out = hook_out or hook
    found = lm.activations(prompt.ids_T[None], list(dict.fromkeys([hook, out])))
    _require_width(lm, hook, found[hook], sae.width)
    _require_width(lm, out, found[out], sae.W_dec.shape[1])
    return reading(prompt, found[hook][0], found[out][0], sae, mask, bos=bos)


def reading(
    prompt: Prompt, x_TD: Tensor, y_TE: Tensor, sae: Dictionary, mask: Mask | None, *, bos: bool = True
) -> Read:
    """The same of activations that are there, brought to the dictionary's device."""
    ids_T, x_TD, y_TE = prompt.ids_T, x_TD.to(sae.W_enc.device), y_TE.to(sae.W_enc.device)
    with torch.no_grad():
        f_TF = sae.encode(x_TD)
        error_TE = (y_TE - sae.decode(f_TF, x_TD)).double()
    error_T = error_TE.square().sum(1) / y_TE.double().square().sum(1)
    masked_T = torch.zeros(len(ids_T), dtype=torch.bool) if mask is None else ~mask.keeps(ids_T, x_TD.cpu())
    masked_T[: int(bos)] = True
    return Read(ids_T, prompt.truncated, x_TD.double().norm(dim=1), error_T, masked_T, _active(f_TF))


def active_features(lm: LanguageModel, hook: str, sae: Dictionary, ids_T: Tensor) -> list[list[tuple[int, float]]]:
    """Of each token (feature, value) of every active one, as in `Read`. Raises `UserError` as `read_prompt`."""
    x_1TD = lm.activations(ids_T[None], [hook])[hook]
    _require_width(lm, hook, x_1TD, sae.width)
    with torch.no_grad():
        return _active(sae.encode(x_1TD[0].to(sae.W_enc.device)))


def mask_of(trained: MaskConfig, special: list[int], measured: dict[str, float] | None, sae: Dictionary) -> Mask:
    """What an evaluation leaves out: by the median norm that the store was built with, else by the training's bound."""
    if measured is not None:
        return Mask(trained, special, float(measured["median_norm"]))
    if sae.longest is not None:
        return Mask(trained, special, sae.longest / (trained.norm_above or OUTLIER))
    return Mask(MaskConfig(special=trained.special, norm_above=None), special, 0.0)


def _require_width(lm: LanguageModel, hook: str, x_1TD: Tensor, width: int) -> None:
    if x_1TD.shape[2] != width:
        raise UserError(
            f"the dictionary is for activations of width {width}, and {hook} of {lm.name} has {x_1TD.shape[2]}; "
            "give the hook that it was trained on"
        )


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
