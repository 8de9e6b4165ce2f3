"""OpenAI's sparse_autoencoder for GPT-2: one `.pt` an SAE, after `unmix convert`.

    v1 (ReLU)   f = max(z, 0),                z = (x - pre_bias) W_enc + latent_bias;   x̂ = f W_dec + pre_bias
    v5 (TopK)   the k largest of max(z, 0),  z = (T(x) - pre_bias) W_enc + latent_bias;
                x̂ = T⁻¹(f W_dec + pre_bias),  T the layer norm of `dictionary/per_token.py`

Nothing in the file says where x was read; the path does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unmix.dictionary.nonlinearities import Nonlinearity, Relu, TopK
from unmix.dictionary.per_token import LayerNorm
from unmix.errors import UserError
from unmix.interop.normal import normal_form
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source
from unmix.interop.tensors import listed, take, transposed

NAMES = {"encoder.weight": "W_enc", "latent_bias": "b_enc", "decoder.weight": "W_dec", "pre_bias": "b_dec"}
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_PLACES = {
    "resid_post_mlp": "resid_post.{}",
    "resid_delta_mlp": "mlp_out.{}",
    "resid_delta_attn": "attn_out.{}",
    "mlp_post_act": "blocks.{}.mlp.hook_post",
    "resid_post_attn": "blocks.{}.hook_resid_mid",
}
_FOLDERS = rf"(gpt2-small/|gpt2_small/)?({'|'.join(_PLACES)})[^/]*(?:/autoencoders)?"
"""`gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt`."""


def is_here(found: Mapping[str, Any]) -> bool:
    """Whether the tensors are one of theirs."""
    return NAMES.keys() <= found.keys()


def read(source: Source, path: Path, found: Mapping[str, Any]) -> Reading:
    """Raises `UserError` for what is neither of the two."""
    activation = found.get("activation", "ReLU")
    if activation not in ("ReLU", "TopK"):
        raise UserError(f"{path} says activation = {activation!r:.60}; this version reads ReLU and TopK")
    more = [name for name in found if name.startswith("activation")]
    of = "an SAE of OpenAI's sparse_autoencoder"
    w = {NAMES[name]: tensor for name, tensor in take(path, found, NAMES, ignored=(*_STATISTICS, *more), of=of).items()}
    w["W_enc"], w["W_dec"] = transposed(w["W_enc"]), transposed(w["W_dec"])
    called = {ours: theirs for theirs, ours in NAMES.items()}
    phi: Nonlinearity = Relu() if activation == "ReLU" else TopK(_k(path, found, w), weigh_by_norm=False)
    T = LayerNorm() if activation == "TopK" else None
    sae, folded = normal_form(path, w, phi, centred=True, per_token=T, called=called)
    at, layer = source.ends(_FOLDERS), path.stem
    named = _PLACES[at[2]] if at else None
    return Reading(
        sae,
        Origin(
            format="OpenAI sparse_autoencoder",
            architecture=activation,
            version="5" if activation == "TopK" else "1",
            model="gpt2" if at and at[1] else None,
            hook=named.format(layer) if named and layer.isdigit() else None,
            prepend_bos=False,
            context=64,
            l0=float(phi.k) if isinstance(phi, TopK) else None,
            folded=folded,
            notes=() if named else ("nothing in the file says where x was read",),
        ),
    )


def _k(path: Path, found: Mapping[str, Any], w: Mapping[str, Tensor]) -> int:
    """k of a TopK, of which f = max(z, 0). Raises `UserError` for another function of z, and for no such k."""
    state = found.get("activation_state_dict")
    values = dict(state) if isinstance(state, dict) else {}
    if (after := values.pop("postact_fn", "ReLU")) != "ReLU":
        raise UserError(f"{path} says postact_fn = {after!r:.60}; this version reads ReLU")
    k, F = values.pop("k", None), w["b_enc"].numel()
    if values:
        raise UserError(f"{path} has {listed(values)} in activation_state_dict, which this version does not know")
    if isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= F:
        raise UserError(f"{path} says k = {k!r:.60} of {F} features; it is damaged")
    return k
