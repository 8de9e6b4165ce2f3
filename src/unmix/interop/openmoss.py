"""OpenMOSS' Language-Model-SAEs: Llama Scope (arXiv 2410.20526), its R1-Distill, and the folders of today.

Llama Scope, in the order of operations of OpenMOSS' own reader (`from_config`), s = √D / norm of each side:

    z = (x W_enc + b_enc / s_in) n,   n_i = ‖W_dec_i‖ s_in / s_out
    f = z [z > θ], θ one number in raw units;    ŷ = (f / n) (W_dec s_in / s_out) + b_dec / s_out

θ is compared after the rows were brought to length 1 and the scales were folded in. Without
`sparsity_include_decoder_norm` it cannot be told which of the two scales θ is in, and such a file is refused.

Folders of today: z = s_in x W_E + b_E, tested as z ‖W_D_i‖ where sparsity_include_decoder_norm says so, ŷ = (f W_D +
b_D) / s_out. encoder.weight [F, D] and decoder.weight [D, F] are turned; W_E [D, F] and W_D [F, D] are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import JumpRelu, Nonlinearity, Relu, TopK
from unmix.errors import UserError
from unmix.interop.keys import Keys
from unmix.interop.normal import is_scale, normal_form, positive
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source, hook_named
from unmix.interop.tensors import scalar, take, transposed

HYPER, FINAL, CONFIG, WEIGHTS = (
    "hyperparams.json",
    "checkpoints/final.safetensors",
    "config.json",
    "sae_weights.safetensors",
)
LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec", "decoder.bias": "b_dec"}
TODAY = {"W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec"}
_LOG = "log_jumprelu_threshold"
_NORM = "dataset_average_activation_norm"
_TRAINING = frozenset(
    """
    device seed dtype expansion_factor bias_init_method init_decoder_norm init_encoder_norm
    init_encoder_with_decoder_transpose decoder_exactly_fixed_norm lp l1_coefficient l1_coefficient_warmup_steps
    k_warmup_steps use_batch_norm_mse use_ghost_grads tp_size ddp_size sae_pretrained_name_or_path strict_loading
    jump_relu_bandwidth jumprelu_threshold_window promote_act_fn_dtype
    """.split()  # noqa: SIM905
)


def is_llama_scope(source: Source) -> bool:
    """Whether it is a folder of Llama Scope."""
    return HYPER in source.names and source.file in (None, HYPER)


def read_llama_scope(source: Source) -> Reading:
    """Raises `UserError` where the scales or the place of the threshold cannot be settled."""
    path, keys = source.folder / FINAL, source.keys(HYPER)
    keys.one_of("act_fn", ("jumprelu",))
    keys.one_of("norm_activation", ("dataset-wise",), "the scale of the threshold is known for that alone")
    keys.one_of("sparsity_include_decoder_norm", (True,), "without it the scale of the threshold cannot be settled")
    keys.one_of("use_decoder_bias", (True,))
    keys.one_of("apply_decoder_bias_to_pre_encoder", (False,))
    keys.one_of("use_glu_encoder", (False,))
    theta, said = keys.number("jump_relu_threshold"), (keys.whole("d_model"), keys.whole("d_sae"))
    norms = keys.inside(_NORM)
    norm_in, norm_out = norms.number("in"), norms.number("out")
    norms.finish()
    hook, hook_out = hook_named(keys.text("hook_point_in")), hook_named(keys.text("hook_point_out"))
    keys.finish(_TRAINING | {"top_k"})
    for name in ("sparsity_include_decoder_norm", "norm_activation", "act_fn"):
        if name not in keys.values:
            raise UserError(f"{keys.path} has no {name}; without it the threshold cannot be settled")
    if theta is None or not 0 <= theta < 1e30 or norm_in is None or norm_out is None:
        raise UserError(f"{keys.path} lacks jump_relu_threshold or {_NORM}.in and .out; copy or download it again")
    if not path.is_file():
        raise UserError(f"{source.folder} has no {FINAL}, which holds its weights; download that too")
    w = _linear(path, source.tensors(FINAL))
    D = w["b_dec"].numel()
    if not (is_scale(norm_in) and is_scale(norm_out) and D):
        raise UserError(f"{keys.path} says {keys.said(_NORM)}; norms are positive")
    s_in, s_out = math.sqrt(D) / norm_in, math.sqrt(D) / norm_out
    transcoder = hook != hook_out
    w |= {"b_enc": w["b_enc"] / s_in, "W_dec": w["W_dec"] * (s_in / s_out), "b_dec": w["b_dec"] / s_out}
    w["threshold"] = torch.full_like(w["b_enc"], theta)
    sae, folded = normal_form(path, w, JumpRelu(), rescaled=True, called=_called(LINEAR))
    _require(keys, said, sae.width, sae.features)
    model = source.ends(r"Llama3_1-8B-(?:Base|Instruct)-[^/]+")
    return Reading(
        sae,
        Origin(
            format="Llama Scope",
            architecture="jumprelu",
            model="meta-llama/Llama-3.1-8B" if model else None,
            hook=hook,
            hook_out=hook_out if transcoder else None,
            transcoder=transcoder,
            prepend_bos=True,
            context=1024,
            folded=(f"x is brought to length √D by the factor {s_in:.4g}, y by {s_out:.4g}", *folded),
        ),
    )


def is_openmoss(source: Source) -> bool:
    """Whether it is a folder of Language-Model-SAEs."""
    return source.has(CONFIG, WEIGHTS) and "cfg.json" not in source.names


def read_openmoss(source: Source) -> Reading:
    """R1-Distill or a folder of today, by the names of the tensors."""
    path, keys = source.folder / WEIGHTS, source.keys(CONFIG)
    if not keys.has("hook_point_in"):
        held = ", ".join(sorted(keys.values)[:8]) or "nothing"
        raise UserError(f"{keys.path} has no hook_point_in, which Language-Model-SAEs writes; it has {held}")
    found = source.tensors(WEIGHTS)
    if _LOG in found:
        raise UserError(
            f"{path} is of Llama-Scope-R1-Distill: it acts on x times a factor that the folder does not hold, "
            "so its thresholds cannot be brought to raw x; open it with Language-Model-SAEs"
        )
    return _today(source, keys, found)


def _today(source: Source, keys: Keys, found: Mapping[str, Any]) -> Reading:
    path = source.folder / WEIGHTS
    keys.one_of("sae_type", ("sae", "transcoder"))
    keys.one_of("use_glu_encoder", (False,))
    keys.one_of("use_decoder_bias", (True,))
    act = keys.one_of("act_fn", ("relu", "jumprelu", "topk"))
    norm = keys.one_of("norm_activation", ("inference", "dataset-wise"), "other norms are not per data set")
    weighed = keys.one_of("sparsity_include_decoder_norm", (False, True))
    missing = [n for n in ("act_fn", "norm_activation", "sparsity_include_decoder_norm") if n not in keys.values]
    if missing:
        raise UserError(f"{keys.path} has no {missing[0]}, which says what it computes")
    hook, hook_out = hook_named(keys.text("hook_point_in")), hook_named(keys.text("hook_point_out"))
    D, expansion, k = keys.whole("d_model"), keys.number("expansion_factor"), keys.whole("top_k")
    keys.finish(_TRAINING)
    of_norm = {name: scalar(path, name, found) for name in found if name.startswith(f"{_NORM}.")}
    log = f"activation_function.{_LOG}"
    own = [log] if act == "jumprelu" else []
    w = take(path, found, [*TODAY, *own], ignored=of_norm, of=f"a {act} SAE of Language-Model-SAEs")
    w = {TODAY.get(name, name): tensor for name, tensor in w.items()}
    phi: Nonlinearity = Relu()
    if act == "jumprelu":
        w["threshold"], phi = positive(path, w.pop(log).exp()), JumpRelu()
    elif act == "topk":
        if k is None or k > w["b_enc"].numel():
            raise UserError(f"{keys.path} says no top_k that {w['b_enc'].numel()} features can have")
        phi = TopK(k, weigh_by_norm=False)
    s_in = s_out = 1.0
    if norm == "dataset-wise":
        s_in = _scale(path, of_norm, keys.values.get("hook_point_in"), w["W_enc"])
        s_out = _scale(
            path, of_norm, keys.values.get("hook_point_out"), w["W_dec"].T if w["W_dec"].ndim == 2 else w["W_dec"]
        )
    if act == "jumprelu" and weighed:
        # f is z where z ‖W_D_i‖ > θ: a threshold of its own, and no change of f
        w["threshold"] = _divided(w["threshold"], w["W_dec"])
    transcoder = hook != hook_out
    sae, folded = normal_form(
        path, w, phi, transcoder=transcoder, rescaled=act == "topk" and bool(weighed), scale_in=s_in, scale_out=s_out,
        called=_called(TODAY),
    )  # fmt: skip
    _require(keys, (D, round(D * expansion) if D and expansion else None), sae.width, sae.features)
    return Reading(
        sae,
        Origin(
            format="Language-Model-SAEs",
            architecture=act,
            hook=hook,
            hook_out=hook_out if transcoder else None,
            transcoder=transcoder,
            l0=float(k) if act == "topk" and k else None,
            folded=folded,
        ),
    )


def _divided(theta_F: Tensor, W_dec_FE: Tensor) -> Tensor:
    """θ / ‖W_dec_i‖; a row of length 0 is never active."""
    if W_dec_FE.ndim != 2 or W_dec_FE.shape[0] != theta_F.numel():
        return theta_F  # refused for its shape
    norm_F = W_dec_FE.norm(dim=1)
    return torch.where(norm_F > 0, theta_F / norm_F, 1e30).clamp(max=1e30)


def _scale(path: Any, norms: Mapping[str, float], hook: Any, W: Tensor) -> float:
    """√D / the norm at the hook, W being [D, …]."""
    norm = norms.get(f"{_NORM}.{hook}")
    if norm is None or not is_scale(norm) or not W.shape:
        raise UserError(f"{path} has no positive {_NORM} of the hook {hook!r}; it has {', '.join(norms) or 'none'}")
    return math.sqrt(W.shape[0]) / norm


def _linear(path: Any, found: Mapping[str, Any]) -> dict[str, Tensor]:
    w = {LINEAR[name]: t for name, t in take(path, found, LINEAR, of="a Llama Scope SAE").items()}
    return w | {"W_enc": transposed(w["W_enc"]), "W_dec": transposed(w["W_dec"])}


def _called(names: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in names.items()}


def _require(keys: Keys, said: tuple[int | None, int | None], D: int, F: int) -> None:
    if any(number not in (None, is_) for number, is_ in zip(said, (D, F), strict=True)):
        raise UserError(f"{keys.path} says a width and a number of features {said}, the weights are {(D, F)}")
