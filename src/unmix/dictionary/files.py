"""One SAE on disk, as SAELens lays it out: `cfg.json` and `sae_weights.safetensors`.

Tensors: W_enc [D, F], b_enc [F], W_dec [F, D], b_dec [D], float32, and those of the nonlinearity: `threshold` [F] of a
jumprelu; `b_gate` (b_enc), `r_mag`, `b_mag` [F] of a gated one. They open in sae-lens >= 6 with `SAE.load_from_disk`;
only the normalized SAE has an architecture that sae-lens does not know and refuses by name.
Training-only scaling must have been folded in (`fold_scaling`): what is saved acts on raw activations.

Folders that SAELens wrote, versions 1 to 6, are brought to the same form when they are read. A key, value or tensor
that is not known here may change what the SAE computes, so it is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import unmix
from unmix.dictionary.model import Dictionary, fold_scaling
from unmix.dictionary.nonlinearities import AbsTopK, Gated, JumpRelu, Nonlinearity, Relu, TanhRelu, TopK
from unmix.errors import UserError
from unmix.hooknames import transformer_lens
from unmix.runlog import write_json
from unmix.tensorfile import save_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = {
    "relu": "standard", "tanh_relu": "unmix_tanh_relu", "jumprelu": "jumprelu", "topk": "topk",
    "abstopk": "abstopk", "gated": "gated",
}  # fmt: skip
"""What a nonlinearity is called in cfg.json; a batchtopk is saved as a jumprelu."""
_FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
_OWN = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_mag")}
_B_ENC = {"gated": "b_gate"}
"""What SAELens calls b_enc, where it has another name."""
_FEATURE_SCALE = "scaling_factor"  # of SAELens before 6: f is multiplied by it, [F]
_USES_FEATURE_SCALE = "finetuning_scaling_factor"
_SCALER = "activation_scaler.json"  # in checkpoints of SAELens 6: what activations were multiplied by in training
_PER_TOKEN = "constant_norm_rescale"  # x √D / ||x|| on the way in, undone on the way out
_AVERAGE = ("expected_average_only_in", True)  # one factor for all of x, folded in when the training ends

_READ: dict[str, tuple[Any, ...]] = {
    "architecture": tuple(ARCHITECTURES.values()),
    "rescale_acts_by_decoder_norm": (False, True),
    "activation_fn": ("relu",),
    "activation_fn_str": ("relu",),
    "activation_fn_kwargs": ({}, None),
    "apply_b_dec_to_input": (True, False),
    "normalize_activations": ("none", False, None, _PER_TOKEN, *_AVERAGE),
    "reshape_activations": ("none", "hook_z"),  # hook_z: D is the heads side by side
    _USES_FEATURE_SCALE: (False, None, True),
    "uses_scaling_factor": (False, None),  # its name in the first 3.x
}
"""Keys of cfg.json that change what the SAE computes, and their values that are read; the first is the default of
SAELens, for an absent key. `d_in` and `d_sae` are held against the weights."""

_IGNORED = frozenset(
    """
    d_in d_sae dtype device metadata sae_lens_version sae_lens_training_version neuronpedia_id run_name seed verbose
    model_name model_class_name model_kwargs model_from_pretrained_kwargs hook_name hook_layer hook_head_index hook_eval
    hook_point hook_point_layer hook_point_head_index hook_point_eval
    dataset_path dataset_trust_remote_code is_dataset_tokenized streaming context_size prepend_bos seqpos_slice
    exclude_special_tokens use_chat_formatting disable_concat_sequences sequence_separator_token
    use_cached_activations cached_activations_path n_batches_in_buffer tokens_per_buffer
    store_batch_size store_batch_size_prompts train_batch_size train_batch_size_tokens training_tokens
    total_training_tokens finetuning_tokens finetuning_method from_pretrained_path resume resume_from_checkpoint
    n_batches_for_norm_estimate activations_mixing_fraction prefetch_llm_batches
    expansion_factor b_dec_init_method decoder_init_norm decoder_orthogonal_init decoder_heuristic_init
    decoder_heuristic_init_norm init_encoder_as_decoder_transpose normalize_sae_decoder noise_scale
    l1_coefficient lp_norm l1_warm_up_steps mse_loss_normalization scale_sparsity_penalty_by_decoder_norm
    jumprelu_init_threshold jumprelu_bandwidth use_ghost_grads
    adam_beta1 adam_beta2 lr lr_scheduler_name lr_warm_up_steps lr_end lr_decay_steps n_restart_cycles
    feature_sampling_window feature_sampling_method feature_reinit_scale resample_batches
    dead_feature_window dead_feature_threshold dead_feature_estimation_method
    act_store_device llm_device autocast autocast_lm compile_llm llm_compilation_mode compile_sae sae_compilation_mode
    n_eval_batches eval_batch_size_prompts n_checkpoints checkpoint_path save_final_checkpoint output_path logger
    log_to_wandb log_activations_store_to_wandb log_optimizer_state_to_wandb log_weights_to_wandb
    wandb_project wandb_id wandb_entity wandb_log_frequency eval_every_n_wandb_logs
    """.split()  # noqa: SIM905 (a literal takes a hundred lines)
)
"""Keys of SAELens, versions 1 to 6, that say how the SAE was trained and on what, not what it computes."""

_OTHER_LAYOUTS = {
    (CONFIG, "sae.safetensors"): "an SAE of sparsify",
    ("config.json", WEIGHTS): "an SAE of Language-Model-SAEs (OpenMOSS)",
    ("hyperparams.json",): "an SAE of Llama Scope",
    ("params.npz",): "an SAE of Gemma Scope",
    ("params.safetensors",): "an SAE of Gemma Scope 2",
    ("ae.pt",): "an SAE of dictionary_learning",
    ("config.yaml", "layer_0.safetensors"): "transcoders for circuit-tracer",
}
"""Files that give away a format that is not read."""


def save_sae(sae: Dictionary, folder: Path, *, model: str, hook: str, context: int, more: dict[str, Any]) -> None:
    """Write the folder. `more` is kept under the metadata (the run, the step, the coefficient …)."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture = ARCHITECTURES[sae.nonlinearity.name]
    names = {name: _B_ENC.get(architecture, name) if name == "b_enc" else name for name in sae.weights}
    save_tensors(folder / WEIGHTS, {names[name]: weight for name, weight in sae.weights.items()})
    write_json(
        folder / CONFIG,
        {
            "architecture": architecture,
            "d_in": sae.width,
            "d_sae": sae.features,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": _PER_TOKEN if sae.per_token_scaling else "none",
            "reshape_activations": "none",
            **_of_topk(sae),
            "metadata": {
                # readers of this format rebuild the metadata of anything older than 6.0.0, losing what is here
                "sae_lens_version": "6.0.0",
                "sae_lens_training_version": None,
                "unmix_version": unmix.__version__,
                "model_name": model,
                "hook_name": transformer_lens(hook),
                "hook_head_index": None,
                "context_size": context,
                "prepend_bos": True,
                "unmix_hook": hook,
                **more,
            },
        },
    )


def _of_topk(sae: Dictionary) -> dict[str, Any]:
    phi = sae.nonlinearity
    if not isinstance(phi, TopK | AbsTopK):
        return {}
    return {"k": phi.k, "rescale_acts_by_decoder_norm": phi.weigh_by_norm}


def load_sae(folder: str | Path) -> Dictionary:
    """The SAE in the folder, on the CPU, in float32: raw x [..., D] in, raw x̂ out.

    With `hook_z` in SAELens the last dimension is that of all heads side by side, [..., heads · width of a head].
    Raises `UserError` if it is not one that this version reads; nothing that changes the function is passed over.
    """
    folder = Path(folder)
    _require_sae_folder(folder)
    config = _read_config(folder)
    scale = _unfolded_scale(folder, config)
    w = _read_tensors(folder, config)
    gated = config["architecture"] == "gated"
    if config["apply_b_dec_to_input"]:  # z = (x - b_dec) W_enc + b_enc: one bias does both
        shift_F = w["b_dec"] @ w["W_enc"]
        w["b_enc"] = w["b_enc"] - shift_F
        if gated:
            w["b_mag"] = w["b_mag"] - w["r_mag"].exp() * shift_F
    if (scale_F := w.pop(_FEATURE_SCALE, None)) is not None:  # s relu(z) = relu(s z), as s >= 0
        w["W_enc"], w["b_enc"] = w["W_enc"] * scale_F, w["b_enc"] * scale_F
    phi = _nonlinearity(folder, config)
    if isinstance(phi, TopK | AbsTopK) and phi.weigh_by_norm:
        phi, w = phi.saved(w, 0.0)
    sae = Dictionary(w, phi, per_token_scaling=config["normalize_activations"] == _PER_TOKEN, longest=_longest(folder))
    return sae if scale is None else fold_scaling(sae, scale)


def _nonlinearity(folder: Path, config: dict[str, Any]) -> Nonlinearity:
    match config["architecture"]:
        case "topk" | "abstopk" as architecture:
            k = config.get("k")
            if isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= config["d_sae"]:
                raise UserError(
                    f"{folder / CONFIG} says {_said(config, 'k')} of {config['d_sae']} features; a topk SAE has a "
                    "whole k from 1 to that"
                )
            keeps = TopK if architecture == "topk" else AbsTopK
            return keeps(k, weigh_by_norm=config["rescale_acts_by_decoder_norm"])
        case "jumprelu":
            return JumpRelu()
        case "gated":
            return Gated()
        case "unmix_tanh_relu":
            return TanhRelu()
    return Relu()


def _require_sae_folder(folder: Path) -> None:
    """Raises `UserError`, which says what stands there instead, unless the folder holds the two files."""
    wanted = f"the folder that holds {CONFIG} and {WEIGHTS}"
    if not folder.exists():
        parts = folder.parts[:2]
        if len(parts) == 2 and all(re.fullmatch(r"\w[\w.-]*", part) for part in parts) and not Path(parts[0]).exists():
            raise UserError(
                f"there is no folder {folder}; it looks like an id on the Hugging Face hub: download it with "
                f"`hf download {'/'.join(parts)} --local-dir {parts[1]}`, then give {wanted}"
            )
        raise UserError(f"there is no folder {folder}; give {wanted}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give {wanted}")
    names = {path.name for path in folder.iterdir()}
    missing = [name for name in (CONFIG, WEIGHTS) if name not in names]
    if not missing:
        return
    lacks = f"{folder} is no SAELens folder: it has no {' and no '.join(missing)}"
    if "run.yaml" in names:
        raise UserError(f"{lacks}; it is an unmix run: give one of its checkpoints, members/NAME/step-000001000")
    for files, what in _OTHER_LAYOUTS.items():
        if names.issuperset(files):
            raise UserError(
                f"{lacks}; it looks like {what} ({' and '.join(files)}), which this version does not read: "
                "open it with the library that wrote it"
            )
    if inside := [path.parent for path in sorted(folder.glob(f"*/{CONFIG}")) if (path.parent / WEIGHTS).exists()]:
        raise UserError(f"{lacks}; give a folder inside it that has them, such as {inside[0]}")
    some = ", ".join(sorted(names)[:6]) + (", …" if len(names) > 6 else "")
    raise UserError(f"{lacks}; give one that has them (this one holds {some or 'nothing'})")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or cannot be read ({error}); copy or download it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it holds no object; copy or download it again")
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    """cfg.json with the defaults of absent keys. Raises `UserError` for a key or value that is not understood."""
    path = folder / CONFIG
    config = _read_object(path)
    for key, values in _READ.items():
        if key in config and config[key] not in values:
            read = ", ".join(json.dumps(value) for value in values)
            raise UserError(
                f"{path} says {_said(config, key)}; this version reads {read}: open it with the library that wrote it"
            )
    of_topk = {"k", "rescale_acts_by_decoder_norm"}
    known = _READ.keys() | _IGNORED | of_topk
    if config.get("architecture") not in ("topk", "abstopk"):
        known -= {key for key in of_topk if config.get(key)}
    if unknown := [key for key in config if key not in known]:
        raise UserError(
            f"{path} says {_said(config, unknown[0])}, which this version does not know; "
            "if it does not change what the SAE computes, remove it there"
        )
    for key in ("d_in", "d_sae"):
        if key not in config:
            raise UserError(f"{path} has no {key}, which SAELens writes; add it there if it is an SAE of SAELens")
    if not isinstance(config.get("metadata", {}), dict):
        raise UserError(f"{path} says {_said(config, 'metadata')}, which is no object; copy or download it again")
    if "metadata" in config and "architecture" not in config:  # only SAELens < 6 left it out, for standard
        raise UserError(f"{path} has metadata but no architecture, which SAELens writes beside it; add it there")
    return {key: values[0] for key, values in _READ.items()} | config


def _said(config: dict[str, Any], key: str) -> str:
    """`"key": value` as it stands in the file, cut short."""
    value = json.dumps(config[key])
    return f"{json.dumps(key)[:60]}: {value if len(value) <= 60 else value[:59] + '…'}"


def _read_tensors(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors by our names, and the scale of the features if there is one: float32, finite, of shapes that fit."""
    path, architecture = folder / WEIGHTS, config["architecture"]
    own, b_enc = _OWN.get(architecture, ()), _B_ENC.get(architecture, "b_enc")
    wanted = ["W_enc", b_enc, "W_dec", "b_dec", *own]
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged or cannot be read ({error}); copy or download it again") from None
    if missing := [name for name in wanted if name not in tensors]:
        raise UserError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(tensors))}")
    if extra := sorted(tensors.keys() - {*wanted, _FEATURE_SCALE}):
        raise UserError(
            f"{path} holds {', '.join(extra)}, which {config['architecture']} does not have: it is an SAE of another "
            "kind, or damaged; open it with the library that wrote it"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            raise UserError(f"{path}: {name} is {str(tensor.dtype).removeprefix('torch.')}; save it as float32")
        tensors[name] = tensor.float()
        if bad := int((~tensors[name].isfinite()).sum()):
            raise UserError(f"{path}: {bad:,} values of {name} are NaN or infinite; take another checkpoint")
    D, F = tensors["b_dec"].numel(), tensors[b_enc].numel()
    fitting = {"W_enc": (D, F), "W_dec": (F, D), "b_dec": (D,)} | dict.fromkeys((b_enc, *own), (F,))
    if any(tuple(tensors[name].shape) != shape for name, shape in fitting.items()):
        found = ", ".join(f"{name} {list(tensors[name].shape)}" for name in wanted)
        also = f", and [F] of {', '.join(own)}" if own else ""
        raise UserError(
            f"{path} has shapes that do not fit each other: {found}; wanted are [D, F], [F], [F, D], [D]{also}"
        )
    if (said := (config["d_in"], config["d_sae"])) != (D, F):
        raise UserError(f"{folder / CONFIG} says d_in, d_sae = {said}, the weights are {(D, F)}")
    _check_feature_scale(folder, config, tensors.get(_FEATURE_SCALE))
    if "threshold" in own:
        tensors["threshold"] = tensors["threshold"].clamp(min=0)  # SAELens' f is relu(z) [z > θ]: the same
    return {"b_enc" if name == b_enc else name: tensor for name, tensor in tensors.items()}


def _check_feature_scale(folder: Path, config: dict[str, Any], scale_F: Tensor | None) -> None:
    """Raises `UserError` unless s relu(z) = relu(s z), and it is clear whether s is used."""
    used, path = config[_USES_FEATURE_SCALE], folder / WEIGHTS
    if used and scale_F is None:
        raise UserError(
            f"{folder / CONFIG} says {_said(config, _USES_FEATURE_SCALE)}, but {path} has no {_FEATURE_SCALE}"
        )
    if scale_F is None:
        return
    if scale_F.shape != (config["d_sae"],):
        raise UserError(f"{path}: {_FEATURE_SCALE} is {list(scale_F.shape)}, wanted is [{config['d_sae']}]")
    if (scale_F == 1).all():
        return
    if not used:
        raise UserError(
            f"{path} holds a {_FEATURE_SCALE} that is not all 1, and {CONFIG} does not say that it is used; "
            f"set {_USES_FEATURE_SCALE} to true there, or save the SAE without the tensor"
        )
    if (scale_F < 0).any() or config["architecture"] != "standard":
        raise UserError(
            f"{path}: {_FEATURE_SCALE} goes down to {scale_F.min():.3g} in an SAE with architecture "
            f"{config['architecture']}; only scales >= 0 of standard ones can be folded into the encoder"
        )


def _unfolded_scale(folder: Path, config: dict[str, Any]) -> float | None:
    """s, if the SAE acts on s·x: a checkpoint that SAELens 6 wrote before the end of training, with s beside it."""
    path = folder / _SCALER
    found = _read_object(path) if path.exists() else {}
    scale, said = found.get("scaling_factor"), f"{folder / CONFIG} says {_said(config, 'normalize_activations')}"
    remedy = "take the SAE that was saved when training ended, which has it folded in"
    if found.get("has_whitening"):
        raise UserError(f"{path} says that x was whitened, which this version does not read; {remedy}")
    if config["normalize_activations"] not in _AVERAGE:
        if scale is not None:
            raise UserError(f"{said}, but {path} beside it says scaling_factor = {scale}; {remedy}")
        return None
    if scale is None:
        raise UserError(f"{said}, but the factor is not in the folder (scaling_factor in {_SCALER}); {remedy}")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not (0 < scale < math.inf):
        raise UserError(f"{path} says {_said(found, 'scaling_factor')}, which is not positive and finite; {remedy}")
    return float(scale)


def metadata(folder: Path) -> dict[str, Any]:
    """What cfg.json has under `metadata`; empty if there is nothing, or no file that can be read."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("metadata")
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _longest(folder: Path) -> float | None:
    """||x|| above which tokens were left out of training; `metadata.mask.longer_than`."""
    mask = metadata(folder).get("mask")
    found = mask.get("longer_than") if isinstance(mask, dict) else None
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not found > 0:
        raise UserError(f"{folder / CONFIG}: metadata.mask.longer_than = {found!r} is no norm; bring the file back")
    return float(found)


def origin(folder: Path) -> tuple[str, dict[str, Any]]:
    """The hook of an SAE that unmix trained, and the model, corpus and sequence length it was trained with.

    Raises `UserError` if the folder does not say: the held-out documents of another split may have been trained on.
    """
    found = metadata(folder)
    try:
        return found["unmix_hook"], found["unmix_recipe"]
    except KeyError:
        raise UserError(
            f"{folder / CONFIG} does not say what the SAE was trained on (metadata.unmix_hook, unmix_recipe); "
            "folders that unmix wrote do"
        ) from None
