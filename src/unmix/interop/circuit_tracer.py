"""circuit-tracer: `config.yaml` and a transcoder for each layer, `layer_0.safetensors` …

    f = max(z, 0)  or  max(z, 0) [z > θ],   z = x W_encᵀ + b_enc;   ŷ = f W_dec + b_dec  (+ x W_skipᵀ)

W_enc [F, D]; W_dec [F, D] since 0.5, and [D, F] before: shapes decide, and with F = D nothing does. b_dec is not
subtracted. One layer is read at a time, by its file; its layer is its place in the list `transcoders`, or, without one,
the number in its name. Cross-layer transcoders have several decoders and are not read.
`write_set` writes a set for its `load_transcoder_set`: a transcoder for every layer from 0 on, all with as many
features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import JumpRelu, Nonlinearity, Relu
from unmix.errors import UserError
from unmix.interop.normal import normal_form, positive, require_plain
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source, hook_named
from unmix.interop.tensors import take, transposed
from unmix.runlog import write_whole
from unmix.tensorfile import save_tensors

CONFIG = "config.yaml"
FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_CROSS = re.compile(r"W_(enc|dec)_\d+\.safetensors")
_THETA = "activation_function.threshold"


def is_layer(name: str) -> bool:
    """Whether a file is called as the transcoder of a layer."""
    return bool(_LAYER.fullmatch(name))


def is_here(source: Source) -> bool:
    """Whether it is a set for circuit-tracer, or a file of one."""
    if source.file is not None:
        return bool(_LAYER.fullmatch(source.file) or _CROSS.fullmatch(source.file)) and CONFIG in source.names
    return CONFIG in source.names and any(_LAYER.fullmatch(n) or _CROSS.fullmatch(n) for n in source.names)


def read(source: Source) -> Reading:
    """Raises `UserError` for a set of which no layer was given, and for cross-layer transcoders."""
    keys = source.keys(CONFIG)
    keys.one_of("model_kind", ("transcoder_set",), "a feature of a cross-layer transcoder writes into several layers")
    model, place_in, place_out = (keys.text(key) for key in ("model_name", "feature_input_hook", "feature_output_hook"))
    named = keys.values["transcoders"] if keys.has("transcoders") else None
    keys.finish({"scan", "repo_id", "revision"})
    layers = sorted((n for n in source.names if _LAYER.fullmatch(n)), key=lambda n: int(n[6:-12]))
    name = source.file or (layers[0] if len(layers) == 1 else None)
    if name is None or not _LAYER.fullmatch(name):
        first = source.folder / (layers[0] if layers else "layer_0.safetensors")
        raise UserError(f"{source.folder} holds {len(layers)} transcoders, one for a layer; give one of them: {first}")
    path, L = source.folder / name, name[6:-12] if named is None else _place_in(named, name)
    found = source.tensors(name)
    w = take(path, found, FOUR, optional=[_THETA, "W_skip"], of="a transcoder of circuit-tracer")
    w["W_dec"] = _decoder(path, w)
    w |= {name: transposed(w[name]) for name in ("W_enc", "W_skip") if name in w}
    phi: Nonlinearity = Relu()
    if _THETA in w:
        w["threshold"], phi = positive(path, w.pop(_THETA)), JumpRelu()
    sae, folded = normal_form(path, w, phi, transcoder=True)
    places = (place_in, place_out)
    hook, hook_out = (hook_named(f"blocks.{L}.{place}") if place and L is not None else None for place in places)
    notes: tuple[str, ...] = ()
    if L is None:
        notes = (f"the layer is not known: {CONFIG} lists other transcoders, or this one twice",)
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
            notes=notes,
        ),
    )


def _place_in(listed: Any, name: str) -> str | None:
    """Its layer in a list of paths or addresses, one for each layer in order; None, if it is not there just once."""
    paths = listed if isinstance(listed, list) else []
    at = [L for L, path in enumerate(paths) if re.search(rf"(?:^|/){re.escape(name)}(?:[@?].*)?$", str(path))]
    return str(at[0]) if len(at) == 1 else None


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


def write_set(
    transcoders: Sequence[Dictionary],
    folder: Path,
    *,
    model: str,
    hook_in: str = "mlp.hook_in",
    hook_out: str = "hook_mlp_out",
    scan: str | None = None,
) -> None:
    """`config.yaml` and `layer_0.safetensors` …: the transcoder of each layer, in order, float32.

    `hook_in`, `hook_out`: places in a block as TransformerLens names them. Raises `UserError` unless all are relu or
    jumprelu with as many features, map D to D, leave tokens at their own scale, and have a W_skip all or none of them;
    and if something else is in the folder.
    """
    if not transcoders:
        raise UserError("there is no transcoder to write; circuit-tracer wants one for every layer")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists; give a folder that does not, or move it away")
    first = transcoders[0]
    for L, sae in enumerate(transcoders):
        require_plain(sae, ("relu", "jumprelu"), "circuit-tracer", skip=True)
        shape, wanted = (sae.width, sae.features, sae.W_dec.shape[1]), (first.width, first.features, first.width)
        if shape != wanted:
            raise UserError(f"layer {L} is (D, F, E) = {shape}, where circuit-tracer wants {wanted} in every layer")
        if (sae.skip is None) != (first.skip is None):
            raise UserError(
                f"layers 0 and {L}: one has a W_skip and one has none; circuit-tracer wants it in all or none"
            )
        if sae.width == sae.features:
            raise UserError(
                f"layer {L} has as many features as x is wide; such a file cannot be told from an older one"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for L, sae in enumerate(transcoders):
        w = sae.weights
        turned = {
            name: w[name].T if name in ("W_enc", "W_skip") else w[name] for name in (*FOUR, "W_skip") if name in w
        }
        own = {_THETA: w["threshold"]} if "threshold" in w else {}
        save_tensors(folder / f"layer_{L}.safetensors", turned | own)
    config = {
        "model_name": model,
        "model_kind": "transcoder_set",
        "feature_input_hook": hook_in,
        "feature_output_hook": hook_out,
        "scan": scan or folder.absolute().name,
    }
    write_whole(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
