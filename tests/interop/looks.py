"""Small folders in every published layout: those of SAELens from beside this file, all others here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from interop.look import K, Look, Weights, gated, inputs, jump, layer_norm, simple, skipping, topk
from interop.looks_saelens import (
    saelens_1,
    saelens_2_booleans,
    saelens_3_finetuned,
    saelens_5,
    saelens_5_topk_called_standard,
    saelens_abstopk,
    saelens_batchtopk,
    saelens_checkpoint,
    saelens_gated,
    saelens_jumprelu,
    saelens_layer_norm,
    saelens_per_token,
    saelens_standard,
    saelens_topk,
    saelens_topk_rescaled,
    saelens_transcoder,
    saelens_uncentred,
)  # fmt: skip
from torch import Tensor

__all__ = ["LOOKS", "K", "Look", "Weights", "inputs", "sparsify"]


def gemma_scope(w: Weights) -> Look:
    tensors = w.four() | {"threshold": w.theta}
    at = "gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_71"
    return Look({f"{at}/params.npz": tensors}, simple(w, jump(w.theta), False), at)


def gemma_scope_lower_case(w: Weights) -> Look:
    tensors = {"w_enc": w.W_enc, "w_dec": w.W_dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": w.theta}
    at = "gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_9/params.npz"
    return Look({at: tensors | {"scaling_factor": torch.ones(())}}, simple(w, jump(w.theta), False), at)


def gemma_scope_embedding(w: Weights) -> Look:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        f = jump(w.theta)(x.double() / math.sqrt(w.D) @ w.W_enc.double() + w.b_enc.double())
        return f, f @ (w.W_dec.double() * math.sqrt(w.D)) + w.b_dec.double()

    at = "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"
    return Look({f"{at}/params.npz": w.four() | {"threshold": w.theta}}, function, at)


def gemma_scope_2(config: bool) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        tensors = {"w_enc": w.W_enc, "w_dec": w.W_dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": w.theta}
        at = "resid_post_all/layer_17_width_16k_l0_small"
        files: dict[str, Any] = {f"{at}/params.safetensors": tensors}
        place = "model.layers.17.output"
        if config:
            files[f"{at}/config.json"] = {
                "hf_hook_point_in": place, "hf_hook_point_out": place, "width": w.F, "type": "sae", "l0": 20,
                "model_name": "google/gemma-3-1b-pt", "architecture": "jump_relu", "affine_connection": False,
            }  # fmt: skip
        return Look(files, simple(w, jump(w.theta), False), at)

    return look


def gemma_scope_2_affine(w: Weights) -> Look:
    tensors = {"w_enc": w.W_enc, "w_dec": w.W_dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": w.theta}
    at = "transcoder_all/layer_12_width_16k_l0_small_affine"
    config = {
        "hf_hook_point_in": "model.layers.12.pre_feedforward_layernorm.output", "type": "transcoder", "l0": 52,
        "hf_hook_point_out": "model.layers.12.post_feedforward_layernorm.output", "width": w.F,
        "model_name": "google/gemma-3-12b-it", "architecture": "jump_relu", "affine_connection": True,
    }  # fmt: skip
    files = {f"{at}/params.safetensors": tensors | {"affine_skip_connection": w.W_skip}, f"{at}/config.json": config}
    return Look(files, skipping(simple(w, jump(w.theta), False), w.W_skip), at)


def llama_scope(norm_in: float, norm_out: float, hook_out: str) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        s_in, s_out, theta = w.D**0.5 / norm_in, w.D**0.5 / norm_out, 0.03

        def function(x: Tensor) -> tuple[Tensor, Tensor]:
            # standardized first, rows brought to length 1 second, the threshold last
            W_dec = w.W_dec.double() * s_in / s_out
            n = W_dec.norm(dim=1)
            z = (x.double() @ w.W_enc.double() + w.b_enc.double() / s_in) * n
            f = z * (z > theta)
            return f, (f / n) @ W_dec + w.b_dec.double() / s_out

        config = {
            "device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "hook_point_in": "blocks.0.hook_resid_post",
            "hook_point_out": hook_out, "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False,
            "expansion_factor": 8, "d_model": w.D, "d_sae": w.F, "act_fn": "jumprelu", "jump_relu_threshold": theta,
            "norm_activation": "dataset-wise", "top_k": 50, "use_glu_encoder": False, "tp_size": 1,
            "dataset_average_activation_norm": {"in": norm_in, "out": norm_out}, "sparsity_include_decoder_norm": True,
        }  # fmt: skip
        tensors = w.linear() | {"decoder.bias": w.b_dec}
        files = {"hyperparams.json": config, "checkpoints/final.safetensors": tensors}
        return Look(files, function, changes={"jump_relu_threshold", "dataset_average_activation_norm"})

    return look


def openmoss(act: str, norm: str, weighed: bool) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        hook, s = "blocks.2.hook_resid_post", 0.61 if norm == "dataset-wise" else 1.0
        phi = {"relu": torch.relu, "topk": topk, "jumprelu": jump(w.theta)}[act]

        def function(x: Tensor) -> tuple[Tensor, Tensor]:
            z = w.z(s * x.double(), False)
            if act == "jumprelu" and weighed:
                f = z * (z * w.n > w.theta.double())
            elif act == "topk" and weighed:
                f = topk(z * w.n)
                return f, w.y(f / w.n) / s
            else:
                f = phi(z)
            return f, w.y(f) / s

        config = {
            "sae_type": "sae", "d_model": w.D, "expansion_factor": w.F / w.D, "act_fn": act, "top_k": K,
            "norm_activation": norm, "hook_point_in": hook, "hook_point_out": hook, "use_glu_encoder": False,
            "sparsity_include_decoder_norm": weighed, "use_decoder_bias": True, "dtype": "torch.float32",
        }  # fmt: skip
        tensors = {"W_E": w.W_enc, "b_E": w.b_enc, "W_D": w.W_dec, "b_D": w.b_dec}
        if act == "jumprelu":
            tensors["activation_function.log_jumprelu_threshold"] = w.theta.log()
        tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(w.D**0.5 / 0.61)
        changes = {"act_fn", "top_k", "norm_activation", "sparsity_include_decoder_norm", "hook_point_in", "sae_type"}
        return Look({"config.json": config, "sae_weights.safetensors": tensors}, function, changes=changes)

    return look


def dictionary_learning(kind: str) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        one, whole = torch.tensor(1.1), torch.tensor(K, dtype=torch.int)
        k = {"k": whole, "threshold": one}
        t = float(one)
        tensors, function = {
            "AutoEncoder": (w.linear() | {"bias": w.b_dec}, simple(w, torch.relu, True)),
            "AutoEncoderNew": (w.linear() | {"decoder.bias": w.b_dec}, simple(w, torch.relu, False)),
            "GatedAutoEncoder": (
                {"decoder_bias": w.b_dec, "encoder.weight": w.W_enc.T, "r_mag": w.r, "gate_bias": w.b_enc}
                | {"mag_bias": w.b_mag, "decoder.weight": w.W_dec.T},
                gated(w),
            ),
            "JumpReluAutoEncoder": (w.four() | {"threshold": w.theta}, simple(w, jump(w.theta), False)),
            "AutoEncoderTopK": (w.linear() | {"b_dec": w.b_dec} | k, simple(w, topk, True)),
            "BatchTopKSAE": (w.linear() | {"b_dec": w.b_dec} | k, simple(w, jump(t), True)),
            "MatryoshkaBatchTopKSAE": (
                w.four() | k | {"group_sizes": torch.tensor([2, w.F - 2])},
                simple(w, jump(t), True),
            ),
        }[kind]
        trainer = {
            "trainer_class": "SomeTrainer", "dict_class": kind, "lr": 1e-4, "steps": 10, "activation_dim": w.D,
            "dict_size": w.F, "device": "cuda:0", "layer": 3, "lm_name": "EleutherAI/pythia-410m-deduped",
            "submodule_name": "resid_post_layer_3", "wandb_name": "S",
        }  # fmt: skip
        trainer |= {"k": K} if "k" in tensors else {}
        buffer = {"d_submodule": w.D, "io": "out", "n_ctxs": 8, "ctx_len": 128, "device": "cuda:0"}
        config = {"trainer": trainer, "buffer": buffer}
        return Look({"trainer_0/config.json": config, "trainer_0/ae.pt": tensors}, function, "trainer_0")

    return look


def sparsify(folder: str, **keys: Any) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        tensors = {"encoder.weight": w.W_enc.T, "encoder.bias": w.b_enc, "W_dec": w.W_dec, "b_dec": w.b_dec}
        config = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": w.F, "k": K, "d_in": w.D} | keys
        if keys.get("num_latents") == 0:
            w_F = w.F // w.D
            config["expansion_factor"] = w_F
        function = simple(w, lambda z: topk(z.relu()), not keys.get("transcode", False))
        if keys.get("skip_connection"):
            tensors["W_skip"], function = w.W_skip.T, skipping(function, w.W_skip)
        files = {f"{folder}/cfg.json": config, f"{folder}/sae.safetensors": tensors}
        files["config.json"] = {"model": "EleutherAI/pythia-160m", "ctx_len": 2048, "batch_size": 32}
        changes = {"k", "transcode", "skip_connection", "num_latents", "expansion_factor", "d_in"}
        return Look(files, function, folder, changes)

    return look


def openai(version: int) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        name, state = ("ReLU", {}) if version == 1 else ("TopK", {"k": K, "postact_fn": "ReLU"})
        tensors = {
            "pre_bias": w.b_dec, "latent_bias": w.b_enc, "encoder.weight": w.W_enc.T, "decoder.weight": w.W_dec.T,
            "stats_last_nonzero": torch.zeros(w.F, dtype=torch.long),
            "activation": name, "activation_state_dict": state,
            "latents_activation_frequency": torch.zeros(w.F), "latents_mean_square": torch.zeros(w.F),
        }  # fmt: skip
        at = f"gpt2-small/resid_post_mlp_v{version}/autoencoders/8.pt"
        function = simple(w, torch.relu, True) if version == 1 else layer_norm(simple(w, topk, True))
        return Look({at: tensors}, function, at)

    return look


def qwen_scope(w: Weights) -> Look:
    tensors = {"W_enc": w.W_enc.T.contiguous(), "W_dec": w.W_dec.T.contiguous(), "b_enc": w.b_enc, "b_dec": w.b_dec}
    at = f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}/layer7.sae.pt"
    return Look({at: tensors}, simple(w, topk, False), at)


def goodfire(w: Weights) -> Look:
    at = "Llama-3.1-8B-Instruct-SAE-l19/Llama-3.1-8B-Instruct-SAE-l19.pth"
    tensors = w.linear("_linear") | {"decoder_linear.bias": w.b_dec}
    return Look({at: tensors}, simple(w, torch.relu, False), at)


def deepseek(w: Weights) -> Look:
    at = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    return Look({at: w.linear() | {"decoder.bias": w.b_dec}}, simple(w, torch.relu, False), at)


def circuit_tracer(act: str, turned: bool, skip: bool = False) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        config = (
            "model_name: google/gemma-2-2b\nmodel_kind: transcoder_set\nfeature_input_hook: ln2.hook_normalized\n"
            "feature_output_hook: hook_mlp_out\nscan: gemma-2-2b\n"
        )
        W_dec = w.W_dec.T if turned else w.W_dec
        tensors = {"W_enc": w.W_enc.T, "W_dec": W_dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
        if act == "jumprelu":
            tensors["activation_function.threshold"] = w.theta
        phi = jump(w.theta) if act == "jumprelu" else torch.relu
        function = simple(w, phi, False)
        if skip:
            tensors["W_skip"], function = w.W_skip.T, skipping(function, w.W_skip)
        other = {name: tensor + 1 for name, tensor in tensors.items()}
        files = {"config.yaml": config, "layer_0.safetensors": other, "layer_1.safetensors": tensors}
        return Look(files, function, "layer_1.safetensors")

    return look


def bussmann(kind: str, norm: bool = False) -> Callable[[Weights], Look]:
    def look(w: Weights) -> Look:
        if kind == "topk":
            w.b_enc = torch.zeros(w.F)
        config = {
            "seed": 49, "batch_size": 4096, "lr": 3e-4, "dtype": "torch.float32", "model_name": "gpt2-small",
            "site": "resid_pre", "layer": 8, "act_size": w.D, "dict_size": w.F, "device": "cuda:0",
            "input_unit_norm": norm, "sae_type": kind, "top_k": K, "top_k_aux": 512, "aux_penalty": 0.03,
            "seq_len": 128,
            "hook_point": "blocks.8.hook_resid_pre",
        }  # fmt: skip
        tensors = w.four() | ({"jumprelu.log_threshold": w.theta.log()} if kind == "jumprelu" else {})
        phi = {"vanilla": torch.relu, "topk": lambda z: topk(z.relu()), "jumprelu": jump(w.theta)}[kind]
        function = simple(w, phi, kind != "jumprelu")
        function = layer_norm(function) if norm else function
        changes = {"sae_type", "top_k", "input_unit_norm"}
        return Look({"config.json": config, "sae.pt": tensors}, function, changes=changes)

    return look


RESIDUAL = "blocks.0.hook_resid_post"
LOOKS: dict[str, Callable[[Weights], Look]] = {
    "saelens standard": saelens_standard,
    "saelens without b_dec": saelens_uncentred,
    "saelens jumprelu": saelens_jumprelu,
    "saelens topk": saelens_topk,
    "saelens topk rescaled": saelens_topk_rescaled,
    "saelens abstopk": saelens_abstopk,
    "saelens gated": saelens_gated,
    "saelens per token": saelens_per_token,
    "saelens layer norm": saelens_layer_norm("standard"),
    "saelens jumprelu layer norm": saelens_layer_norm("jumprelu"),
    "saelens 5, topk layer norm": saelens_layer_norm("before 6"),
    "saelens checkpoint standard": saelens_checkpoint("standard"),
    "saelens checkpoint topk": saelens_checkpoint("topk"),
    "saelens checkpoint batchtopk": saelens_checkpoint("batchtopk"),
    "saelens checkpoint matryoshka": saelens_checkpoint("matryoshka_batchtopk"),
    "saelens batchtopk": saelens_batchtopk,
    "saelens transcoder": saelens_transcoder("transcoder"),
    "saelens jumprelu transcoder": saelens_transcoder("jumprelu_transcoder"),
    "saelens skip transcoder": saelens_transcoder("skip_transcoder"),
    "saelens jumprelu skip transcoder": saelens_transcoder("jumprelu_skip_transcoder"),
    "saelens 1": saelens_1,
    "saelens 2, booleans": saelens_2_booleans,
    "saelens 3, finetuned": saelens_3_finetuned,
    "saelens 5": saelens_5,
    "saelens 5, topk called standard": saelens_5_topk_called_standard,
    "gemma scope": gemma_scope,
    "gemma scope, lower case": gemma_scope_lower_case,
    "gemma scope, embedding": gemma_scope_embedding,
    "gemma scope 2": gemma_scope_2(True),
    "gemma scope 2 without config": gemma_scope_2(False),
    "gemma scope 2, affine transcoder": gemma_scope_2_affine,
    "llama scope": llama_scope(17.125, 17.125, RESIDUAL),
    "llama scope transcoder": llama_scope(62.0, 0.80078125, "blocks.0.hook_mlp_out"),
    "openmoss relu": openmoss("relu", "inference", False),
    "openmoss jumprelu": openmoss("jumprelu", "dataset-wise", False),
    "openmoss jumprelu weighed": openmoss("jumprelu", "dataset-wise", True),
    "openmoss topk weighed": openmoss("topk", "dataset-wise", True),
    "openmoss topk": openmoss("topk", "inference", False),
    "dictionary_learning AutoEncoder": dictionary_learning("AutoEncoder"),
    "dictionary_learning AutoEncoderNew": dictionary_learning("AutoEncoderNew"),
    "dictionary_learning GatedAutoEncoder": dictionary_learning("GatedAutoEncoder"),
    "dictionary_learning JumpReluAutoEncoder": dictionary_learning("JumpReluAutoEncoder"),
    "dictionary_learning AutoEncoderTopK": dictionary_learning("AutoEncoderTopK"),
    "dictionary_learning BatchTopKSAE": dictionary_learning("BatchTopKSAE"),
    "dictionary_learning MatryoshkaBatchTopKSAE": dictionary_learning("MatryoshkaBatchTopKSAE"),
    "sparsify": sparsify("layers.10", signed=False),
    "sparsify of an MLP": sparsify("layers.29.mlp", activation="topk", multi_topk=False, skip_connection=False),
    "sparsify transcoder": sparsify("h.4.mlp", transcode=True),
    "sparsify skip transcoder": sparsify("h.4.mlp", transcode=True, skip_connection=True),
    "openai relu": openai(1),
    "openai topk": openai(5),
    "qwen scope": qwen_scope,
    "goodfire": goodfire,
    "deepseek": deepseek,
    "circuit-tracer relu": circuit_tracer("relu", False),
    "circuit-tracer jumprelu": circuit_tracer("jumprelu", False),
    "circuit-tracer with a skip": circuit_tracer("relu", False, skip=True),
    "circuit-tracer, older": circuit_tracer("jumprelu", True),
    "bussmann vanilla": bussmann("vanilla"),
    "bussmann topk": bussmann("topk"),
    "bussmann jumprelu": bussmann("jumprelu"),
    "bussmann topk layer norm": bussmann("topk", norm=True),
    "bussmann jumprelu layer norm": bussmann("jumprelu", norm=True),
}
"""What opens, by a name for the tests."""
