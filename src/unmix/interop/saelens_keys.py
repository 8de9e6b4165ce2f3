"""`cfg.json` of SAELens, versions 1 to 6: which keys change the function, and by whose rules they are read.

Before version 6 the keys lie flat: `hook_point` for hook_name, `activation_fn_str` for activation_fn, booleans and null
for normalize_activations; and a topk SAE is called standard, with activation_fn topk and its k in
activation_fn_kwargs.
"""

from __future__ import annotations

import json
from typing import Any

from unmix.dictionary import files
from unmix.dictionary.files import ARCHITECTURES, OUR_TRANSCODERS
from unmix.dictionary.per_token import PerToken
from unmix.errors import UserError
from unmix.interop.keys import Keys

NORMALIZED: dict[Any, PerToken] = {theirs: T for T, theirs in files.PER_TOKEN.items() if T is not None}
"""normalize_activations -> what is done to each token on the way in, and undone on the way out."""
AVERAGE = ("expected_average_only_in", True)  # one factor for all of x, folded in when the training ends
USES_FEATURE_SCALE = "finetuning_scaling_factor"
TRANSCODERS = files.TRANSCODERS | OUR_TRANSCODERS
"""Those that SAELens knows, and what we call those that it does not."""
SKIPPING = frozenset(theirs for theirs in TRANSCODERS if theirs.endswith("skip_transcoder"))
"""Transcoders that add x W_skipᵀ."""
BATCH = ("batchtopk", "matryoshka_batchtopk")
"""Of folders saved for training on, with the threshold of the batches so far."""
PHI = {theirs: ours for ours, theirs in ARCHITECTURES.items()} | TRANSCODERS | dict.fromkeys(BATCH, "jumprelu")
"""architecture -> our nonlinearity."""
_CHOOSES = (*(theirs for theirs, ours in PHI.items() if ours in ("topk", "abstopk")), *BATCH)
NOT_READ = {
    "temporal": "it reads a whole sequence, and a dictionary one token",
    "matching_pursuit": "it has no encoder: features are found one after the other",
}
_NOT_UNDONE = "a transcoder of SAELens does that to x and does not undo it on y, as dictionaries of this version do"

READ: dict[str, tuple[Any, ...]] = {
    "architecture": tuple(PHI),
    "rescale_acts_by_decoder_norm": (False, True),
    "activation_fn": ("relu",),
    "activation_fn_str": ("relu",),
    "activation_fn_kwargs": ({}, None),
    "apply_b_dec_to_input": (True, False),
    "normalize_activations": ("none", False, None, *NORMALIZED, *AVERAGE),
    "reshape_activations": ("none", "hook_z"),  # hook_z: D is the heads side by side
    USES_FEATURE_SCALE: (False, None, True),
    "uses_scaling_factor": (False, None),  # its name in the first 3.x
}
"""Keys of cfg.json that change what the SAE computes, and their values that are read; the first is the default of
SAELens, for an absent key. `d_in`, `d_sae` and `d_out` are held against the weights."""

IGNORED = frozenset(
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
    jumprelu_sparsity_loss_mode jumprelu_ste_to_input jumprelu_tanh_scale l0_coefficient l0_warm_up_steps target_l0
    pre_act_loss_coefficient aux_loss_coefficient topk_threshold_lr matryoshka_widths use_matryoshka_aux_loss
    use_sparse_activations
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


def is_old(values: dict[str, Any]) -> bool:
    """Whether it is read by the rules from before version 6: SAELens takes it so unless it says 6 or more."""
    inner = values.get("metadata")
    said = [values.get("sae_lens_version"), inner.get("sae_lens_version") if isinstance(inner, dict) else None]
    majors = [v.split(".")[0] for v in said if isinstance(v, str)]
    return not any(major.isdigit() and int(major) >= 6 for major in majors)


def read_config(keys: Keys) -> dict[str, Any]:
    """Its keys with the defaults of absent ones, in the words of version 6.

    Raises `UserError` for a key or value that is not understood.
    """
    values, path = dict(keys.values), keys.path
    architecture = values.get("architecture", "standard")
    if isinstance(architecture, str) and architecture in NOT_READ:
        raise keys.refuse("architecture", NOT_READ[architecture])
    if is_old(values) and (k := _old_topk(values)) is not None:
        values |= {"architecture": "topk", "k": k, "activation_fn_kwargs": None}
        values |= {key: "relu" for key in ("activation_fn", "activation_fn_str") if key in values}
    for key, read in READ.items():
        if key in values and values[key] not in read:
            shown = ", ".join(json.dumps(value) for value in read)
            raise keys.refuse(key, f"this version reads {shown}: open it with the library that wrote it")
    of_its_own = {"k", "rescale_acts_by_decoder_norm", "d_out"}
    kept = {"k", "rescale_acts_by_decoder_norm"} if values.get("architecture") in _CHOOSES else set()
    kept |= {"d_out"} if values.get("architecture") in TRANSCODERS else set()
    known = READ.keys() | IGNORED | of_its_own
    known -= {key for key in of_its_own - kept if values.get(key)}
    keys.finish(known)
    for key in ("d_in", "d_sae"):
        if key not in values:
            raise UserError(f"{path} has no {key}, which SAELens writes; add it there if it is an SAE of SAELens")
    if values.get("architecture") in files.TRANSCODERS and values.get("normalize_activations") in NORMALIZED:
        raise keys.refuse("normalize_activations", _NOT_UNDONE)
    keys.inside("metadata")
    if "metadata" in values and "architecture" not in values:  # only SAELens < 6 left it out, for standard
        raise UserError(f"{path} has metadata but no architecture, which SAELens writes beside it; add it there")
    defaults = {key: read[0] for key, read in READ.items()}
    if values.get("architecture") in TRANSCODERS:
        values["apply_b_dec_to_input"] = False  # whatever it says: b_dec is of the output (SAELens#516)
    return defaults | values


def _old_topk(values: dict[str, Any]) -> Any:
    """k, where activation_fn says topk, whatever the architecture is called."""
    kwargs = values.get("activation_fn_kwargs")
    if values.get("activation_fn_str", values.get("activation_fn")) != "topk" or not isinstance(kwargs, dict):
        return None
    return kwargs["k"] if kwargs.keys() == {"k"} else None


def k_of(keys: Keys, config: dict[str, Any], F: int) -> int:
    """The k of a topk. Raises `UserError` unless it is whole, and no more than there are features."""
    k = config.get("k")
    if isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= F:
        said = keys.said("k") if "k" in keys.values else f'"k": {json.dumps(k)[:60]}'
        raise UserError(f"{keys.path} says {said} of {F} features; a topk SAE has a whole k from 1 to that")
    return k
