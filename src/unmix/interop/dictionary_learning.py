"""dictionary_learning: `trainer_N/ae.pt` and `config.json`, after `unmix convert`.

    AutoEncoder               f = max(z, 0),             z = (x - bias) W_enc + b_enc
    AutoEncoderNew            f = max(z, 0),             z = x W_enc + b_enc
    GatedAutoEncoder          f = [u + b_gate > 0] max(exp(r) u + b_mag, 0),  u = (x - b_dec) W_enc
    JumpReluAutoEncoder       f = max(z, 0) [z > θ],     z = x W_enc + b_enc: b_dec is not subtracted
    AutoEncoderTopK           the k largest of max(z, 0), z = (x - b_dec) W_enc + b_enc; its threshold is not used
    BatchTopKSAE, Matryoshka… f = max(z, 0) [z > t], one t for all features; t < 0 means that it was never measured

Encoder [F, D] and decoder [D, F] of the classes made of two `nn.Linear` are turned. > is strict. Trainers bring x to
mean square D and fold that in when they save `ae.pt`; their backups, which hold the optimizer too, have not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import Gated, JumpRelu, Nonlinearity, Relu, TopK
from unmix.disk import replacing
from unmix.errors import UserError
from unmix.interop.keys import Keys, asked
from unmix.interop.normal import centred_biases, normal_form, not_negative, require_plain
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source
from unmix.interop.tensors import scalar, take, transposed
from unmix.runlog import write_json

CONFIG, WEIGHTS = "config.json", "ae.pt"
_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_FOUR = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_TOPK = ("k", "threshold")

CLASSES: dict[str, tuple[dict[str, str], tuple[str, ...], bool]] = {
    "AutoEncoder": (_LINEAR | {"bias": "b_dec"}, (), True),
    "AutoEncoderNew": (_LINEAR | {"decoder.bias": "b_dec"}, (), False),
    "GatedAutoEncoder": (
        {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec", "gate_bias": "b_enc"}
        | {"r_mag": "r_mag", "mag_bias": "b_mag"},
        (),
        True,
    ),
    "JumpReluAutoEncoder": (_FOUR | {"threshold": "threshold"}, (), False),
    "AutoEncoderTopK": (_LINEAR | {"b_dec": "b_dec"}, _TOPK, True),
    "BatchTopKSAE": (_LINEAR | {"b_dec": "b_dec"}, _TOPK, True),
    "MatryoshkaBatchTopKSAE": (_FOUR, (*_TOPK, "group_sizes"), True),
}
"""Class -> (its names and ours, what else it holds, whether b_dec is subtracted from x)."""

_IGNORED = frozenset(
    """
    trainer_class lr steps warmup_steps decay_start seed device layer lm_name wandb_name submodule_name
    l1_penalty sparsity_warmup_steps resample_steps bandwidth sparsity_penalty target_l0 sparsity_function lambda_p
    initial_sparsity_penalty p_start n_sparsity_updates sparsity_queue_length l0_penalty
    auxk_alpha threshold_beta threshold_start_step top_k_aux group_fractions group_weights group_sizes
    k_anneal_steps epsilon penalty
    """.split()  # noqa: SIM905
)
"""Keys of its trainers that say how it was trained, not what it computes."""


def is_here(source: Source) -> bool:
    """Whether it is a folder of dictionary_learning."""
    return source.has(CONFIG, WEIGHTS)


def read(source: Source) -> Reading:
    """Raises `UserError` for what is not one of its seven classes, or was saved before training ended."""
    path, config = source.folder / WEIGHTS, source.keys(CONFIG)
    trainer, buffer = config.inside("trainer"), config.inside("buffer")
    config.finish()
    kind = trainer.one_of("dict_class", (None, *CLASSES))
    if kind is None:
        raise UserError(f"{config.path} has no trainer.dict_class, which says what ae.pt computes")
    said = trainer.whole("activation_dim"), trainer.whole("dict_size")
    k = trainer.whole("k")
    trainer.finish(_IGNORED)
    found = _final(path, source.tensors(WEIGHTS))
    names, others, centred = CLASSES[kind]
    w = {names[name]: tensor for name, tensor in take(path, found, names, ignored=others, of=f"an {kind}").items()}
    if "encoder.weight" in names:
        w["W_enc"], w["W_dec"] = transposed(w["W_enc"]), transposed(w["W_dec"])
    if kind == "GatedAutoEncoder":
        w = {name: w[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "r_mag", "b_mag")}
    phi, notes = _nonlinearity(source, kind, w, found, k, trainer)
    dictionary, folded = normal_form(
        path, w, phi, centred=centred, called={ours: theirs for theirs, ours in names.items()}
    )
    D, F = dictionary.width, dictionary.features
    if any(number not in (None, is_) for number, is_ in zip(said, (D, F), strict=True)):
        raise UserError(f"{config.path} says activation_dim, dict_size = {said}, the weights are {(D, F)}")
    hook = _hook(trainer)
    if buffer.values.get("io", "out") != "out":
        notes += (f"{CONFIG} says {buffer.said('io')}: x is not the output of its module",)
        hook = None
    return Reading(
        dictionary,
        Origin(
            format="dictionary_learning",
            architecture=kind,
            model=trainer.text("lm_name"),
            hook=hook,
            context=buffer.whole("ctx_len"),
            prepend_bos=True,
            asked=asked(k or trainer.values.get("target_l0"), trainer.values.get("l1_penalty")),
            l0=float(k) if k is not None else None,
            folded=folded,
            notes=notes,
        ),
    )


KINDS = {
    "relu": "AutoEncoderNew", "jumprelu": "JumpReluAutoEncoder", "topk": "AutoEncoderTopK", "gated": "GatedAutoEncoder",
}  # fmt: skip
"""Nonlinearity -> the class that it is written as."""


def write(sae: Dictionary, made: Origin, folder: Path) -> None:
    """`ae.pt` and `config.json`, for its `load_dictionary`. Raises `UserError` for what none of its classes can be."""
    require_plain(sae, KINDS, "dictionary_learning", made.transcoder)
    phi, kind, w = sae.nonlinearity, KINDS[sae.nonlinearity.name], sae.weights
    names, _, centred = CLASSES[kind]
    if centred:
        w |= centred_biases(sae)
    if "encoder.weight" in names:
        w |= {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T}
    state = {theirs: w[ours].contiguous().clone() for theirs, ours in names.items()}
    trainer: dict[str, Any] = {
        "dict_class": kind,
        "activation_dim": sae.width,
        "dict_size": sae.features,
        "device": "cpu",
    }
    if isinstance(phi, TopK):
        state |= {"k": torch.tensor(phi.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
        trainer["k"] = phi.k
    layer, named = _submodule(made.hook or "")
    trainer |= {"lm_name": made.model, "layer": layer, "submodule_name": named or made.hook}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as new:
        torch.save(state, new)
    buffer = {"d_submodule": sae.width, "io": "out", "ctx_len": made.context}
    write_json(folder / CONFIG, {"trainer": trainer, "buffer": buffer})


def _final(path: Any, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state_dict. Raises `UserError` for a backup, which acts on x divided by a factor that it holds beside it."""
    if "ae" in found and "optimizer" in found:
        raise UserError(
            f"{path} is a backup made during training (it holds {', '.join(sorted(found)[:6])}), whose x was scaled; "
            "take the ae.pt that was saved at the end, which acts on x as it is"
        )
    return found


def _nonlinearity(
    source: Source, kind: str, w: dict[str, Tensor], found: Mapping[str, Any], k: int | None, trainer: Keys
) -> tuple[Nonlinearity, tuple[str, ...]]:
    """(phi, notes); the threshold is put among the weights."""
    path = source.folder / WEIGHTS
    match kind:
        case "GatedAutoEncoder":
            return Gated(), ()
        case "JumpReluAutoEncoder":
            w["threshold"] = not_negative(w["threshold"])
            return JumpRelu(), ()
        case "AutoEncoderTopK":
            stored = scalar(path, "k", found)
            if not 0 < stored <= w["b_enc"].numel() or stored != int(stored):
                raise UserError(f"{path} says k = {stored:g} of {w['b_enc'].numel()} features; it is damaged")
            if k not in (None, int(stored)):
                raise UserError(f"{trainer.path} says {trainer.said('k')}, {path} has k = {stored:g}")
            return TopK(int(stored), weigh_by_norm=False), ()
        case "BatchTopKSAE" | "MatryoshkaBatchTopKSAE":
            threshold = scalar(path, "threshold", found)
            if threshold < 0:
                raise UserError(
                    f"{path} has threshold = {threshold:g}: it was never measured, so no token can be read by itself; "
                    "take a checkpoint from after its threshold_start_step"
                )
            w["threshold"] = torch.full_like(w["b_enc"], threshold)
            return JumpRelu(), ("one threshold for all features, in place of the largest k·B of a batch",)
    return Relu(), ()


def _hook(trainer: Keys) -> str | None:
    """`resid_post_layer_3` -> resid_post.3, and `mlp_out_layer_3` -> blocks.3.mlp.hook_out: its buffers read what a
    module gives, before a norm that may stand behind it. The name is free text, so nothing else is taken for a hook.
    """
    named = trainer.text("submodule_name")
    found = re.fullmatch(r"(resid_pre|resid_post|attn_out|mlp_out)_layer_(\d+)", named or "")
    if found and found[1] in _MODULES:
        return f"blocks.{found[2]}.{_MODULES[found[1]]}.hook_out"
    return f"{found[1]}.{found[2]}" if found else named


_MODULES = {"attn_out": "attn", "mlp_out": "mlp"}


def _submodule(hook: str) -> tuple[int | None, str | None]:
    """(its layer, its name there) of a place; None for what it has no name for, such as what a block adds."""
    if ours := re.fullmatch(r"(resid_pre|resid_post|attn_out|mlp_out)\.(\d+)", hook):
        return int(ours[2]), None if ours[1] in _MODULES else f"{ours[1]}_layer_{ours[2]}"
    if module := re.fullmatch(r"blocks\.(\d+)\.(attn|mlp)\.hook_out", hook):
        return int(module[1]), f"{module[2]}_out_layer_{module[1]}"
    return None, None
