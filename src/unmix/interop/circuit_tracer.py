"""circuit-tracer: `config.yaml` and a transcoder for each layer, `layer_0.safetensors` …

    f = max(z, 0)  or  max(z, 0) [z > θ],   z = x W_encᵀ + b_enc;   ŷ = f W_dec + b_dec  (+ x W_skipᵀ)

W_enc [F, D]; W_dec [F, D] since 0.5, and [D, F] before: shapes decide, and with F = D nothing does. b_dec is not
subtracted. One layer is read at a time, by its file; cross-layer transcoders have several decoders and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unmix.dictionary.nonlinearities import JumpRelu, Nonlinearity, Relu
from unmix.errors import UserError
from unmix.interop.normal import normal_form, positive
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source, hook_named
from unmix.interop.tensors import take, transposed

CONFIG = "config.yaml"
FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_CROSS = re.compile(r"W_(enc|dec)_\d+\.safetensors")
_THETA = "activation_function.threshold"


def is_here(source: Source) -> bool:
    """Whether it is a set for circuit-tracer, or a file of one."""
    if source.file is not None:
        return bool(_LAYER.fullmatch(source.file) or _CROSS.fullmatch(source.file)) and CONFIG in source.names
    return CONFIG in source.names and any(_LAYER.fullmatch(n) or _CROSS.fullmatch(n) for n in source.names)


def read(source: Source) -> Reading:
    """Raises `UserError` for a set of which no layer was given, cross-layer transcoders and skip connections."""
    keys = source.keys(CONFIG)
    keys.one_of("model_kind", ("transcoder_set",), "a feature of a cross-layer transcoder writes into several layers")
    model, place_in, place_out = (keys.text(key) for key in ("model_name", "feature_input_hook", "feature_output_hook"))
    keys.finish({"scan", "transcoders", "repo_id", "revision"})
    layers = sorted((n for n in source.names if _LAYER.fullmatch(n)), key=lambda n: int(n[6:-12]))
    name = source.file or (layers[0] if len(layers) == 1 else None)
    if name is None or not _LAYER.fullmatch(name):
        first = source.folder / (layers[0] if layers else "layer_0.safetensors")
        raise UserError(f"{source.folder} holds {len(layers)} transcoders, one for a layer; give one of them: {first}")
    path, L = source.folder / name, name[6:-12]
    found = source.tensors(name)
    if "W_skip" in found:
        raise UserError(f"{path} has W_skip: it adds x W_skipᵀ, which dictionaries of this version do not have")
    w = take(path, found, FOUR, optional=[_THETA], of="a transcoder of circuit-tracer")
    w["W_dec"] = _decoder(path, w)
    w["W_enc"] = transposed(w["W_enc"])
    phi: Nonlinearity = Relu()
    if _THETA in w:
        w["threshold"], phi = positive(path, w.pop(_THETA)), JumpRelu()
    sae, folded = normal_form(path, w, phi, transcoder=True)
    hook, hook_out = (hook_named(f"blocks.{L}.{place}") if place else None for place in (place_in, place_out))
    return Reading(
        sae,
        Origin(
            format="circuit-tracer",
            architecture="jumprelu" if isinstance(phi, JumpRelu) else "relu",
            model=model,
            hook=hook,
            hook_out=hook_out,
            transcoder=True,
            folded=folded,
        ),
    )


def _decoder(path: Path, w: Mapping[str, Any]) -> Tensor:
    """W_dec [F, E], turned if it is [E, F]. Raises `UserError` where F = E and neither can be told."""
    W_dec: Tensor = w["W_dec"]
    F, E = w["b_enc"].numel(), w["b_dec"].numel()
    if F == E:
        raise UserError(
            f"{path} has as many features as its output is wide ({F}): older sets store W_dec turned, and its shape "
            "does not say which; open it with the version that wrote it"
        )
    return W_dec.T if tuple(W_dec.shape) == (E, F) else W_dec
