"""A checkpoint in the shape of GPT-2 small with random weights, tokens for it, and TransformerLens' copy of it.

    python gpt2.py FOLDER --sequences 2048 --length 128

12 layers of width 768 and 50,257 tokens, seed 0. The embeddings are scaled so that E||x||² at layer 6 is about D, as
both libraries' scaling would have it: the sweep then needs none. Text: the standard library of Python in the tokens
of unmix's embedded model. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

LAYER = 6
"""Blocks that are run; the activations are those after the last of them."""


def make_checkpoint(folder: Path, small: bool = False) -> None:
    """Write config, weights and tokenizer, unless they are there; `small` is for trying the scripts."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from unmix.lm.model import EMBEDDED

    size = {"n_embd": 64, "n_head": 4, "vocab_size": 4096} if small else {}
    if (folder / "tokenizer.json").exists():
        width, wanted = json.loads((folder / "config.json").read_text())["n_embd"], size.get("n_embd", 768)
        if width != wanted:
            raise SystemExit(f"{folder} holds a model of width {width}, not {wanted}; give another --folder")
        return
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **size))
    with torch.no_grad():
        model.transformer.wte.weight *= 50  # initialised at 0.02
        model.transformer.wpe.weight *= 10
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED).save_pretrained(folder)


def load_ids(folder: Path, sequences: int, length: int) -> np.ndarray[Any, Any]:
    """ids_NT, each row with a BOS first."""
    from transformers import AutoTokenizer

    from unmix.config import CorpusConfig
    from unmix.corpus.tokens import load_tokens

    corpus = CorpusConfig(source="stdlib", max_tokens=sequences * length)
    return load_tokens(corpus, AutoTokenizer.from_pretrained(folder), length, "train").ids_NT


def hooked_transformer(folder: Path) -> Any:
    """The checkpoint as `HookedTransformer.from_pretrained_no_processing` would load it by name from the hub."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder)
    c = model.config
    config = HookedTransformerConfig(
        n_layers=c.n_layer,
        d_model=c.n_embd,
        d_head=c.n_embd // c.n_head,
        n_heads=c.n_head,
        d_mlp=4 * c.n_embd,
        n_ctx=c.n_positions,
        d_vocab=c.vocab_size,
        eps=c.layer_norm_epsilon,
        act_fn="gelu_new",
        normalization_type="LN",
        original_architecture="GPT2LMHeadModel",
        device="cpu",
        init_weights=False,
    )
    hooked = HookedTransformer(config, move_to_device=False)
    weights = convert_gpt2_weights(model, config)
    hooked.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return hooked.eval().requires_grad_(False)


def proxy(folder: Path) -> Any:
    """SAELens' own wrapper of a `transformers` model, its model_class_name="AutoModelForCausalLM"."""
    from sae_lens.load_model import HookedProxyLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
    return HookedProxyLM(model, AutoTokenizer.from_pretrained(folder), hook_names=[f"transformer.h.{LAYER - 1}"])


HOOKS = {
    "HookedTransformer": f"blocks.{LAYER - 1}.hook_resid_post",
    "AutoModelForCausalLM": f"transformer.h.{LAYER - 1}",
}
"""What SAELens calls the place, so that it stops after `LAYER` blocks: its blocks.6.hook_resid_pre would run a 7th."""


def prepare(folder: Path, sequences: int, length: int, features: int, l0: float, small: bool) -> dict[str, float]:
    """Checkpoint, tokens as a data set for SAELens, and the encoder bias that gives L0 to a fresh dictionary."""
    from datasets import Dataset

    from unmix.config import ModelConfig
    from unmix.dictionary.model import new_dictionary
    from unmix.lm.model import load_language_model

    make_checkpoint(folder, small)
    ids_NT = load_ids(folder, sequences, length)
    Dataset.from_dict({"input_ids": ids_NT.tolist()}).save_to_disk(folder / f"tokens-{length}")
    model = load_language_model(ModelConfig(name=str(folder)))
    ids = torch.from_numpy(ids_NT[:8].astype(np.int64))
    x_BD = model.activations(ids, [f"resid_post.{LAYER - 1}"])[f"resid_post.{LAYER - 1}"].flatten(0, 1)[:512]
    z_BF = x_BD @ new_dictionary(x_BD.shape[1], features, 0.1, 0).W_enc.detach()
    bias = -z_BF.flatten().kthvalue(round(z_BF.numel() * (1 - l0 / features))).values.item()
    facts = {"bias": bias, "mean_square_norm": x_BD.square().sum(1).mean().item(), "rows": len(ids_NT)}
    (folder / "prepared.json").write_text(json.dumps(facts | {"width": x_BD.shape[1]}))
    return facts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sequences", type=int, default=2048)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--features", type=int, default=10_000)
    parser.add_argument("--l0", type=float, default=100)
    parser.add_argument("--small", action="store_true", help="width 64, to try the scripts")
    args = parser.parse_args()
    print(prepare(args.folder, args.sequences, args.length, args.features, args.l0, args.small))
