"""From what a file holds to the normal form: raw x in, raw ŷ out.

Files differ in what stands between x and the encoder, and between the decoder and ŷ:

    u = s_in x - b_dec  or  s_in x           z = u W_enc + b_enc
    f = phi(z n)  or  phi(z)                 n_i = ‖W_dec_i‖
    ŷ = ((f / n) W_dec + b_dec [+ s_in x W_skip]) / s_out  or without n

All of it goes into the weights, in this order: b_dec into the biases, n into both matrices, s_in and s_out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import Nonlinearity
from unmix.dictionary.per_token import PerToken
from unmix.errors import UserError

OWN = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_mag")}
"""The parameters [F] of a nonlinearity beyond those that all have."""


def normal_form(
    path: Path,
    weights: Mapping[str, Tensor],
    phi: Nonlinearity,
    *,
    transcoder: bool = False,
    centred: bool = False,
    rescaled: bool = False,
    scale_in: float = 1.0,
    scale_out: float | None = None,
    per_token: PerToken | None = None,
    longest: float | None = None,
    called: Mapping[str, str] | None = None,
) -> tuple[Dictionary, tuple[str, ...]]:
    """(the dictionary, what was folded in, for people).

    weights: W_enc [D, F], b_enc [F], W_dec [F, E], b_dec [E], W_skip [D, E] or none, and phi's own, float32. `centred`:
    u = x - b_dec; `rescaled`: phi sees z n; `scale_out` is `scale_in` unless given; `called`: names in the file, for
    the message.
    Raises `UserError` if the shapes do not fit each other, or something became infinite.
    """
    require_shapes(path, weights, phi, transcoder, called or {})
    w, folded = dict(weights), []
    if centred and bool((w["b_dec"] != 0).any()):
        shift_F = product(w["b_dec"], w["W_enc"])
        w |= phi.moved(w, -shift_F)
        folded.append("b_dec is subtracted from x")
    if rescaled:
        w |= unit_rows(w)
        folded.append("z is weighed by ||W_dec_i||: rows have length 1")
    scale_out = scale_in if scale_out is None else scale_out
    if scale_in != 1 or scale_out != 1:
        w |= {"W_enc": w["W_enc"] * scale_in, "W_dec": w["W_dec"] / scale_out, "b_dec": w["b_dec"] / scale_out}
        w |= {"W_skip": w["W_skip"] * (scale_in / scale_out)} if "W_skip" in w else {}
        both = f"{scale_in:g}" if scale_in == scale_out else f"{scale_in:g}, and y by {scale_out:g}"
        folded.append(f"x is multiplied by {both}")
    if bad := [name for name, tensor in w.items() if not bool(tensor.isfinite().all())]:
        raise UserError(f"{path}: {', '.join(bad)} cannot be held in float32 on raw x; the scales in it are damaged")
    w = {name: tensor.contiguous() for name, tensor in w.items()}  # the order in which sums are made, saved or not
    return Dictionary(w, phi, per_token=per_token, longest=longest), tuple(folded)


def require_shapes(
    path: Path, weights: Mapping[str, Tensor], phi: Nonlinearity, transcoder: bool, called: Mapping[str, str]
) -> None:
    """Raises `UserError` unless they are [D, F], [F], [F, E], [E], and [F] of phi's own; E = D but in a transcoder."""
    own = OWN.get(phi.name, ())
    W_enc, E, F = weights["W_enc"], weights["b_dec"].numel(), weights["b_enc"].numel()
    D = W_enc.shape[0] if transcoder and W_enc.ndim == 2 else E
    fitting = {"W_enc": (D, F), "W_dec": (F, E), "b_dec": (E,)} | dict.fromkeys(("b_enc", *own), (F,))
    skip = ("W_skip",) if "W_skip" in weights else ()
    fitting |= dict.fromkeys(skip, (D, E))
    if D == 0 or F == 0 or any(tuple(weights[name].shape) != shape for name, shape in fitting.items()):
        order = ("W_enc", "b_enc", "W_dec", "b_dec", *own, *skip)
        found = ", ".join(f"{called.get(name, name)} {list(weights[name].shape)}" for name in order)
        also = f", and [F] of {', '.join(own)}" if own else ""
        also += ", and [D, E] of W_skip" if skip else ""
        to = "[F, E], [E]" if transcoder else "[F, D], [D]"
        raise UserError(f"{path} has shapes that do not fit each other: {found}; wanted are [D, F], [F], {to}{also}")


def product(b_dec_D: Tensor, W_enc_DF: Tensor) -> Tensor:
    """b_dec W_enc, (F,), summed in float64: where ‖b_dec‖ is large, float32 moves features near their threshold."""
    blocks = [
        b_dec_D.double() @ block.double() for block in torch.split(W_enc_DF, 4096, dim=1)
    ]  # not all F in float64 at once
    return torch.cat(blocks).to(b_dec_D.dtype)


def centred_biases(sae: Dictionary) -> dict[str, Tensor]:
    """The biases of the same function with u = x - b_dec: b_enc + b_dec W_enc, and a gated one's b_mag too, float32."""
    w = sae.weights
    return {name: w[name] for name in ("b_enc", "b_mag") if name in w} | sae.nonlinearity.moved(
        w, product(w["b_dec"], w["W_enc"])
    )


def require_plain(
    sae: Dictionary, kinds: Collection[str], library: str, transcoder: bool = False, skip: bool = False
) -> None:
    """Raises `UserError` unless the library knows its nonlinearity, and it scales no token and is no transcoder.

    `skip`: the library knows W_skip.
    """
    if sae.nonlinearity.name not in kinds:
        known = ", ".join(sorted(kinds))
        raise UserError(f"{library} knows no {sae.nonlinearity.name}; it knows {known}: leave it in our layout")
    if sae.per_token is not None:
        what = {"length": "scaling of each token by its length"}.get(sae.per_token.name, "layer norm of each token")
        raise UserError(f"{library} has no {what}; leave it in our layout")
    if transcoder:
        raise UserError(f"{library} knows no transcoder; leave it in our layout")
    if sae.skip is not None and not skip:
        raise UserError(f"{library} knows no W_skip; leave it in our layout")


def unit_rows(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W_enc n, b_enc n, W_dec / n: the same ŷ, and phi sees what it saw in z n. A row of length 0 gives z = 0."""
    norm_F: Tensor = weights["W_dec"].double().norm(dim=1).float()
    return {
        "W_enc": weights["W_enc"] * norm_F,
        "b_enc": weights["b_enc"] * norm_F,
        "W_dec": weights["W_dec"] / torch.where(norm_F > 0, norm_F, 1)[:, None],
    }


def positive(path: Path, threshold_F: Tensor) -> Tensor:
    """θ of a format whose f is z [z > θ]: as it is. Raises `UserError` if one is negative, for f would be too."""
    if bool((threshold_F < 0).any()):
        raise UserError(
            f"{path}: a threshold is {threshold_F.min():.3g}, under which f would be negative; "
            "take another checkpoint, or open it with the library that wrote it"
        )
    return threshold_F


def not_negative(threshold_F: Tensor) -> Tensor:
    """θ of a format whose f is max(z, 0) [z > θ]: a negative one is the same as 0."""
    return threshold_F.clamp(min=0)


def is_scale(value: float) -> bool:
    """Whether x can be multiplied and divided by it."""
    return math.isfinite(value) and value > 0
