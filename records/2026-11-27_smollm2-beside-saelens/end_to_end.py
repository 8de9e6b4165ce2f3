"""How long a sweep of four batchtopk dictionaries and its evaluation take on SmolLM2: unmix beside SAELens.

    benchmarks/.venv/bin/python records/2026-11-27_smollm2-beside-saelens/end_to_end.py WORK [--rounds 2]

Both train on the same tokens with the same weights at resid_post.15 (SAELens reads no GGUF, so the dequantised weights
are saved to WORK first): 8,192 features at L0 20, 40, 80 and 160, batches of 4,096. Every contender is a process of its
own. A sweep counts from the first request for activations to the last step. An evaluation measures the dictionaries
that unmix trained, with the model loaded before the clock starts: L0 and explained variance over 32,768 tokens,
cross-entropy over 8,192; SAELens' over training tokens, which does not change its time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

LAYER, T, FEATURES, BATCH, STEPS, PERIOD, L0S, LR = 15, 256, 8192, 4096, 24, 4, (20, 40, 80, 160), 3e-3
HOOK, THEIRS = f"resid_post.{LAYER}", f"model.layers.{LAYER}"
FIDELITY, CE, AT_ONCE = 32_768, 8_192, 8
OURS = {"auto": {}, "fp32": {"model.matmul": "fp32", "training.selection": "fp32", "training.dense": "fp32"}}
CONTENDERS = ("unmix auto", "SAELens autocast", "unmix fp32", "SAELens default")
Found = dict[str, float]


def prepare(work: Path, corpus: str) -> None:
    """The weights as `transformers` saves them, and the rows of tokens, once."""
    if (work / "tokens.npy").exists():
        return
    from unmix.config import CorpusConfig, ModelConfig
    from unmix.corpus.tokens import load_tokens
    from unmix.lm.model import load_language_model

    lm = load_language_model(ModelConfig(name="smollm2"))
    lm.model.hf_quantizer, lm.model.is_quantized = None, False  # it is dequantised
    if hasattr(lm.model.config, "quantization_config"):
        del lm.model.config.quantization_config
    lm.model.save_pretrained(work / "smollm2-hf")
    lm.tokenizer.save_pretrained(work / "smollm2-hf")
    rows = (STEPS + 4 * PERIOD) * BATCH // T
    tokens = load_tokens(CorpusConfig(source=corpus), lm.tokenizer, T, "train")
    np.save(work / "tokens.npy", tokens.ids_NT[:rows].astype(np.int64))


def sweep_of_unmix(work: Path, kind: str, corpus: str) -> Found:
    """`unmix sweep` without its evaluation, through the function behind the command."""
    from unmix.config import load
    from unmix.training import run

    keys = {
        "name": kind, "model.name": str(work / "smollm2-hf"), "corpus.source": corpus, "activations.hooks": [HOOK],
        "activations.sequence_length": T, "activations.chunk_sequences": PERIOD * BATCH // T,
        "sae.features": FEATURES, "sae.architecture": "batchtopk", "training.l0": list(L0S), "training.steps": STEPS,
        "training.batch_tokens": BATCH, "training.lr": LR, "training.log_every": PERIOD,
        "training.checkpoint_every": STEPS,
    }  # fmt: skip
    state, marks, opened = {}, [], run.open_inputs

    def open_inputs(*args: Any, **more: Any) -> Any:
        inputs = opened(*args, **more)
        state["began"] = time.perf_counter()
        return inputs

    run.open_inputs = open_inputs  # to know when it begins
    folder = work / f"unmix-{kind}"
    if folder.exists():
        folder.rename(work / f"unmix-{kind}-{time.time():.0f}")
    said = run.Watch(rows=lambda lines, steps: marks.append((lines[0]["step"], time.perf_counter() - state["began"])))
    run.sweep(load(None, keys | OURS[kind]), folder, said, force=True)
    return rates(marks)


def rates(marks: list[tuple[int, float]]) -> Found:
    """Of all steps, and of the last third, which begins and ends with a harvest done."""
    at = dict(marks)
    late = STEPS * 2 // 3
    return {
        "seconds": at[STEPS], "tokens_per_s": STEPS * BATCH / at[STEPS],
        "late_tokens_per_s": (STEPS - late) * BATCH / (at[STEPS] - at[late]),
    }  # fmt: skip


def proxy(work: Path) -> Any:
    """SAELens' own wrapper of a `transformers` model."""
    from sae_lens.load_model import HookedProxyLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(work / "smollm2-hf").eval().requires_grad_(False)
    return HookedProxyLM(model, AutoTokenizer.from_pretrained(work / "smollm2-hf"), hook_names=[THEIRS])


def sweep_of_saelens(work: Path, kind: str, corpus: str) -> Found:
    """`MultiSAETrainingRunner.run`: one pass of the model for all four, as here."""
    from datasets import Dataset
    from sae_lens import BatchTopKTrainingSAEConfig, LoggingConfig
    from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    autocast = kind == "autocast"
    config = MultiSAETrainingRunnerConfig(
        saes={f"k{k}": BatchTopKTrainingSAEConfig(d_in=576, d_sae=FEATURES, k=k) for k in L0S},
        hook_names=THEIRS,
        model_name="smollm2",
        model_class_name="AutoModelForCausalLM",
        context_size=T,
        n_batches_in_buffer=2 * PERIOD * BATCH // T,
        store_batch_size_prompts=BATCH // T,
        train_batch_size_tokens=BATCH,
        training_tokens=STEPS * BATCH,
        streaming=False,
        lr=LR,
        autocast=autocast,
        autocast_lm=autocast,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=None,
    )
    tokens = Dataset.from_dict({"input_ids": np.load(work / "tokens.npy").tolist()})
    runner = MultiSAETrainingRunner(config, override_dataset=tokens, override_model=proxy(work))
    marks: list[tuple[int, float]] = []

    def after_step(self: Any, outputs: dict[str, Any], pbar: Any, update_interval: int = 100) -> None:
        marks.append((self.n_training_steps, time.perf_counter() - began))

    MultiSAETrainer._update_pbar = after_step  # called after every step: where a clock can be read
    began = time.perf_counter()
    runner.run()
    return rates(marks)


def members(work: Path) -> dict[str, Path]:
    """name -> folder, of the dictionaries that unmix trained."""
    from unmix.runlog import newest_checkpoints

    return newest_checkpoints(work / "unmix-auto")


def evaluation_of_unmix(work: Path, kind: str, corpus: str) -> Found:
    """`unmix evaluate`, all four in one pass."""
    from unmix.config import CorpusConfig, ModelConfig
    from unmix.corpus.tokens import load_tokens
    from unmix.evaluation.evaluate import evaluate
    from unmix.interop.load import load_sae
    from unmix.lm.model import load_language_model
    from unmix.lm.products import multiply_in_bf16

    lm = load_language_model(ModelConfig(name=str(work / "smollm2-hf"), matmul="fp32"))
    if kind == "auto":
        lm = multiply_in_bf16(lm, torch.from_numpy(np.load(work / "tokens.npy")[:4]), [HOOK])
    tokens = load_tokens(CorpusConfig(source=corpus), lm.tokenizer, T, "held_out")
    saes = {name: load_sae(folder) for name, folder in members(work).items()}
    began = time.perf_counter()
    with torch.no_grad():
        evaluate(lm, tokens, HOOK, saes, fidelity_tokens=FIDELITY, ce_tokens=CE)
    return {"seconds": time.perf_counter() - began}


class Rows:
    """Stands in for SAELens' store of activations: rows of ids, some at a time, over and over from the first."""

    context_size, store_batch_size_prompts = T, AT_ONCE

    def __init__(self, ids_NT: torch.Tensor) -> None:
        self.ids_NT, self.at = ids_NT, 0

    def reset_input_dataset(self) -> None:
        self.at = 0

    def get_batch_tokens(self, rows: int) -> torch.Tensor:
        self.at += rows
        return self.ids_NT[self.at - rows : self.at]


def evaluation_of_saelens(work: Path, kind: str, corpus: str) -> Found:
    """`run_evals` on each of the four, under autocast or not."""
    from sae_lens import SAE, evals
    from sae_lens.training.activation_scaler import ActivationScaler

    asked = evals.EvalConfig(
        batch_size_prompts=AT_ONCE,
        n_eval_reconstruction_batches=CE // T // AT_ONCE,
        compute_ce_loss=True,
        compute_kl=True,
        n_eval_sparsity_variance_batches=FIDELITY // T // AT_ONCE,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    model, ids_NT = proxy(work), torch.from_numpy(np.load(work / "tokens.npy"))
    saes = [SAE.load_from_disk(str(folder)) for folder in members(work).values()]
    began = time.perf_counter()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        for sae in saes:
            sae.cfg.metadata.hook_name = THEIRS  # what the wrapper calls the place
            evals.run_evals(sae, Rows(ids_NT), model, ActivationScaler(), asked)
    return {"seconds": time.perf_counter() - began}


STAGES: dict[str, dict[str, Callable[[Path, str, str], Found]]] = {
    "sweep": {"unmix": sweep_of_unmix, "SAELens": sweep_of_saelens},
    "evaluate": {"unmix": evaluation_of_unmix, "SAELens": evaluation_of_saelens},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--corpus", default="english")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("STAGE", "CONTENDER"), help="this alone, in this process")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.one:
        stage, contender = args.one
        library, kind = contender.split(" ")
        found = STAGES[stage][library](args.work, kind, args.corpus)
        (args.work / "one.json").write_text(json.dumps(found))
        return
    prepare(args.work, args.corpus)
    out = Path(__file__).with_name("speed.jsonl")
    taken: dict[tuple[str, str], list[Found]] = {}
    for number in range(args.rounds):
        for stage in STAGES:
            for contender in CONTENDERS if number % 2 == 0 else reversed(CONTENDERS):
                command = [sys.executable, __file__, str(args.work), "--corpus", args.corpus, "--one", stage, contender]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{stage}, {contender}:\n{done.stderr[-3000:]}")
                one = json.loads((args.work / "one.json").read_text())
                taken.setdefault((stage, contender), []).append(one)
                with out.open("a") as file:
                    file.write(json.dumps({"round": number, "stage": stage, "contender": contender, **one}) + "\n")
                print(f"round {number}: {stage}, {contender}: {one}", file=sys.stderr, flush=True)
    print("| stage | contender | seconds | tokens/s | of the last third |\n|---|---|--:|--:|--:|")
    for (stage, contender), found in taken.items():
        cells = [
            f"{median(one[key] for one in found):,.{digits}f}" if key in found[0] else ""
            for key, digits in (("seconds", 1), ("tokens_per_s", 0), ("late_tokens_per_s", 0))
        ]
        print(f"| {stage} | {contender} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
