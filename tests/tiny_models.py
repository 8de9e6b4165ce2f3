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
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=EOT, eos_token=EOT, model_max_length=CONTEXT)


@cache
def tiny_model_folder(family: str = "gpt2") -> Path:
    """A checkpoint folder (safetensors, tokenizer) of LAYERS blocks of WIDTH; one a process, do not write to it."""
    folder = Path(mkdtemp(prefix=f"tiny-{family}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**_SHARED, **_OWN[family]}))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
