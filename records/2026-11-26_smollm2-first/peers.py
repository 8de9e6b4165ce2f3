"""SAELens' own trainer on the rows of a store, in their order, with and without the model's special tokens.

    benchmarks/.venv/bin/python records/2026-11-26_smollm2-first/peers.py STORE HOOK OUT

A member of `PEERS` is an architecture with its settings; each is trained twice: on every token, as SAELens does by
default, and with `exclude_special_tokens`, which drops the special tokens of the tokenizer (here `<|endoftext|>`, at
the start of every row and between documents). Inputs are scaled as SAELens does it if asked
(`expected_average_only_in`). What is written are SAELens' own folders, OUT/NAME, and OUT/times.json: tokens a second of
the training alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    LoggingConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from unmix.activations.store import Store

BATCH = 512
PEERS = {
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, {"l1_coefficient": 1.5}),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 30}),
}


def rows(store: Store, hook: str, without: set[int]) -> Iterator[torch.Tensor]:
    """Batches of BATCH rows without these token ids, across the store's batches; as long as it is asked."""
    left = torch.empty(0, store.widths[hook])
    for batch in store.batches(0, 10**9):
        kept_B = ~torch.isin(batch.token_ids_B, torch.tensor(sorted(without), dtype=torch.int64))
        left = torch.cat([left, batch.activations[hook][kept_B]])
        while len(left) >= BATCH:
            yield left[:BATCH]
            left = left[BATCH:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("hook")
    parser.add_argument("out", type=Path)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS))
    args = parser.parse_args()
    times: dict[str, float] = {}
    for name in args.only:
        kind, config, settings = PEERS[name]
        for label, excluded in (("every token", False), ("no special tokens", True)):
            store = Store(args.store, [args.hook], batch_tokens=BATCH)
            without = set(store.manifest["special_ids"]) if excluded else set()
            torch.manual_seed(0)
            made = config(
                d_in=store.widths[args.hook],
                d_sae=args.features,
                normalize_activations="expected_average_only_in",
                **settings,
            )
            trainer = SAETrainer(
                cfg=SAETrainerConfig(
                    total_training_samples=args.steps * BATCH,
                    train_batch_size_samples=BATCH,
                    n_batches_for_norm_estimate=100,
                    lr=args.lr,
                    lr_end=args.lr / 10,
                    lr_decay_steps=args.steps // 5,
                    lr_warm_up_steps=100,
                    autocast=True,
                    logger=LoggingConfig(log_to_wandb=False),
                ),
                sae=kind(made),
                data_provider=rows(store, args.hook, without),
            )
            began = time.perf_counter()
            sae = trainer.fit()
            times[f"{name}, {label}"] = round(args.steps * BATCH / (time.perf_counter() - began), 1)
            sae.save_inference_model(args.out / f"{name}, {label}")
            (args.out / "times.json").write_text(json.dumps(times, indent=1) + "\n")
            print(name, label, times[f"{name}, {label}"], "tokens/s", flush=True)


if __name__ == "__main__":
    main()
