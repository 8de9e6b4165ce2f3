"""How fast SmolLM2 is read at resid_post.15: unmix beside SAELens' wrapper of a `transformers` model, same tokens.

    benchmarks/.venv/bin/python records/2026-11-26_smollm2-first/rates.py english/ [FOLDER]

SAELens reads no GGUF, so the dequantised weights are saved to FOLDER first. Every contender tries several numbers of
sequences a pass and keeps its fastest; then they take turns, five rounds, medians.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sae_lens.load_model import HookedProxyLM
from torch import Tensor
from transformers import AutoModelForCausalLM

from unmix.config import CorpusConfig, ModelConfig
from unmix.corpus.tokens import load_tokens
from unmix.lm.model import load_language_model
from unmix.lm.products import multiply_in_bf16
from unmix.machine import cpu_name

LAYER, T, SEQUENCES, PASSES, ROUNDS = 15, 256, 16, (2, 4, 8, 16), 5
HOOK, THEIRS = f"resid_post.{LAYER}", f"model.layers.{LAYER}"
Read = Callable[[Tensor], Any]


def contenders(corpus: str, folder: Path) -> tuple[dict[str, Read], Tensor]:
    """name -> what reads ids_NT; and the tokens."""
    exact, rounded = (load_language_model(ModelConfig(name="smollm2")) for _ in range(2))
    if not (folder / "config.json").exists():
        exact.model.hf_quantizer, exact.model.is_quantized = None, False  # it is dequantised
        if hasattr(exact.model.config, "quantization_config"):
            del exact.model.config.quantization_config
        exact.model.save_pretrained(folder)
        exact.tokenizer.save_pretrained(folder)
    tokens = load_tokens(CorpusConfig(source=corpus), exact.tokenizer, T, "train")
    ids_NT = torch.from_numpy(tokens.ids_NT[:SEQUENCES].astype(np.int64))
    rounded = multiply_in_bf16(rounded, ids_NT[:4], [HOOK])
    wrapped = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
    proxy = HookedProxyLM(wrapped, exact.tokenizer, hook_names=[THEIRS])

    def theirs(autocast: bool) -> Read:
        @torch.inference_mode()
        def read(ids: Tensor) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                return proxy.run_with_cache(ids, names_filter=[THEIRS], stop_at_layer=LAYER + 1, prepend_bos=False)[1]

        return read

    return {
        "unmix fp32": lambda ids: exact.activations(ids, [HOOK])[HOOK],
        "unmix bf16": lambda ids: rounded.activations(ids, [HOOK])[HOOK],
        "SAELens AutoModel fp32": theirs(False),
        "SAELens AutoModel autocast": theirs(True),
    }, ids_NT


def seconds(read: Read, ids_NT: Tensor, a_pass: int) -> float:
    """Of reading all sequences."""
    began = time.perf_counter()
    for first in range(0, len(ids_NT), a_pass):
        read(ids_NT[first : first + a_pass])
    return time.perf_counter() - began


def main() -> None:
    corpus, folder = sys.argv[1], Path((sys.argv[2:] or ["smollm2-hf"])[0])
    readers, ids_NT = contenders(corpus, folder)
    best = {
        name: min(PASSES, key=lambda n: min(seconds(read, ids_NT, n) for _ in range(2)))
        for name, read in readers.items()
    }
    found: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(ROUNDS):
        for name in list(readers) if number % 2 == 0 else reversed(list(readers)):
            found[name].append(seconds(readers[name], ids_NT, best[name]))
    print("| reading resid_post.15 of SmolLM2 | sequences of 256 a pass | tokens/s | spread |\n|---|--:|--:|--:|")
    for name, taken in found.items():
        rate, spread = ids_NT.numel() / median(taken), (max(taken) - min(taken)) / median(taken)
        print(f"| {name} | {best[name]} | {rate:,.0f} | {spread:.0%} |")
    ratio = median(t / o for o, t in zip(found["unmix bf16"], found["SAELens AutoModel autocast"], strict=True))
    plain = median(t / o for o, t in zip(found["unmix fp32"], found["SAELens AutoModel fp32"], strict=True))
    print(
        f"\nunmix over SAELens: {plain:.2f} in fp32, {ratio:.2f} in bf16; "
        f"{cpu_name()}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
