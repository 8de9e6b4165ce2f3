"""Whether a dictionary belongs where it is read: what it gives back of a few tokens, against predicting their mean μ.

    FVU = Σ‖ŷ - y‖² / Σ‖y - μ‖²         1 less the explained variance; y = x but in a transcoder

Above 1 it is worse than μ: the place or the scale is wrong. `mends` then tries, alone and, where none of them explains
half of the variance, together: the neighbouring hooks; each token's mean subtracted, as TransformerLens'
center_writing_weights does; b_dec subtracted from x or not; x multiplied or divided by √D / mean ‖x‖; each token
brought to the length √D; a layer norm of each token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmix.activations.mask import longer
from unmix.config import OUTLIER
from unmix.corpus.tokens import Tokens, sample, special_ids
from unmix.dictionary.model import Dictionary, fold_scaling
from unmix.dictionary.per_token import ByLength, LayerNorm, PerToken
from unmix.errors import UserError
from unmix.evaluation.memory import pieces
from unmix.hooknames import KINDS, canonical
from unmix.interop.normal import product
from unmix.interop.origin import Origin
from unmix.lm.model import LanguageModel

ENOUGH = 0.5  # an FVU under which nothing more is tried
FEW = 1_024  # tokens of the line that is said whenever a dictionary is opened with a model, and of each try
AT_ONCE = 8  # sequences a pass
CENTRED = "center_writing_weights"  # of `Origin.processed`

PER_TOKEN: dict[str, PerToken | None] = {
    "tokens left at their own scale": None,
    "each token scaled to length √D": ByLength(),
    "a layer norm of each token": LayerNorm(),
}


class Measured(NamedTuple):
    """Of a dictionary on some tokens."""

    fvu: float
    l0: float
    tokens: int


class Mend(NamedTuple):
    """A change with which the dictionary explains something."""

    how: str
    """`read at resid_post.4`, `b_dec subtracted from x`."""
    fvu: float


_HOLD = "each token's mean over its coordinates, which the training subtracted, holds {:.2%} of ‖x‖² here"


@dataclass(frozen=True)
class Proof:
    """What was measured, beside what the file claims."""

    hook: str
    found: Measured
    claimed_l0: float | None
    claimed_explained_variance: float | None
    mean_share: float | None = None
    """D (Σ_i x_i / D)² as a share of ‖x‖², over all tokens, where the training subtracted each token's mean."""

    @property
    def fails(self) -> bool:
        """Whether predicting the mean is better."""
        return not self.found.fvu <= 1

    def __str__(self) -> str:
        def beside(claim: float | None, form: str) -> str:
            return "" if claim is None else f" (the file says {claim:{form}})"

        fvu, l0, tokens = self.found
        return (
            f"at {self.hook}, over {tokens:,} tokens: explained variance {1 - fvu:.3f}"
            f"{beside(self.claimed_explained_variance, '.3f')}, L0 {l0:.1f}{beside(self.claimed_l0, 'g')}"
            + (f"; FVU {fvu:.3g} is above 1: wrong place or scale" if self.fails else "")
            + ("" if self.mean_share is None else f"; {_HOLD.format(self.mean_share)}")
        )


def measure(sae: Dictionary, x_BD: Tensor, y_BE: Tensor) -> Measured:
    """FVU and L0, sums in float64; NaN without tokens, or where y does not vary."""
    error, active, y_BE = 0.0, 0, y_BE.double()
    with torch.no_grad():
        for at in pieces(len(x_BD), sae.features):
            f_bF = sae.encode(x_BD[at])
            error += (sae.decode(f_bF, x_BD[at]).double() - y_BE[at]).square().sum().item()
            active += int((f_bF != 0).sum())
    variance = (y_BE - y_BE.mean(0)).square().sum().item() if len(y_BE) else 0.0
    return Measured(
        error / variance if variance else math.nan, active / len(x_BD) if len(x_BD) else math.nan, len(x_BD)
    )


def prove(
    lm: LanguageModel,
    tokens: Tokens,
    hook: str,
    sae: Dictionary,
    made: Origin | None = None,
    *,
    most: int = FEW,
    name: str = "the dictionary",
) -> Proof:
    """On at most so many tokens, drawn as an evaluation draws them; the BOS and outliers are left out, as
    there, and special tokens where `made` says so. Raises `UserError` if the hook or the width do not fit.
    """
    out = made.hook_out if made is not None and made.transcoder else None
    x_BD, y_BE = read_pair(lm, tokens, hook, out, made is not None and made.without_special, most)
    for at, wanted, x in ((hook, sae.width, x_BD), (out or hook, sae.W_dec.shape[1], y_BE)):
        if x.shape[1] != wanted:
            raise UserError(
                f"{name} is for activations of width {wanted}, and {at} of {lm.name} has {x.shape[1]}; "
                "give the model and the hook that it was trained on (--model, --hook)"
            )
    x_BD, y_BE = _trained_on(sae, x_BD, y_BE)
    found = measure(sae, x_BD, y_BE)
    claims = (None, None) if made is None else (made.l0, made.explained_variance)
    share = mean_share(x_BD) if made is not None and CENTRED in made.processed else None
    return Proof(hook if out is None else f"{hook} -> {out}", found, *claims, share)


def _trained_on(sae: Dictionary, x_BD: Tensor, y_BE: Tensor) -> tuple[Tensor, Tensor]:
    """Without the tokens that were left out of training for their length."""
    keeps_B = ~sae.leaves(x_BD)
    return x_BD[keeps_B], y_BE[keeps_B]


def mean_share(x_BD: Tensor) -> float:
    """How much of Σ‖x‖² lies along (1, …, 1): nothing, if each token's mean was subtracted. NaN without tokens."""
    x_BD = x_BD.double()
    whole = x_BD.square().sum().item()
    return x_BD.shape[1] * x_BD.mean(1).square().sum().item() / whole if whole else math.nan


def read_pair(
    lm: LanguageModel, tokens: Tokens, hook: str, out: str | None, without_special: bool, most: int
) -> tuple[Tensor, Tensor]:
    """(x_BD, y_BE) of the tokens that count."""
    T = tokens.ids_NT.shape[1]
    rows_N = sample(len(tokens.ids_NT))[: max(1, most // T)]
    ids_NT = torch.from_numpy(tokens.ids_NT[rows_N].astype(np.int64))
    hooks = [hook] if out is None else [hook, out]
    parts = [lm.activations(part_nT, hooks) for part_nT in torch.split(ids_NT, AT_ONCE)]
    x_NTD, y_NTE = (torch.cat([part[name].cpu() for part in parts]) for name in (hook, out or hook))
    norm_NT = x_NTD.norm(dim=-1)
    keeps_NT = ~longer(norm_NT, OUTLIER * norm_NT.median().item())
    keeps_NT[:, : tokens.skip] = False
    if without_special:
        keeps_NT &= ~torch.isin(ids_NT, torch.tensor(sorted(special_ids(lm.tokenizer, tokens)), dtype=torch.int64))
    return x_NTD[keeps_NT], y_NTE[keeps_NT]


def mends(
    lm: LanguageModel,
    tokens: Tokens,
    hook: str,
    sae: Dictionary,
    made: Origin | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Mend]:
    """Changes with which FVU is below 1, the best first; empty if there is none."""
    out = made.hook_out if made is not None and made.transcoder else None
    without_special = made is not None and made.without_special
    x_BD, y_BE = _trained_on(sae, *read_pair(lm, tokens, hook, out, without_special, FEW))
    places: dict[str, tuple[Tensor, Tensor]] = {"": (x_BD, y_BE)}
    for other in neighbours(hook, lm.layers):
        try:
            pair = _trained_on(sae, *read_pair(lm, tokens, other, out, without_special, FEW))
        except UserError:  # a hook that this model does not have
            continue
        if pair[0].shape[1] == sae.width and pair[1].shape[1] == sae.W_dec.shape[1]:
            places[f"read at {other}"] = pair
    if out is None:
        centred_BD = x_BD - x_BD.mean(1, keepdim=True)
        places[f"each token's mean subtracted from x ({CENTRED})"] = centred_BD, centred_BD
    changed = changes(sae, x_BD)
    say(f"trying {len(places) - 1} other places and {len(changed) - 1} other readings, on {len(x_BD):,} tokens")
    found: list[Mend] = []
    for together in (False, True):
        for place, (x_PD, y_PE) in places.items():
            for how, one in changed.items():
                said = [what for what in (place, *how) if what]
                if said and (len(said) > 1) == together and (fvu := measure(one, x_PD, y_PE).fvu) < 1:
                    found.append(Mend(" and ".join(said), fvu))
        found.sort(key=lambda mend: mend.fvu)
        if found and found[0].fvu < ENOUGH:
            break
    return found


def neighbours(hook: str, layers: int) -> list[str]:
    """`resid_post.3` -> the other hooks of block 3, and the same of blocks 2 and 4; each place once."""
    kind, _, layer = canonical(hook).partition(".")
    if kind not in KINDS:
        within = re.search(r"\.(\d+)(?:\.|$)", hook)
        kind, layer = "", within[1] if within else ""
    if not layer.isdigit():
        return []
    L = int(layer)
    found: dict[tuple[str, int], str] = {}
    for other, at in [(kind, L), *((other, L) for other in KINDS), (kind, L - 1), (kind, L + 1)]:
        if other in KINDS and 0 <= at < layers:
            place = ("resid_post", at - 1) if other == "resid_pre" else (other, at)  # one and the same
            found.setdefault(place, f"{other}.{at}")
    return [name for name in found.values() if name != canonical(hook)]


def changes(sae: Dictionary, x_BD: Tensor) -> dict[tuple[str, str], Dictionary]:
    """(what is done about b_dec, what about scales) -> the dictionary with its weights read so; ("", ""): as it is."""
    w = sae.weights
    biases = {"": sae}
    if sae.width == sae.W_dec.shape[1] and sae.skip is None and bool((w["b_dec"] != 0).any()):
        by_F = product(w["b_dec"], w["W_enc"])
        biases["b_dec subtracted from x"] = sae.changed(sae.nonlinearity.moved(w, -by_F))
        biases["b_dec not subtracted from x"] = sae.changed(sae.nonlinearity.moved(w, by_F))
    scale = math.sqrt(sae.width) / x_BD.double().norm(dim=1).mean().item() if len(x_BD) else math.nan
    found = {}
    for of_bias, one in biases.items():
        found[of_bias, ""] = one
        if scale > 0 and math.isfinite(scale):
            found[of_bias, f"x multiplied by √D / mean ‖x‖ = {scale:.3g}"] = fold_scaling(one, scale)
            found[of_bias, f"x divided by √D / mean ‖x‖ = {scale:.3g}"] = fold_scaling(one, 1 / scale)
        for how, T in PER_TOKEN.items():
            if sae.per_token != T:
                alike = Dictionary(one.weights, one.nonlinearity, per_token=T, longest=one.longest)
                found[of_bias, how] = alike
    return found
