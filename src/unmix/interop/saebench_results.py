"""An evaluation of ours as SAEBench (0.6.0, evals/core/eval_output.py) writes its own: its plots read both.

    FOLDER/core/NAME_custom_sae_eval_results.json          one dictionary each; its reader wants `core` in the path

    explained_variance              1 - Σ‖ŷ - y‖² / Σ‖y - μ‖², sums over all tokens, one μ
    ce_loss_score, kl_div_score     (CE_0 - CE_sae) / (CE_0 - CE), 1 - KL_sae / KL_0; 0: zeros in the place of y
    cossim, l2_ratio                means of cosine and of ‖ŷ‖ / ‖y‖; relative_reconstruction_bias Σ‖ŷ‖² / Σ y·ŷ
    l0, l1                          means of #{f_i ≠ 0}, Σ |f_i| ‖W_dec_i‖, which is its Σ f_i for rows of length 1
    -1                              not measured (`eval_result_unstructured.not_measured`), as it writes where it is not

SAEBench's own explained_variance divides by another variance, which is about 0 and not about μ: predicting μ scores
above 0 there. Compare those with ours on one definition only; `eval_result_unstructured` says which this is.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import unmix
from unmix.dictionary.files import metadata
from unmix.errors import UserError
from unmix.interop.card import without_paths
from unmix.interop.load import read
from unmix.interop.saebench import config_of
from unmix.runlog import write_json

EVALUATION = "evaluation.json"
NOT_MEASURED = -1
EXPLAINED = "1 - Σ‖ŷ - y‖² / Σ‖y - μ‖²: sums over all tokens, μ their mean; predicting μ scores 0"
_NOT_IN_A_NAME = re.compile(r"[^\w.,+-]+")
TYPE, ENDING = "core", "_custom_sae_eval_results.json"


def write_results(found: Mapping[str, Any], paths: Mapping[str, Path], milliseconds: int, folder: Path) -> list[Path]:
    """Write a file for each dictionary of an `evaluation.json`; answers their paths.

    `paths`: where the dictionaries are, by their names there; `milliseconds`: when it was evaluated, since 1970. Raises
    `UserError` for one that is not read.
    """
    written = []
    for result in found["hooks"]:
        for name in result["saes"]:
            path = folder / TYPE / f"{_NOT_IN_A_NAME.sub('_', name)}{ENDING}"
            if path in written:
                raise UserError(f"{name} and another would both be {path.name}; give folders with other names")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, _results(found, result, name, paths[name], milliseconds))
            written.append(path)
    return written


def _results(
    found: Mapping[str, Any], result: Mapping[str, Any], name: str, at: Path, milliseconds: int
) -> dict[str, Any]:
    """The file of one dictionary."""
    row = result["saes"][name]
    sae, origin = read(at, pickles=True)
    metrics, missing = _filled(_metrics(result, row))
    T = _sequence_length(result)
    about = {
        "written_by": f"unmix {unmix.__version__}",
        "explained_variance": EXPLAINED,
        "not_measured": missing,
        "split": result["split"],
        "mask": result["mask"],
        "corpus_fingerprint": result.get("corpus_fingerprint"),
        "model_fingerprint": result.get("model_fingerprint"),
        "delta_ce": row.get("delta_ce"),
        "delta_ce_standard_error": row.get("delta_ce_standard_error"),
    }
    config = config_of(
        sae,
        model=str(found["model"]),
        hook=result.get("hook_in", result["hook"]),
        context=T,
        training_tokens=int(metadata(at).get("training_tokens") or -1),
        transcoder=origin.transcoder,
    )
    config.prepend_bos = bool(result.get("prepend_bos", True))
    facts = without_paths(
        {
            "eval_config": {
                "model_name": str(found["model"]),
                "llm_dtype": "float32",
                "batch_size_prompts": 1,
                "n_eval_reconstruction_batches": result.get("ce_sequences", 0),
                "n_eval_sparsity_variance_batches": -(-row["tokens"] // max(1, T - 1)),
                "dataset": str(found["corpus"]),
                "context_size": T,
                "compute_kl": "kl" in row,
                "compute_ce_loss": "ce" in row,
                "compute_l2_norms": True,
                "compute_sparsity_metrics": True,
                "compute_variance_metrics": True,
                "compute_featurewise_density_statistics": True,
                "compute_featurewise_weight_based_metrics": True,
                "exclude_special_tokens_from_reconstruction": True,
                "verbose": False,
            },
            "datetime_epoch_millis": milliseconds,
            "eval_result_metrics": metrics,
            "eval_result_details": [],
            "eval_type_id": TYPE,
            "sae_bench_commit_hash": f"none: evaluated by unmix {unmix.__version__}",
            "sae_lens_id": "custom_sae",
            "sae_lens_release_id": name,
            "sae_lens_version": None,
            "sae_cfg_dict": config.to_dict(),
            "eval_result_unstructured": about,
        }
    )
    return {"eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(facts, sort_keys=True))), **facts}


def _metrics(result: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """By SAEBench's groups and names; None: not measured, or without meaning."""
    zero = result["baselines"].get("zero", {})
    kl, kl_zero = row.get("kl"), zero.get("kl")
    return {
        "model_behavior_preservation": {
            "kl_div_score": 1 - kl / kl_zero if kl is not None and kl_zero else None,
            "kl_div_with_ablation": kl_zero,
            "kl_div_with_sae": kl,
        },
        "model_performance_preservation": {
            "ce_loss_score": row.get("loss_recovered_zero"),
            "ce_loss_with_ablation": zero.get("ce"),
            "ce_loss_with_sae": row.get("ce"),
            "ce_loss_without_sae": result.get("ce_untouched"),
        },
        "reconstruction_quality": {
            "explained_variance": row["explained_variance"],
            "explained_variance_legacy": None,
            "mse": None,
            "cossim": row["cosine"],
        },
        "shrinkage": {
            "l2_norm_in": None,
            "l2_norm_out": None,
            "l2_ratio": row["norm_ratio"],
            "relative_reconstruction_bias": row["reconstruction_bias"],
        },
        "sparsity": {"l0": row["l0"], "l1": row["l1"]},
        "token_stats": {
            "total_tokens_eval_reconstruction": result.get("ce_tokens", 0),
            "total_tokens_eval_sparsity_variance": row["tokens"],
        },
        "misc_metrics": {
            "freq_over_1_percent": row["above_1_percent"],
            "freq_over_10_percent": row["above_10_percent"],
            "normalized_freq_over_1_percent": None,
            "normalized_freq_over_10_percent": None,
            "average_max_encoder_cosine_sim": None,
            "average_max_decoder_cosine_sim": row["max_decoder_cosine_mean"],
            "frac_alive": 1 - row["dead"],
        },
    }


def _filled(groups: Mapping[str, Mapping[str, float | None]]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """(the groups with -1 where nothing was measured, the names of those)."""
    missing = [
        name
        for group in groups.values()
        for name, value in group.items()
        if value is None or value != value  # NaN
    ]
    filled = {
        group: {name: NOT_MEASURED if name in missing or value is None else value for name, value in of.items()}
        for group, of in groups.items()
    }
    return filled, missing


def _sequence_length(result: Mapping[str, Any]) -> int:
    """T. Evaluations of before did not say: a sequence holds T - 2 predictions (none at position 0 and at the end)."""
    if "sequence_length" in result:
        return int(result["sequence_length"])
    sequences = result.get("ce_sequences", 0)
    return int(result["ce_tokens"] // sequences + 2) if sequences else 0
