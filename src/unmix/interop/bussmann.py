"""Bart Bussmann's BatchTopK repository: `config.json` and `sae.pt`, after `unmix convert`.

    vanilla    f = max(z, 0),              z = (x - b_dec) W_enc + b_enc
    jumprelu   f = max(z, 0) [z > θ],      z = x W_enc + b_enc,  θ = exp(jumprelu.log_threshold)
    topk       the k largest of max(z, 0), z = (x - b_dec) W_enc: b_enc is there, and not used

W_enc [D, F], W_dec [F, D]. batchtopk keeps the largest k·B of a batch and stores no threshold, so that no token can be
read by itself. With `input_unit_norm` x is the layer norm of each token (`dictionary/per_token.py`), undone at the end;
early versions of that code (3ce6538) add the normalized x in place of μ, and their configurations are refused by keys
that only they have (use_encoder_bias).
"""

from __future__ import annotations

from unmix.dictionary.nonlinearities import JumpRelu, Nonlinearity, Relu, TopK
from unmix.dictionary.per_token import LayerNorm
from unmix.errors import UserError
from unmix.interop.keys import asked, count
from unmix.interop.normal import normal_form
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source, hook_named
from unmix.interop.tensors import take

CONFIG, WEIGHTS = "config.json", "sae.pt"
FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
_LOG = "jumprelu.log_threshold"
_IGNORED = frozenset(
    """
    seed batch_size lr num_tokens l1_coeff beta1 beta2 max_grad_norm seq_len dtype model_name model_dtype site layer
    device model_batch_size num_batches_in_buffer dataset_path wandb_project n_batches_to_dead perf_log_freq
    checkpoint_freq top_k_aux aux_penalty bandwidth hook_point name k_percentage
    """.split()  # noqa: SIM905
)


def is_here(source: Source) -> bool:
    """Whether it is a folder of that repository."""
    return source.has(CONFIG, WEIGHTS)


def read(source: Source) -> Reading:
    """Raises `UserError` for batchtopk."""
    path, keys = source.folder / WEIGHTS, source.keys(CONFIG)
    kind = keys.one_of(
        "sae_type",
        ("vanilla", "topk", "jumprelu"),
        "batchtopk keeps the largest of a batch and stores no threshold: reading it needs one measured",
    )
    if not keys.has("sae_type"):
        raise UserError(f"{keys.path} has no sae_type, which says what sae.pt computes")
    T = LayerNorm() if keys.one_of("input_unit_norm", (False, None, True)) else None
    said, k = (keys.whole("act_size"), keys.whole("dict_size")), keys.whole("top_k")
    keys.finish(_IGNORED)
    found = source.tensors(WEIGHTS)
    own = (_LOG,) if kind == "jumprelu" else ()
    w = take(path, found, (*FOUR, *own), of=f"a {kind} SAE of that repository")
    phi: Nonlinearity = Relu()
    notes: tuple[str, ...] = ()
    if kind == "jumprelu":
        w["threshold"], phi = w.pop(_LOG).exp(), JumpRelu()
    elif kind == "topk":
        if k is None or k > w["b_enc"].numel():
            raise UserError(f"{keys.path} says no top_k that {w['b_enc'].numel()} features can have")
        if bool((w["b_enc"] != 0).any()):
            raise UserError(f"{path}: b_enc is not 0, and versions of that code differ in whether a topk SAE uses it")
        phi = TopK(k, weigh_by_norm=False)
    sae, folded = normal_form(path, w, phi, centred=kind != "jumprelu", per_token=T)
    if any(number not in (None, is_) for number, is_ in zip(said, (sae.width, sae.features), strict=True)):
        raise UserError(f"{keys.path} says act_size, dict_size = {said}, the weights are {sae.width, sae.features}")
    return Reading(
        sae,
        Origin(
            format="BatchTopK repository",
            architecture=kind,
            model=keys.text("model_name"),
            hook=hook_named(keys.text("hook_point")),
            context=keys.whole("seq_len"),
            corpus=keys.text("dataset_path"),
            training_tokens=count(keys.values.get("num_tokens")),
            asked=asked(k if kind == "topk" else None, keys.values.get("l1_coeff")),
            l0=float(k) if kind == "topk" and k else None,
            folded=folded,
            notes=notes,
        ),
    )
