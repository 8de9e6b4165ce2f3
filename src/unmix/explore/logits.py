"""Which tokens a feature's direction promotes, and which it suppresses, if nothing came between it and the logits.

    effect_i = W_U (γ ⊙ c(W_dec_i)),  less its mean over the vocabulary

γ is the gain of the final norm, c takes the mean over D out where that norm is a LayerNorm and is nothing where it is
an RMSNorm; the division by the length of x, the same for every token of the vocabulary, is left out. Only hooks on the
residual stream, or of what is added to it, have such an effect. The vocabulary is the tokenizer's: a model may have
more logits, whose rows are alike and were hardly trained, so that they would all be promoted together.

The norm is found by what it does: the module that gives the unembedding its input, and that answers to random vectors
in one of the two forms, y = γ ⊙ x / rms(x) or y = γ ⊙ c(x) / rms(c(x)) + β. A model without one has no attribution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unmix.dictionary.model import Dictionary
from unmix.explore.largest import largest
from unmix.explore.store import Floats, Ints
from unmix.hooknames import KINDS, canonical
from unmix.lm.model import LanguageModel

NAMED = 10
PIECE = 2**26  # bytes of effects at a time
FEW = 8  # tokens of the pass that shows what the unembedding is given
PROBES, PROBE = 64, 100.0  # random vectors, and their scale: far above what keeps a norm from dividing by 0
OFF, OFF_ROUNDED = 1e-3, 2e-2  # by how much of its length a form may miss the norm's answers: in float32, in less


class Readout(NamedTuple):
    """What a direction goes through on its way to the logits."""

    gain_D: Tensor
    centred: bool
    """Whether the final norm takes the mean over D out."""
    unembedding_VD: Tensor
    """W_U, of the V tokens that the tokenizer has."""
    ids_V: Ints


class Effects(NamedTuple):
    """For each feature the tokens with the largest and the smallest effects; largest first, smallest first."""

    plus_FK: Ints
    plus_values_FK: Floats
    minus_FK: Ints
    minus_values_FK: Floats


def readout(model: LanguageModel) -> Readout | None:
    """Of a model; none where the unembedding or the final norm cannot be found."""
    unembed = model.model.get_output_embeddings()
    weight = getattr(unembed, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != model.width:
        return None
    seen: list[tuple[nn.Module, Tensor]] = []  # modules and what they gave, in the order in which they ended
    given: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if module is unembed:
            given.append(args[0])
        elif isinstance(output, Tensor) and output.shape[-1] == model.width:
            seen.append((module, output.detach().clone()))

    handles = [module.register_forward_hook(note) for module in model.model.modules()]
    try:
        model.logits(torch.arange(1, FEW + 1)[None])
    finally:
        for handle in handles:
            handle.remove()
    for module, y_NTD in reversed(seen):
        if given and y_NTD.shape == given[0].shape and torch.equal(y_NTD, given[0]):
            found = _gain(module, model.width, weight)
            if found is not None:
                ids = sorted(i for i in set(model.tokenizer.get_vocab().values()) if i < len(weight))
                W_VD = weight.detach() if len(ids) == len(weight) else weight.detach()[ids]
                return Readout(*found, W_VD.float().cpu(), np.array(ids, dtype=np.int64))
    return None


def _gain(module: nn.Module, D: int, like: Tensor) -> tuple[Tensor, bool] | None:
    """(γ, whether centred) of a module that is a norm, by least squares over its answers to random vectors."""
    x_BD = PROBE * torch.randn(PROBES, D, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            y_BD = module(x_BD[None].to(like)).reshape(PROBES, D).cpu().double()
    except (TypeError, RuntimeError, ValueError):  # it takes something else than one vector a token
        return None
    x_BD = x_BD.to(like.dtype).double()
    for centred in (False, True):
        u_BD = x_BD - x_BD.mean(1, keepdim=True) if centred else x_BD
        u_BD = u_BD / u_BD.square().mean(1, keepdim=True).sqrt()
        beside_D = y_BD.mean(0) if centred else torch.zeros(D).double()
        du_BD = u_BD - u_BD.mean(0) if centred else u_BD
        gain_D = (du_BD * (y_BD - beside_D)).sum(0) / du_BD.square().sum(0)
        off = OFF if like.dtype == torch.float32 else OFF_ROUNDED
        if (y_BD - beside_D - gain_D * du_BD).norm() <= off * y_BD.norm():
            return gain_D.float(), centred
    return None


def attributed(hook: str) -> bool:
    """Whether what a dictionary at the hook writes is added to the residual stream."""
    return canonical(hook).partition(".")[0] in KINDS


def effects(sae: Dictionary, out: Readout, k: int = NAMED) -> Effects:
    """Of every feature of a dictionary that writes to the residual stream."""
    found = [(*largest(effect_fV, k), *largest(-effect_fV, k)) for effect_fV in _effects(sae, out)]
    plus, plus_values, minus, minus_values = (np.concatenate(column) for column in zip(*found, strict=True))
    plus, minus = (np.where(columns < 0, -1, out.ids_V[columns]) for columns in (plus, minus))
    return Effects(plus, plus_values, minus, -minus_values)


def _effects(sae: Dictionary, out: Readout) -> Iterator[Floats]:
    rows_FD = sae.W_dec.detach().float()
    if out.centred:
        rows_FD = rows_FD - rows_FD.mean(1, keepdim=True)
    W_VD = (out.unembedding_VD - out.unembedding_VD.mean(0)) * out.gain_D  # its mean is that of the effects
    for part_fD in torch.split(rows_FD, max(1, PIECE // (4 * len(W_VD)))):
        yield (part_fD @ W_VD.T).numpy()
