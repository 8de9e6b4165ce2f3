"""SAELens, versions 1 to 6, and what unmix writes: `cfg.json` and `sae_weights.safetensors`.

    z = (x - b_dec) W_enc + b_enc  (x W_enc + b_enc, where apply_b_dec_to_input is false)
    f = phi(z)  or, with rescale_acts_by_decoder_norm, phi(z n), n_i = ‖W_dec_i‖, and ŷ = (f / n) W_dec + b_dec

W_enc [D, F], W_dec [F, D]. A jumprelu's > is strict; a topk takes the k largest z and then max(z, 0). batchtopk folders
saved for training on hold one threshold for z n. `normalize_activations` may scale each token, or take a layer norm of
it (`dictionary/per_token.py`), before b_dec is subtracted, and undoes that at the end; transcoders do not undo it, so
that such ones are refused. A skip transcoder adds x W_skipᵀ, W_skip [E, D]. In checkpoints from before training ended x
was scaled, and the factor lies beside them; in what was saved at the end it is folded in. A transcoder does not
subtract b_dec, which is of its output. A key, value or tensor that is not known here may change what the SAE computes,
so it is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.files import B_ENC, CONFIG, WEIGHTS, longest
from unmix.dictionary.nonlinearities import AbsTopK, Gated, JumpRelu, Nonlinearity, Relu, TanhRelu, TopK
from unmix.errors import UserError
from unmix.hooknames import canonical
from unmix.interop.keys import Keys, asked, count, fact, text
from unmix.interop.measured import measured
from unmix.interop.normal import OWN, normal_form, not_negative
from unmix.interop.origin import Origin, Reading
from unmix.interop.saelens_keys import (
    AVERAGE,
    BATCH,
    NORMALIZED,
    PHI,
    SKIPPING,
    TRANSCODERS,
    USES_FEATURE_SCALE,
    is_old,
    k_of,
    read_config,
)
from unmix.interop.source import Source
from unmix.interop.tensors import scalar, take, transposed
from unmix.runlog import read_json

SCALER = "activation_scaler.json"  # in checkpoints of SAELens 6: what activations were multiplied by in training
FEATURE_SCALE = "scaling_factor"  # of SAELens before 6: f is multiplied by it, [F]
_THRESHOLD = "topk_threshold"
PROCESSED = ("center_writing_weights", "fold_ln")
_LAYER_NORMS = re.compile(r"gpt2|pythia", re.I)
"""Models, of those that files from before SAELens 3 are of, that have layer norms: centring leaves others alone."""


def is_here(source: Source) -> bool:
    """Whether it is a folder of SAELens, or ours."""
    return source.names.issuperset((CONFIG, WEIGHTS)) and source.file is None


def unfolded(folder: Path) -> bool:
    """Whether what the folder computes depends on a factor in a file beside the weights."""
    return (read_json(folder / SCALER) or {}).get("scaling_factor") is not None


def read(source: Source) -> Reading:
    """Raises `UserError` if it is not one that this version reads; nothing that changes the function is passed over."""
    keys, path = source.keys(CONFIG), source.folder / WEIGHTS
    config = read_config(keys)
    architecture = config["architecture"]
    scale = _unfolded_scale(source, keys, config)
    found = source.tensors(WEIGHTS)
    w = _tensors(keys, path, config, found)
    F = w["b_enc"].numel()
    phi = _nonlinearity(keys, config, F)
    if (scale_F := w.pop(FEATURE_SCALE, None)) is not None:
        _check_feature_scale(path, config, scale_F, F)
    sae, folded = normal_form(
        path,
        w,
        phi,
        transcoder=architecture in TRANSCODERS,
        centred=config["apply_b_dec_to_input"],
        rescaled=bool(config["rescale_acts_by_decoder_norm"]),
        scale_in=1.0 if scale is None else scale,
        per_token=NORMALIZED.get(config["normalize_activations"]),
        longest=longest(source.folder),
        called={"b_enc": B_ENC.get(architecture, "b_enc")},
    )
    _require_widths(keys, config, sae.width, sae.features, sae.W_dec.shape[1])
    if scale_F is not None and not bool((scale_F == 1).all()):  # s relu(z) = relu(s z), as s >= 0
        sae = sae.changed({"W_enc": sae.W_enc.detach() * scale_F, "b_enc": sae.b_enc.detach() * scale_F})
        folded += ("f is multiplied by scaling_factor",)
    return Reading(sae, _origin(keys, config, folded))


def _nonlinearity(keys: Keys, config: dict[str, Any], F: int) -> Nonlinearity:
    match PHI[config["architecture"]]:
        case "topk":
            return TopK(k_of(keys, config, F), weigh_by_norm=False)
        case "abstopk":
            return AbsTopK(k_of(keys, config, F), weigh_by_norm=False)
        case "jumprelu":
            return JumpRelu()
        case "gated":
            return Gated()
        case "tanh_relu":
            return TanhRelu()
    return Relu()


def _tensors(keys: Keys, path: Path, config: dict[str, Any], found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by our names, and the scale of the features if there is one."""
    architecture = config["architecture"]
    b_enc = B_ENC.get(architecture, "b_enc")
    own = () if architecture in BATCH else OWN.get(PHI[architecture], ())
    own = (*own, "W_skip") if architecture in SKIPPING else own
    of_batch = [_THRESHOLD] if architecture in BATCH else []
    w = take(
        path,
        found,
        ["W_enc", b_enc, "W_dec", "b_dec", *own],
        optional=[FEATURE_SCALE],
        ignored=of_batch,
        of=architecture,
    )
    w["b_enc"] = w.pop(b_enc)
    if "W_skip" in w:
        w["W_skip"] = transposed(w["W_skip"])
    if architecture in BATCH:
        theta = scalar(path, _THRESHOLD, found)
        if theta <= 0:
            raise UserError(
                f"{path} has {_THRESHOLD} = {theta:g}: it was not measured yet, so no token can be read by itself; "
                "take a later checkpoint"
            )
        w["threshold"] = torch.full_like(w["b_enc"], theta)
    if "threshold" in w:
        w["threshold"] = not_negative(w["threshold"])
    used = config[USES_FEATURE_SCALE]
    if used and FEATURE_SCALE not in w:
        raise UserError(f"{keys.path} says {keys.said(USES_FEATURE_SCALE)}, but {path} has no {FEATURE_SCALE}")
    return w


def _require_widths(keys: Keys, config: dict[str, Any], D: int, F: int, E: int) -> None:
    if (said := (config["d_in"], config["d_sae"])) != (D, F):
        raise UserError(f"{keys.path} says d_in, d_sae = {said!s:.80}, the weights are {(D, F)}")
    if config["architecture"] in TRANSCODERS and config.get("d_out", E) != E:
        raise UserError(f"{keys.path} says {keys.said('d_out')}, the weights are {E} wide at the output")


def _check_feature_scale(path: Path, config: dict[str, Any], scale_F: Tensor, F: int) -> None:
    """Raises `UserError` unless s relu(z) = relu(s z), and it is clear whether s is used."""
    if scale_F.shape != (F,):
        raise UserError(f"{path}: {FEATURE_SCALE} is {list(scale_F.shape)}, wanted is [{F}]")
    if bool((scale_F == 1).all()):
        return
    if not config[USES_FEATURE_SCALE]:
        raise UserError(
            f"{path} holds a {FEATURE_SCALE} that is not all 1, and {CONFIG} does not say that it is used; "
            f"set {USES_FEATURE_SCALE} to true there, or save the SAE without the tensor"
        )
    if bool((scale_F < 0).any()) or config["architecture"] != "standard":
        raise UserError(
            f"{path}: {FEATURE_SCALE} goes down to {scale_F.min():.3g} in an SAE with architecture "
            f"{config['architecture']}; only scales >= 0 of standard ones can be folded into the encoder"
        )


def _unfolded_scale(source: Source, keys: Keys, config: dict[str, Any]) -> float | None:
    """s, if the SAE acts on s·x: a checkpoint that SAELens 6 wrote before the end of training, with s beside it."""
    path = source.folder / SCALER
    found = source.keys(SCALER) if SCALER in source.names else Keys(path, {})
    scale, values = found.values.get("scaling_factor"), keys.values
    key = "normalize_activations"
    said = f"{keys.path} says {keys.said(key)}" if key in values else f"{keys.path} names no {key}"
    remedy = "take the SAE that was saved when training ended, which has it folded in"
    if found.values.get("has_whitening"):
        raise UserError(f"{path} says that x was whitened, which this version does not read; {remedy}")
    if config[key] not in AVERAGE:
        if scale is not None:
            raise UserError(f"{said}, but {path} beside it says scaling_factor = {scale!r:.60}; {remedy}")
        return None
    if scale is None:
        raise UserError(f"{said}, but the factor is not in the folder (scaling_factor in {SCALER}); {remedy}")
    factor = fact(scale)
    if factor is None or factor <= 0:
        raise UserError(f"{path} says {found.said('scaling_factor')}, which is not positive and finite; {remedy}")
    return factor


def _origin(keys: Keys, config: dict[str, Any], folded: tuple[str, ...]) -> Origin:
    inner = keys.values.get("metadata", {})
    facts = {**keys.values, **inner}
    ours, old = text(inner.get("unmix_version")), is_old(dict(keys.values))
    version = ours or text(facts.get("sae_lens_version")) or ("before 6" if old else None)
    hook = text(inner.get("unmix_hook")) or text(facts.get("hook_name")) or text(facts.get("hook_point"))
    hook = hook or text(facts.get("hf_hook_name"))
    hook_out = text(facts.get("hook_name_out")) or text(facts.get("hf_hook_name_out"))
    context = facts.get("context_size")
    kwargs = facts.get("model_from_pretrained_kwargs")
    processed = {p for p in PROCESSED if isinstance(kwargs, dict) and kwargs.get(p) is True}
    head = _head(facts.get("hook_head_index", facts.get("hook_point_head_index")))
    positions = _positions(facts.get("seqpos_slice"))
    notes: tuple[str, ...] = ()
    if head is not None:
        notes += (f"x is that of head {head} alone",)
    elif hook and ".hook_z" in hook:
        notes += ("x is what goes into the output projection of the attention, the heads side by side",)
    if positions is not None:
        notes += (f"trained on the positions {positions} of each sequence alone (seqpos_slice)",)
    if old and "hook_point" in keys.values and not isinstance(kwargs, dict):
        notes += (
            "written when SAELens loaded models with TransformerLens' processing: where the model has layer norms "
            "(GPT-2, Pythia), activations were centred (center_writing_weights), each token's mean subtracted",
        )
        processed |= {"center_writing_weights"} if _LAYER_NORMS.search(text(facts.get("model_name")) or "") else set()
    before = inner.get("converted_from")
    if isinstance(before, dict) and (form := text(before.get("format"))):
        notes += (f"converted from {form}, {text(before.get('architecture'))}",)
        said = before.get("notes")
        notes += tuple(filter(text, said)) if isinstance(said, list) else ()
    if config["architecture"] in TRANSCODERS and keys.values.get("apply_b_dec_to_input"):
        notes += ("apply_b_dec_to_input is passed over: b_dec of a transcoder is of its output",)
    if config["architecture"] in BATCH:
        notes += ("one threshold for all features, in place of the largest k·B of a batch",)
    mask = inner.get("mask")
    left_out = facts.get("exclude_special_tokens") or (isinstance(mask, dict) and mask.get("special_ids"))
    found = measured(keys.path.parent) if ours else None
    return Origin(
        format="unmix" if ours else "SAELens",
        architecture=config["architecture"],
        version=version,
        model=text(facts.get("model_name")),
        hook=canonical(hook) if hook else None,
        hook_out=canonical(hook_out) if hook_out else None,
        head=head,
        positions=positions,
        transcoder=config["architecture"] in TRANSCODERS,
        context=count(context),
        prepend_bos=facts["prepend_bos"] if isinstance(facts.get("prepend_bos"), bool) else None,
        without_special=bool(left_out),
        corpus=_corpus(inner) or text(facts.get("dataset_path")),
        training_tokens=count(facts.get("training_tokens", facts.get("total_training_tokens"))),
        step=count(inner.get("step")),
        asked=asked(facts.get("target_l0", config.get("k")), facts.get("l1", facts.get("l1_coefficient"))),
        metrics=found.numbers if found else {},
        metrics_of=found.of if found else None,
        l0=fact(facts.get("l0")),
        explained_variance=fact(facts.get("explained_variance")),
        processed=tuple(p for p in PROCESSED if p in processed),
        folded=folded,
        notes=tuple(dict.fromkeys(notes)),
    )


def _head(value: Any) -> int | None:
    """The number of a head, if it is one."""
    return value if type(value) is int else None


def _positions(value: Any) -> tuple[int | None, ...] | None:
    """The arguments of a slice of a sequence; None, if it is all of it, or no slice."""
    parts = tuple(value) if isinstance(value, list) else ()
    if not 0 < len(parts) <= 3 or any(part is not None and type(part) is not int for part in parts):
        return None
    taken = slice(*parts)
    return None if taken.start in (None, 0) and taken.stop is None and taken.step in (None, 1) else parts


def _corpus(inner: Mapping[str, Any]) -> str | None:
    """Where our recipe says that the text is from."""
    recipe = inner.get("unmix_recipe")
    corpus = recipe.get("corpus") if isinstance(recipe, dict) else None
    return text(corpus.get("source")) if isinstance(corpus, dict) else None
