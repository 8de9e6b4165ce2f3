"""Freshly initialised language models of many families, small enough to run in milliseconds."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

EOT = "<|endoftext|>"
LAYERS, WIDTH, CONTEXT, VOCABULARY = 3, 16, 64, 288
_SHARED = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
_OWN = {
    "gpt2": {},
    "gpt_neox": {},
    "llama": _GROUPED,
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": _GROUPED,
    "gemma2": {**_GROUPED, "sliding_window": 4},
    "gemma3_text": {**_GROUPED, "sliding_window": 4},
    "mistral": _GROUPED,
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": WIDTH},
    "phi": {},
}
FAMILIES = tuple(_OWN)
"""Those that most tests go through."""
_MIXTURE = {
    **_GROUPED, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}  # fmt: skip
_GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": CONTEXT}
_LATENT = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 2,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
_ALSO = {
    "gemma": _GROUPED,
    "phi3": _GROUPED,
    "falcon": {},
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neo": {"num_layers": LAYERS, "num_heads": 2, "attention_types": [[["global"], LAYERS]]},
    "codegen": {**_GPT, "num_attention_heads": 4, "n_head": 4, "rotary_dim": 4},
    "gpt_bigcode": _GPT,
    "openai-gpt": _GPT,
    "xglm": {"d_model": WIDTH, "num_layers": LAYERS, "attention_heads": 2, "ffn_dim": 24},
    "biogpt": {},
    "bloom": {"n_layer": LAYERS, "n_head": 2},
    "mpt": {"d_model": WIDTH, "n_heads": 2, "n_layers": LAYERS, "max_seq_len": CONTEXT},
    "stablelm": {"num_key_value_heads": 2},
    "starcoder2": {"num_key_value_heads": 2},
    "persimmon": {},
    "nemotron": _GROUPED,
    "smollm3": _GROUPED,
    "cohere": _GROUPED,
    "cohere2": _GROUPED,
    "olmo": {},
    "olmo2": _GROUPED,
    "olmo3": _GROUPED,
    "exaone4": {**_GROUPED, "sliding_window": 4},
    "glm": _GROUPED,
    "glm4": _GROUPED,
    "granite": {**_GROUPED, "residual_multiplier": 0.22},
    "granitemoe": {**_MIXTURE, "residual_multiplier": 0.22},
    "mixtral": _MIXTURE,
    "qwen2_moe": {**_MIXTURE, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**_MIXTURE, "mlp_only_layers": [0]},
    "qwen3_next": {
        **_MIXTURE, "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
    "gpt_oss": _MIXTURE,
    "llama4_text": {**_MIXTURE, "intermediate_size_mlp": 24},
    "olmoe": _MIXTURE,
    "phimoe": _MIXTURE,
    "glm4_moe": {**_MIXTURE, "first_k_dense_replace": 1},
    "deepseek_v3": _LATENT,
    "ernie4_5": _GROUPED,
    "hunyuan_v1_dense": _GROUPED,
    "apertus": _GROUPED,
    "helium": _GROUPED,
    "bitnet": _GROUPED,
    "lfm2": {
        **_GROUPED, "layer_types": ["conv", "full_attention", "full_attention"], "block_auto_adjust_ff_dim": False
    },
    "gemma4_text": {
        **_GROUPED, "num_kv_shared_layers": 1, "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "sliding_window": 4, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY,
        "global_head_dim": 8,
    },
    "mamba2": {"num_heads": 4, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2},
    "minimax": {**_MIXTURE, "layer_types": ["full_attention"] * LAYERS},
    "dbrx": {
        "d_model": WIDTH, "n_heads": 2, "n_layers": LAYERS, "max_seq_len": CONTEXT,
        "attn_config": {"kv_n_heads": 1, "rope_theta": 10_000.0, "clip_qkv": 8},
        "ffn_config": {"hidden_size": WIDTH, "ffn_hidden_size": 24},
    },
}  # fmt: skip
_OWN |= _ALSO
MANY = tuple(_OWN)
"""Every family whose hooks `docs/hooks.md` speaks of."""
_OWN |= {
    "jetmoe": {**_MIXTURE, "kv_channels": 8, "num_attention_heads": 1},
    "hunyuan_v1_moe": {**_MIXTURE, "moe_topk": 2},
    "afmoe": {**_MIXTURE, "num_dense_layers": 1, "num_shared_experts": 1, "sliding_window": 4},
    "gemma4_moe": {**_ALSO["gemma4_text"], **_MIXTURE, "enable_moe_block": True, "top_k_experts": 2},
}
"""Further mixtures of experts, for their routers alone."""
_TYPES = {"gemma4_moe": "gemma4_text"}
"""What `transformers` calls a family, if not by our name."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCABULARY entries; `<|endoftext|>` = 0 is BOS and EOS."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOT], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["def of(self): return the world import for while"] * 3, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=EOT, eos_token=EOT, model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],  # no token_type_ids, which GPT-2 would add to its embeddings
    )  # fmt: skip


@cache
def tiny_model_folder(family: str = "gpt2", **more: int) -> Path:
    """A checkpoint folder (safetensors, tokenizer) of LAYERS blocks of WIDTH; one a process, do not write to it.

    `more`: keys of its configuration that are to be others.
    """
    folder = Path(mkdtemp(prefix=f"tiny-{family}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        keys = {**_SHARED, **_OWN[family], **more}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(_TYPES.get(family, family), **keys))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
