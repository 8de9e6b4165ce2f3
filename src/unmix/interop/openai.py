"""OpenAI's sparse_autoencoder for GPT-2: one `.pt` an SAE, after `unmix convert`.

    v1 (ReLU)   f = max(z, 0),                z = (x - pre_bias) W_enc + latent_bias;   x̂ = f W_dec + pre_bias
    v5 (TopK)   the k largest of max(z, 0) of (x - μ)/(s + 1e-5), and x̂ is multiplied by s and moved by μ again

μ and s are the mean and the deviation (n - 1) of each token. Nothing in the file says where x was read; the path does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmix.dictionary.nonlinearities import Relu
from unmix.errors import UserError
from unmix.interop.normal import normal_form
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source
from unmix.interop.tensors import take, transposed

NAMES = {"encoder.weight": "W_enc", "latent_bias": "b_enc", "decoder.weight": "W_dec", "pre_bias": "b_dec"}
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_PLACES = {
    "resid_post_mlp": "resid_post",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
    "mlp_post_act": None,
    "resid_post_attn": None,
}


def is_here(found: Mapping[str, Any]) -> bool:
    """Whether the tensors are one of theirs."""
    return NAMES.keys() <= found.keys()


def read(source: Source, path: Path, found: Mapping[str, Any]) -> Reading:
    """Raises `UserError` for TopK, which normalizes each token."""
    activation = found.get("activation", "ReLU")
    if activation == "TopK":
        raise UserError(
            f"{path} is of version 5 (TopK), which subtracts each token's mean and divides by its deviation; "
            "dictionaries of this version cannot do that (layer_norm)"
        )
    if activation != "ReLU":
        raise UserError(f"{path} says activation = {activation!r:.60}; this version reads ReLU")
    more = [name for name in found if name.startswith("activation")]
    of = "an SAE of OpenAI's sparse_autoencoder"
    w = {NAMES[name]: tensor for name, tensor in take(path, found, NAMES, ignored=(*_STATISTICS, *more), of=of).items()}
    w["W_enc"], w["W_dec"] = transposed(w["W_enc"]), transposed(w["W_dec"])
    called = {ours: theirs for theirs, ours in NAMES.items()}
    sae, folded = normal_form(path, w, Relu(), centred=True, called=called)
    place, layer = source.in_path("|".join(_PLACES)), path.stem
    named = _PLACES[place[0]] if place else None
    return Reading(
        sae,
        Origin(
            format="OpenAI sparse_autoencoder",
            architecture="ReLU",
            model="gpt2" if source.in_path(r"gpt2-small|gpt2_small") else None,
            hook=f"{named}.{layer}" if named and layer.isdigit() else None,
            prepend_bos=False,
            context=64,
            folded=folded,
            notes=() if named else ("nothing in the file says where x was read",),
        ),
    )
