"""One dictionary on disk, as SAELens lays it out: `cfg.json` and `sae_weights.safetensors`.

Tensors: W_enc [D, F], b_enc [F], W_dec [F, E], b_dec [E], float32, and those of the nonlinearity: `threshold` [F] of a
jumprelu; `b_gate` (b_enc), `r_mag`, `b_mag` [F] of a gated one; `W_skip` [E, D] of a skip transcoder, which is turned.
They open in sae-lens >= 6 with `SAE.load_from_disk`; only the normalized SAE, and transcoders that are neither relu nor
jumprelu or that undo on y what is done to each token of x, have an architecture that sae-lens does not know and refuses
by name. Training-only scaling must have been folded in (`fold_scaling`): what is saved acts on raw activations. Beside
them stand sample activations and their codes (`samples`). `unmix.interop.load` reads these folders, and those of
others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

import unmix
from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import AbsTopK, TopK
from unmix.dictionary.per_token import ByLength, LayerNorm, PerToken
from unmix.dictionary.samples import save_samples
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
_MAPS = ("transcoder", "skip_transcoder")
TRANSCODERS = {"transcoder": "relu", "jumprelu_transcoder": "jumprelu"} | {
    "skip_transcoder": "relu", "jumprelu_skip_transcoder": "jumprelu"
}  # fmt: skip
"""Those that SAELens knows, and what their nonlinearity is. It does not undo on y what it does to each token of x."""
OUR_TRANSCODERS = {f"unmix_{phi}_{what}": phi for phi in ARCHITECTURES for what in _MAPS}
"""Those that it does not know, and those that undo it."""
B_ENC = dict.fromkeys(("gated", *(f"unmix_gated_{what}" for what in _MAPS)), "b_gate")
"""What SAELens calls b_enc, where it has another name."""
PER_TOKEN: dict[PerToken | None, str] = {None: "none", ByLength(): "constant_norm_rescale", LayerNorm(): "layer_norm"}
"""`normalize_activations`, for what is done to each token."""


def save_sae(
    sae: Dictionary,
    folder: Path,
    *,
    model: str | None,
    hook: str | None,
    context: int | None,
    more: dict[str, Any],
    hook_out: str | None = None,
    transcoder: bool = False,
    samples: Tensor | None = None,
    l1_coefficient: float | None = None,
) -> None:
    """Write the folder. `more` is kept under the metadata (the run, the step, the coefficient …).

    None: it is not known. `transcoder`: ŷ is not x̂ but what `hook_out` gives; with a W_skip it always is.
    `samples`: raw activations [B, D] to keep 64 of, with what it answers to them; drawn ones, if not given.
    `l1_coefficient`: λ of a loss ‖x̂ - x‖² + λ Σ f_i ‖W_dec_i‖ of raw x, which SAELens trains on with; left out if none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    phi = sae.nonlinearity
    transcoder = transcoder or sae.skip is not None
    architecture = architecture_of(sae, transcoder)
    names = {name: B_ENC.get(architecture, name) if name == "b_enc" else name for name in sae.weights}
    turned = {name: weight.T if name == "W_skip" else weight for name, weight in sae.weights.items()}
    save_tensors(folder / WEIGHTS, {names[name]: weight for name, weight in turned.items()})
    save_samples(sae, folder, samples)
    of_topk = {"k": phi.k, "rescale_acts_by_decoder_norm": phi.weigh_by_norm} if isinstance(phi, TopK | AbsTopK) else {}
    of_transcoder = {"d_out": sae.W_dec.shape[1]} if transcoder else {}
    out = {"hook_name_out": transformer_lens(hook_out) if hook_out else None} if transcoder else {}
    write_json(
        folder / CONFIG,
        {
            "architecture": architecture,
            "d_in": sae.width,
            "d_sae": sae.features,
            **of_transcoder,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": PER_TOKEN[sae.per_token],
            "reshape_activations": _reshaped(hook, transcoder, more),
            **of_topk,
            **({} if l1_coefficient is None else {"l1_coefficient": l1_coefficient}),
            "metadata": {
                # readers of this format rebuild the metadata of anything older than 6.0.0, losing what is here
                "sae_lens_version": "6.0.0",
                "sae_lens_training_version": None,
                "unmix_version": unmix.__version__,
                "model_name": model,
                "hook_name": transformer_lens(hook) if hook else None,
                **out,
                "hook_head_index": None,
                "context_size": context,
                "prepend_bos": True,
                "unmix_hook": hook,
                **more,
            },
        },
    )


def _reshaped(hook: str | None, transcoder: bool, more: dict[str, Any]) -> str:
    """`reshape_activations`. With `hook_z` an SAE of SAELens takes x [..., heads, width of a head], which is what
    TransformerLens has there, and puts the heads side by side; a transcoder, or one of a single head, does not.
    """
    whole = not transcoder and more.get("hook_head_index") is None
    return "hook_z" if whole and hook is not None and hook.endswith(".hook_z") else "none"


def architecture_of(sae: Dictionary, transcoder: bool) -> str:
    """What it is called in cfg.json."""
    if not transcoder:
        return ARCHITECTURES[sae.nonlinearity.name]
    what = "transcoder" if sae.skip is None else "skip_transcoder"
    theirs = {"relu": what, "jumprelu": f"jumprelu_{what}"} if sae.per_token is None else {}
    return theirs.get(sae.nonlinearity.name, f"unmix_{sae.nonlinearity.name}_{what}")


def metadata(folder: Path) -> dict[str, Any]:
    """What cfg.json has under `metadata`; empty if there is nothing, or no file that can be read."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("metadata")
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def longest(folder: Path) -> float | None:
    """||x|| above which tokens were left out of training; `metadata.mask.longer_than`.

    Raises `UserError` if it is no norm.
    """
    mask = metadata(folder).get("mask")
    found = mask.get("longer_than") if isinstance(mask, dict) else None
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found <= sys.float_info.max:
        shown = f"{found!r:.60}"
        raise UserError(f"{folder / CONFIG}: metadata.mask.longer_than = {shown} is no norm; bring the file back")
    return float(found)


def hook_of(folder: Path) -> str:
    """The hook of an SAE that unmix trained. Raises `UserError` if the folder does not say."""
    try:
        return str(metadata(folder)["unmix_hook"])
    except KeyError:
        raise UserError(
            f"{folder / CONFIG} does not say which hook the SAE was trained on (metadata.unmix_hook); folders that "
            "unmix wrote do"
        ) from None


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
