"""One sweep in a process of its own; `sweep.py` starts it.

    python sweep_worker.py CONTENDER JOB.json OUT.json

Writes when each step ended, counted from the first request for activations (loading the model is not in it), and
for each coefficient the L0 and the loss over the last steps.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import use_threads
from gpt2 import HOOKS, LAYER, hooked_transformer, proxy
from ours import PRECISIONS
from torch import Tensor

Job = dict[str, Any]


def unmix(job: Job, precision: str) -> dict[str, Any]:
    """`unmix sweep`, through the function behind the command."""
    from unmix.config import load
    from unmix.training import run

    folder = Path(job["folder"]) / "run"
    shutil.rmtree(folder, ignore_errors=True)
    recipe = load(None, recipe_keys(job) | PRECISIONS[precision])
    marks: list[tuple[int, float]] = []
    last: dict[str, dict[str, float]] = {}
    state: dict[str, Any] = {}
    opened, made = run.open_inputs, run.new_member

    def open_inputs(*args: Any, **kwargs: Any) -> Any:
        inputs = opened(*args, **kwargs)
        state["began"], state["resident_mb"] = time.perf_counter(), resident_mb()
        return inputs

    def new_member(*args: Any, **kwargs: Any) -> Any:
        member = made(*args, **kwargs)
        if job["settled_bias"]:
            member.weights["b_enc"].fill_(job["bias"])
        return member

    def rows(lines: list[dict[str, Any]], steps: int) -> None:
        marks.append((lines[0]["step"], time.perf_counter() - state["began"]))
        last.update({f"{line['l1']:g}": {"l0": line["l0"], "loss": line["loss"]} for line in lines})

    run.open_inputs, run.new_member = open_inputs, new_member  # to know when it begins, and for --settled-bias
    run.sweep(recipe, folder, run.Watch(rows=rows), force=True)
    shutil.rmtree(folder)
    return {"marks": marks, "members": last, "resident_mb": state["resident_mb"]}


def recipe_keys(job: Job) -> dict[str, Any]:
    """The sweep as a recipe."""
    return {
        "name": "run",
        "model.name": job["folder"],
        "corpus.source": "stdlib",
        "corpus.max_tokens": job["sequences"] * job["length"],
        "activations.hooks": [f"resid_post.{LAYER - 1}"],
        "activations.sequence_length": job["length"],
        "activations.chunk_sequences": job["period"] * job["tokens"] // job["length"],
        "sae.features": job["features"],
        "sae.scaling": "none",
        "training.l1": job["l1"],
        "training.steps": job["steps"],
        "training.batch_tokens": job["tokens"],
        "training.lr": job["lr"],
        "training.lr_warmup_steps": 0,
        "training.l1_warmup_fraction": 0.0,
        "training.decay_fraction": 0.0,
        "training.log_every": job["period"],
        "training.checkpoint_every": 10**9,
        "training.clip_norm": 1.0,
    }


def saelens(job: Job, kind: str) -> dict[str, Any]:
    """`MultiSAETrainingRunner.run`; the default and autocast run HookedTransformer, `auto…` a `transformers` model."""
    from datasets import load_from_disk
    from sae_lens import LoggingConfig, StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    folder = Path(job["folder"])
    wrapper = "AutoModelForCausalLM" if kind.startswith("auto-model") else "HookedTransformer"
    autocast = kind.endswith("autocast")
    names = {f"{l1:g}": l1 for l1 in job["l1"]}
    configs = {
        name: StandardTrainingSAEConfig(
            d_in=job["width"], d_sae=job["features"], l1_coefficient=l1, apply_b_dec_to_input=False
        )
        for name, l1 in names.items()
    }
    saes = {name: StandardTrainingSAE(config) for name, config in configs.items()}
    for sae in saes.values():
        same_start(sae, job)
    config = MultiSAETrainingRunnerConfig(
        saes=configs,
        hook_names=HOOKS[wrapper],
        model_name="gpt2",
        model_class_name=wrapper,
        context_size=job["length"],
        # half of a buffer of two periods is served, half is kept to be mixed: as often a refill as ours
        n_batches_in_buffer=2 * job["period"] * job["tokens"] // job["length"],
        store_batch_size_prompts=job["tokens"] // job["length"],
        train_batch_size_tokens=job["tokens"],
        training_tokens=job["steps"] * job["tokens"],
        streaming=False,
        lr=job["lr"],
        autocast=autocast,
        autocast_lm=autocast,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=None,
    )
    model = proxy(folder) if wrapper == "AutoModelForCausalLM" else hooked_transformer(folder)
    tokens = load_from_disk(str(folder / f"tokens-{job['length']}"))
    runner = MultiSAETrainingRunner(config, override_dataset=tokens, override_model=model, override_saes=saes)
    marks: list[tuple[int, float]] = []
    losses: dict[str, list[float]] = {name: [] for name in names}
    fired = {name: [0.0] for name in names}
    began = resident = 0.0

    def after_step(self: Any, outputs: dict[str, Any], pbar: Any, update_interval: int = 100) -> None:
        marks.append((self.n_training_steps, time.perf_counter() - began))
        for name, output in outputs.items():
            losses[name].append(output.loss.item())
            fired[name].append(self.trainers[name].act_freq_scores.sum().item())

    MultiSAETrainer._update_pbar = after_step  # called after every step: where a clock can be read
    began, resident = time.perf_counter(), resident_mb()
    runner.run()
    n = job["period"]
    members = {
        name: {
            "l0": (fired[name][-1] - fired[name][-1 - n]) / (n * job["tokens"]),
            "loss": sum(losses[name][-n:]) / n,
        }
        for name in names
    }
    return {"marks": [mark for mark in marks if mark[0] % n == 0], "members": members, "resident_mb": resident}


def same_start(sae: Any, job: Job) -> None:
    """The dictionary that unmix starts from."""
    from unmix.dictionary.model import new_dictionary

    fresh = new_dictionary(job["width"], job["features"], 0.1, 0)
    pairs: list[tuple[Tensor, Tensor]] = [(sae.W_enc, fresh.W_enc), (sae.W_dec, fresh.W_dec)]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(ours)
        sae.b_enc.fill_(job["bias"] if job["settled_bias"] else 0.0)


def resident_mb() -> float:
    """Memory in use now, in MB."""
    from unmix.machine import resident

    return resident() / 1e6


def main() -> None:
    contender, job_path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    job = json.loads(job_path.read_text())
    use_threads(job["threads"])
    library, kind = contender.split(" ", 1)
    found = unmix(job, kind) if library == "unmix" else saelens(job, kind)
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
