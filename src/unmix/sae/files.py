"""One SAE on disk, as SAELens lays it out: `cfg.json` and `sae_weights.safetensors`.

Tensors: W_enc [D, F], b_enc [F], W_dec [F, D], b_dec [D], float32. A relu SAE opens in sae-lens >= 6 with
`SAE.load_from_disk`; the normalized SAE has an architecture that sae-lens does not know and refuses by name.
Training-only scaling must have been folded in (`fold_scaling`): what is saved acts on raw activations.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import unmix
from unmix.errors import UserError
from unmix.runlog import write_json
from unmix.sae.model import SAE
from unmix.tensorfile import save_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = {"relu": "standard", "tanh_relu": "unmix_tanh_relu"}
_PER_TOKEN = "constant_norm_rescale"  # x √D / ||x|| on the way in, undone on the way out
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


def save_sae(sae: SAE, folder: Path, *, model: str, hook: str, context: int, more: dict[str, Any]) -> None:
    """Write the folder. `more` is kept under the metadata (the run, the step, the coefficient …)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, {name: getattr(sae, name) for name in _TENSORS})
    write_json(
        folder / CONFIG,
        {
            "architecture": ARCHITECTURES[sae.nonlinearity],
            "d_in": sae.width,
            "d_sae": sae.features,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": _PER_TOKEN if sae.per_token_scaling else "none",
            "reshape_activations": "none",
            "metadata": {
                # readers of this format rebuild the metadata of anything older than 6.0.0, losing what is here
                "sae_lens_version": "6.0.0",
                "sae_lens_training_version": None,
                "unmix_version": unmix.__version__,
                "model_name": model,
                "hook_name": transformer_lens_hook(hook),
                "hook_head_index": None,
                "context_size": context,
                "prepend_bos": True,
                "unmix_hook": hook,
                **more,
            },
        },
    )


def load_sae(folder: str | Path) -> SAE:
    """The SAE in the folder, on the CPU. Raises `UserError` if it is not one that this version reads."""
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise UserError(f"{folder} is no SAE folder: it has no {name}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except (ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder} is damaged: {error}") from None
    nonlinearity = {name: phi for phi, name in ARCHITECTURES.items()}.get(config.get("architecture"))
    if nonlinearity is None:
        known = ", ".join(ARCHITECTURES.values())
        raise UserError(f"{folder} holds architecture {config.get('architecture')!r}; this version reads {known}")
    for key, values in {"normalize_activations": ("none", _PER_TOKEN), "reshape_activations": ("none",)}.items():
        if config.get(key, "none") not in values:
            raise UserError(
                f"{folder} wants {key} = {config[key]!r} at run time; this version reads {' and '.join(values)}"
            )
    if missing := [name for name in _TENSORS if name not in tensors]:
        raise UserError(f"{folder / WEIGHTS} lacks {', '.join(missing)}")
    F, D = tensors["W_dec"].shape if tensors["W_dec"].ndim == 2 else (0, 0)
    shapes = [tuple(tensors[name].shape) for name in _TENSORS]
    if shapes != [(D, F), (F,), (F, D), (D,)]:
        raise UserError(f"{folder / WEIGHTS} has shapes that do not fit each other: {shapes}")
    per_token = config.get("normalize_activations") == _PER_TOKEN
    sae = SAE(
        *(tensors[name].float() for name in _TENSORS),
        nonlinearity=nonlinearity,
        per_token_scaling=per_token,
        longest=_longest(folder),
    )
    if config.get("apply_b_dec_to_input"):
        with torch.no_grad():  # z = (x - b_dec) W_enc + b_enc: one bias does both
            sae.b_enc.sub_(sae.b_dec @ sae.W_enc)
    return sae


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
    return float(found) if isinstance(found, (int, float)) else None


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


def transformer_lens_hook(hook: str) -> str:
    """`resid_post.3` -> `blocks.3.hook_resid_post`, the name that other SAE tools use; module paths stay."""
    found = re.fullmatch(r"(resid_pre|resid_post|attn_out|mlp_out)\.(\d+)", hook)
    return f"blocks.{found[2]}.hook_{found[1]}" if found else hook
