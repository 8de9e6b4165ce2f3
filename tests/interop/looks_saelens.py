"""Folders of SAELens, versions 1 to 6."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from interop.look import K, Look, Weights, gated, jump, layer_norm, simple, skipping, topk
from torch import Tensor


def v6(w: Weights, architecture: str, **more: Any) -> dict[str, Any]:
    return {
        "architecture": architecture, "d_in": w.D, "d_sae": w.F, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12", "model_name": "gpt2", "hook_name": "blocks.8.hook_resid_pre",
            "context_size": 128, "prepend_bos": True, "l0": 64.0,
        },
    } | more  # fmt: skip


def saelens(config: dict[str, Any], tensors: dict[str, Tensor], function: Any, **more: Any) -> Look:
    changes = {
        "architecture", "activation_fn", "activation_fn_str", "activation_fn_kwargs", "apply_b_dec_to_input",
        "normalize_activations", "k", "rescale_acts_by_decoder_norm", "d_out", "metadata", "sae_lens_version",
        "finetuning_scaling_factor",
    }  # fmt: skip
    return Look({"cfg.json": config, "sae_weights.safetensors": tensors, **more}, function, changes=changes)


def saelens_standard(w: Weights) -> Look:
    return saelens(v6(w, "standard"), w.four(), simple(w, torch.relu, True))


def saelens_uncentred(w: Weights) -> Look:
    return saelens(v6(w, "standard", apply_b_dec_to_input=False), w.four(), simple(w, torch.relu, False))


def saelens_jumprelu(w: Weights) -> Look:
    return saelens(v6(w, "jumprelu"), w.four() | {"threshold": w.theta}, simple(w, jump(w.theta), True))


def saelens_topk(w: Weights) -> Look:
    return saelens(v6(w, "topk", k=K, rescale_acts_by_decoder_norm=False), w.four(), simple(w, topk, True))


def saelens_topk_rescaled(w: Weights) -> Look:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        f = topk(w.z(x, True) * w.n)
        return f, w.y(f / w.n)

    return saelens(v6(w, "topk", k=K, rescale_acts_by_decoder_norm=True), w.four(), function)


def saelens_abstopk(w: Weights) -> Look:
    def choose(z: Tensor) -> Tensor:
        at = z.abs().topk(K, dim=-1).indices
        return torch.zeros_like(z).scatter(-1, at, z.gather(-1, at))

    config = v6(w, "abstopk", k=K, rescale_acts_by_decoder_norm=False)
    return saelens(config, w.four(), simple(w, choose, True))


def saelens_gated(w: Weights) -> Look:
    tensors = {"W_enc": w.W_enc, "b_gate": w.b_enc, "r_mag": w.r, "b_mag": w.b_mag, "W_dec": w.W_dec, "b_dec": w.b_dec}
    return saelens(v6(w, "gated"), tensors, gated(w))


def saelens_per_token(w: Weights) -> Look:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        long = x.double().norm(dim=-1, keepdim=True) / math.sqrt(w.D)
        f = jump(w.theta)(w.z(x.double() / long, True))
        return f, w.y(f) * long

    config = v6(w, "jumprelu", normalize_activations="constant_norm_rescale")
    return saelens(config, w.four() | {"threshold": w.theta}, function)


def saelens_layer_norm(architecture: str) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        if architecture == "before 6":  # SAELens' copies of OpenAI's version 5
            config = v5(w, normalize_activations="layer_norm", activation_fn_str="topk", activation_fn_kwargs={"k": K})
            return saelens(config, w.four(), layer_norm(simple(w, topk, True)))
        own, phi = ({"threshold": w.theta}, jump(w.theta)) if architecture == "jumprelu" else ({}, torch.relu)
        config = v6(w, architecture, normalize_activations="layer_norm")
        return saelens(config, w.four() | own, layer_norm(simple(w, phi, True)))

    return look


def saelens_checkpoint(architecture: str) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        s = 0.37

        def function(x: Tensor) -> tuple[Tensor, Tensor]:
            z = w.z(s * x.double(), True)
            f = {"standard": torch.relu, "topk": lambda z: topk(z * w.n), "batchtopk": lambda z: jump(0.5)(z * w.n)}[
                architecture.removeprefix("matryoshka_")
            ](z)
            return f, w.y(f if architecture == "standard" else f / w.n) / s

        config = v6(w, architecture, normalize_activations="expected_average_only_in")
        tensors = w.four()
        if architecture != "standard":
            config |= {"k": K if architecture == "topk" else 2.5, "rescale_acts_by_decoder_norm": True}
        if "batch" in architecture:
            config |= {"topk_threshold_lr": 0.01, "aux_loss_coefficient": 1.0}
            tensors |= {"topk_threshold": torch.tensor(0.5, dtype=torch.float64)}
        scaler = {"scaling_factor": s, "has_whitening": False}
        return saelens(config, tensors, function, **{"activation_scaler.json": scaler})

    return look


def saelens_batchtopk(w: Weights) -> Look:
    config = v6(w, "batchtopk", k=2.5, rescale_acts_by_decoder_norm=False)
    tensors = w.four() | {"topk_threshold": torch.tensor(0.4, dtype=torch.float64)}
    return saelens(config, tensors, simple(w, jump(0.4), True))


def saelens_transcoder(architecture: str) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        w = Weights(w.D, w.F, seed=5, E=w.D + 2)
        config = v6(w, architecture, d_out=w.E, apply_b_dec_to_input=False)
        config["metadata"] |= {"hook_name": "blocks.8.hook_mlp_in", "hook_name_out": "blocks.8.hook_mlp_out"}
        own = {"threshold": w.theta} if "jump" in architecture else {}
        function = simple(w, jump(w.theta) if own else torch.relu, False)
        if "skip" in architecture:
            own["W_skip"], function = w.W_skip.T, skipping(function, w.W_skip)
        return saelens(config, w.four() | own, function)

    return look


V1 = {
    "model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "device": "mps",
    "hook_point_head_index": None, "dtype": "torch.float32", "seed": 42, "expansion_factor": 4, "context_size": 128,
    "l1_coefficient": 8e-05, "use_ghost_grads": False, "b_dec_init_method": "geometric_median", "run_name": "a-b",
}  # fmt: skip


def saelens_1(w: Weights) -> Look:
    tensors = w.four() | {"scaling_factor": torch.ones(w.F)}
    sparsity = {"sparsity.safetensors": {"sparsity": torch.zeros(w.F)}}
    return saelens(V1 | {"d_in": w.D, "d_sae": w.F}, tensors, simple(w, torch.relu, True), **sparsity)


def saelens_2_booleans(w: Weights) -> Look:
    config = V1 | {"d_in": w.D, "d_sae": w.F, "normalize_activations": False, "apply_b_dec_to_input": False}
    return saelens(config, w.four(), simple(w, torch.relu, False))


def v5(w: Weights, **more: Any) -> dict[str, Any]:
    return {
        "architecture": "standard", "d_in": w.D, "d_sae": w.F, "dtype": "torch.float32", "device": "cpu",
        "model_name": "gpt2-small", "hook_name": "blocks.1.hook_resid_pre", "hook_layer": 1, "hook_head_index": None,
        "activation_fn_str": "relu", "activation_fn_kwargs": {}, "finetuning_scaling_factor": False,
        "prepend_bos": True, "context_size": 128, "normalize_activations": "none",
    } | more  # fmt: skip


def saelens_5(w: Weights) -> Look:
    return saelens(v5(w), w.four(), simple(w, torch.relu, True))


def saelens_5_topk_called_standard(w: Weights) -> Look:
    config = v5(w, activation_fn_str="topk", activation_fn_kwargs={"k": K}, normalize_activations=None)
    return saelens(config, w.four(), simple(w, topk, True))


def saelens_3_finetuned(w: Weights) -> Look:
    tensors = w.four() | {"scaling_factor": w.scale}
    phi = lambda z: z.relu() * w.scale.double()  # noqa: E731
    return saelens(v5(w, finetuning_scaling_factor=True), tensors, simple(w, phi, True))
