"""One dictionary on disk, as SAELens lays it out: `cfg.json` and `sae_weights.safetensors`.

Tensors: W_enc [D, F], b_enc [F], W_dec [F, E], b_dec [E], float32, and those of the nonlinearity: `threshold` [F] of a
jumprelu; `b_gate` (b_enc), `r_mag`, `b_mag` [F] of a gated one. They open in sae-lens >= 6 with `SAE.load_from_disk`;
only the normalized SAE, and transcoders that are neither relu nor jumprelu, have an architecture that sae-lens does not
know and refuses by name. Training-only scaling must have been folded in (`fold_scaling`): what is saved acts on raw
activations. `unmix.interop.load` reads these folders, and those of others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import unmix
from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import AbsTopK, TopK
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
TRANSCODERS = {phi: f"unmix_{phi}_transcoder" for phi in ARCHITECTURES} | {
    "relu": "transcoder", "jumprelu": "jumprelu_transcoder",
}  # fmt: skip
"""What it is called where y is not x; SAELens knows two."""
B_ENC = {"gated": "b_gate", "unmix_gated_transcoder": "b_gate"}
"""What SAELens calls b_enc, where it has another name."""
_PER_TOKEN = "constant_norm_rescale"  # x √D / ||x|| on the way in, undone on the way out


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
) -> None:
    """Write the folder. `more` is kept under the metadata (the run, the step, the coefficient …).

    None: it is not known. `transcoder`: ŷ is not x̂ but what `hook_out` gives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    phi = sae.nonlinearity
    architecture = (TRANSCODERS if transcoder else ARCHITECTURES)[phi.name]
    names = {name: B_ENC.get(architecture, name) if name == "b_enc" else name for name in sae.weights}
    save_tensors(folder / WEIGHTS, {names[name]: weight for name, weight in sae.weights.items()})
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
            "normalize_activations": _PER_TOKEN if sae.per_token_scaling else "none",
            "reshape_activations": "none",
            **of_topk,
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


def metadata(folder: Path) -> dict[str, Any]:
    """What cfg.json has under `metadata`; empty if there is nothing, or no file that can be read."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("metadata")
    except (OSError, ValueError, AttributeError):
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
