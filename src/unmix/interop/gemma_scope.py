"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors`), of Google DeepMind: arXiv 2408.05147.

    f = max(z, 0) [z > θ],   z = x W_enc + b_enc;      ŷ = f W_dec + b_dec  [+ x A]

W_enc [D, F], W_dec [F, D], float32; A [D, E], `affine_skip_connection`, in some transcoders of 2; > is strict; b_dec is
not subtracted from x. Nothing is scaled but in the folders of embeddings, whose x is divided by √D, as Gemma multiplies
its embeddings by it. 1 has no configuration: the model, the hook and the L0 stand in the names of its folders alone,
`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`. 2 writes names in lower case and may have a config.json.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch

from unmix.dictionary.nonlinearities import JumpRelu
from unmix.errors import UserError
from unmix.interop.keys import Keys, fact
from unmix.interop.normal import normal_form, not_negative
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source
from unmix.interop.tensors import take

NPZ, PARAMS, CONFIG = "params.npz", "params.safetensors", "config.json"
_FIVE = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_SKIP = "affine_skip_connection"
_REPOSITORY = re.compile(r"/gemma-scope-(\w+)-(pt|it)-(res|mlp|att|transcoders)(?![\w-])")
_PLACE = re.compile(r"/(?:layer_(\d+)|embedding)(?=/|$)")
_PLACE_ALONE = r"(?:layer_(\d+)|embedding)/width_\w+(?:/[^/]+)?"
_OF_SECOND = r"(transcoder|resid_post|attn_out|mlp_out)(?:_all)?/layer_(\d+)_width_[^/]+"


def is_first(source: Source) -> bool:
    """Whether it is Gemma Scope 1."""
    return source.has(NPZ)


def read_first(source: Source) -> Reading:
    """`layer_20/width_16k/average_l0_71/params.npz`."""
    path = source.folder / NPZ
    found = {_capital(name): tensor for name, tensor in source.tensors(NPZ).items()}
    w = take(path, found, _FIVE, optional=["scaling_factor"], of="a Gemma Scope SAE")
    if bool((w.pop("scaling_factor", torch.ones(1)) != 1).any()):
        raise UserError(f"{path} holds a scaling_factor that is not 1; this version does not know what it scales")
    named = _named(source)
    w["threshold"] = not_negative(w["threshold"])
    D = w["b_dec"].numel()
    # b_dec is left as it is, as SAELens does
    scale_in = 1 / math.sqrt(D) if named.embedding and D else 1.0
    if named.embedding:
        w["b_dec"] = w["b_dec"] * scale_in
    transcoder = named.part == "transcoders"
    dictionary, folded = normal_form(path, w, JumpRelu(), scale_in=scale_in, transcoder=transcoder)
    hook, hook_out, notes = _hooks(named)
    l0 = source.ends(r"average_l0_(\d+)")
    return Reading(
        dictionary,
        Origin(
            format="Gemma Scope",
            architecture="jumprelu",
            version="1",
            model=named.model,
            hook=hook,
            hook_out=hook_out,
            transcoder=transcoder,
            prepend_bos=True,
            without_special=True,
            l0=float(l0[1]) if l0 else None,
            folded=folded,
            notes=notes,
        ),
    )


def _capital(name: str) -> str:
    """`w_enc` -> W_enc."""
    return re.sub(r"^w_", "W_", name)


class _Named(NamedTuple):
    """What the folders of the release say, and no folder above them."""

    model: str | None
    part: str | None
    """`res`, `mlp`, `att` or `transcoders`; None: the repository is not in the path."""
    layer: str | None
    embedding: bool


def _named(source: Source) -> _Named:
    """Of the last repository in the path, and the last place behind it; without one, of the release's own levels."""
    repository = next(reversed(list(_REPOSITORY.finditer(source.levels))), None)
    if repository is None:
        place = source.ends(_PLACE_ALONE)
        return _Named(None, None, place[1] if place else None, place is not None and place[1] is None)
    place = next(reversed(list(_PLACE.finditer(source.levels, repository.end()))), None)
    size, tuned, part = repository.groups()
    model = f"google/gemma-2-{size}" + ("-it" if tuned == "it" else "")
    return _Named(model, part, place[1] if place else None, part == "res" and place is not None and place[1] is None)


def _hooks(named: _Named) -> tuple[str | None, str | None, tuple[str, ...]]:
    """(hook, hook of the output, notes)."""
    L = named.layer
    if named.embedding:
        return "resid_pre.0", None, ("b_dec of the embedding SAEs is not scaled with the rest, as in SAELens",)
    if named.part is None or L is None:
        return None, None, ("the model and the hook stand only in the repository's name and path",)
    match named.part:
        case "res":
            return f"resid_post.{L}", None, ()
        case "mlp":
            return f"mlp_out.{L}", None, ()
        case "att":
            note = "x is what goes into the output projection of the attention, the heads side by side"
            return f"blocks.{L}.attn.hook_z", None, (note,)
    note = "x is the MLP's input, after the norm in front of it"
    return f"model.layers.{L}.pre_feedforward_layernorm", f"mlp_out.{L}", (note,)


def is_second(source: Source) -> bool:
    """Whether it is Gemma Scope 2."""
    return source.has(PARAMS)


def read_second(source: Source) -> Reading:
    """`resid_post_all/layer_17_width_16k_l0_small/params.safetensors`, with or without config.json."""
    path = source.folder / PARAMS
    keys = source.keys(CONFIG) if CONFIG in source.names else Keys(source.folder / CONFIG, {})
    keys.one_of("architecture", ("jump_relu", "jumprelu"))
    kind = keys.one_of("type", ("sae", "transcoder"), "a dictionary of several layers is no map from one x to one y")
    affine = keys.one_of("affine_connection", (False, True, None))
    width, model = keys.whole("width"), keys.text("model_name")
    places = [keys.text(f"hf_hook_point_{side}") for side in ("in", "out")]
    l0 = fact(keys.values.get("l0")) if keys.has("l0") else None
    keys.finish()
    found = {_capital(name): tensor for name, tensor in source.tensors(PARAMS).items()}
    if affine and _SKIP not in found:
        raise keys.refuse("affine_connection", f"but {path} has no {_SKIP}; copy or download it again")
    if affine is False and _SKIP in found and keys.has("affine_connection"):
        raise keys.refuse("affine_connection", f"but {path} has {_SKIP}; copy or download both again")
    w = take(path, found, _FIVE, optional=[_SKIP], of="a Gemma Scope 2 SAE")
    if _SKIP in w:
        w["W_skip"] = w.pop(_SKIP)
    if w["W_dec"].ndim == 3:
        raise UserError(f"{path}: W_dec is {list(w['W_dec'].shape)}, a cross-layer transcoder; one layer's SAE is read")
    if width is not None and width != w["b_enc"].numel():
        raise UserError(f"{keys.path} says {keys.said('width')}, the weights have {w['b_enc'].numel()} features")
    w["threshold"] = not_negative(w["threshold"])
    named = source.ends(_OF_SECOND)  # its folders say what config.json does not
    transcoder = kind == "transcoder" or places[0] != places[1] or "W_skip" in w
    transcoder |= not keys.has("type") and named is not None and named[1] == "transcoder"
    dictionary, folded = normal_form(path, w, JumpRelu(), transcoder=transcoder)
    hook, hook_out = (_place(place) for place in places)
    if hook is None and named is not None and named[1] == "resid_post":
        hook = f"resid_post.{named[2]}"
    return Reading(
        dictionary,
        Origin(
            format="Gemma Scope",
            architecture="jump_relu",
            version="2",
            model=model,
            hook=hook,
            hook_out=hook_out if transcoder else None,
            transcoder=transcoder,
            prepend_bos=True,
            l0=l0,
            folded=folded,
        ),
    )


def _place(place: str | None) -> str | None:
    """Ours for a place in `transformers`' Gemma 3; the module's path for others, the output being what is meant."""
    if place is None:
        return None
    if found := re.fullmatch(r"(?:\w+\.)*layers\.(\d+)\.output", place):
        return f"resid_post.{found[1]}"
    if found := re.fullmatch(r"(?:\w+\.)*layers\.(\d+)\.post_feedforward_layernorm\.output", place):
        return f"mlp_out.{found[1]}"  # what the block adds: Gemma's norm stands behind the MLP
    return place.removesuffix(".output")
