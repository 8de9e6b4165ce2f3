"""SAELens' own classes and trainer on the rows of a store, in their order: the same 2,000 batches that unmix saw.

    benchmarks/.venv/bin/python records/2026-11-26_three-seeds/peers.py STORE OUT JOB …

A JOB is `architecture:l0:lr:seed`, for instance `topk:20:1e-3:0`. topk kinds take k from it. For the others the
coefficient is looked for: the first is `START` (what unmix' controller ended with; SAELens' objective is the same up
to a scale of x that differs by some per cent), the next ones follow the last on a power law, until two lie on both
sides of the L0 asked for, at most 12 % apart from it, or `MOST` were trained. All are kept; `table.py` interpolates.

Of SAELens' defaults these are changed: fp32 and `expected_average_only_in` as its tutorial has it; the schedule is
that of unmix (100 steps of warm-up, linear decay to 0 over the last half, the coefficient warmed up over 5 %); and
`window`, a fifth part of a JOB that may be left out, is `dead_feature_window` (1,000 steps by default: in a run of
2,000 AuxK would begin half-way). OUT/runs.jsonl has a line a run: rate, L0 on rows behind the training's.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import sae_lens
import torch
from sae_lens import LoggingConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from unmix.activations.store import Store
from unmix.interop.load import load_sae

HOOK, BATCH, STEPS, FEATURES, FOR_SCALE, BEHIND = "resid_post.3", 512, 2000, 1024, 100, 24
CLASSES = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "MatryoshkaBatchTopK",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "relu": "Standard",
}
COEFFICIENT = {"jumprelu": "l0_coefficient", "gated": "l1_coefficient", "relu": "l1_coefficient"}
START = json.loads((Path(__file__).parent / "start.json").read_text())
EXPONENT = {"jumprelu": 0.87, "gated": 0.78, "relu": 0.78}  # coefficient ~ L0^-EXPONENT
NEAR, MOST = 1.12, 3


class Job(NamedTuple):
    """What to train."""

    architecture: str
    l0: float
    lr: float
    seed: int
    window: int = 1000

    @classmethod
    def read(cls, text: str) -> Job:
        """From the command line."""
        kind, l0, lr, seed, *window = text.split(":")
        return cls(kind, float(l0), float(lr), int(seed), *map(int, window))

    def name(self, setting: float) -> str:
        """Of its folder."""
        return f"{self.architecture}_{setting:.6g}_lr{self.lr:g}_seed{self.seed}_window{self.window}"


def rows(store: Store) -> Iterator[torch.Tensor]:
    """What the estimate of the scale reads, then all from the beginning."""
    every = (batch.activations[HOOK] for batch in store.batches(0, STEPS))
    return chain(list(islice((batch.activations[HOOK] for batch in store.batches(0, FOR_SCALE)), FOR_SCALE)), every)


def train(store: Store, job: Job, setting: float, out: Path) -> dict[str, Any]:
    """One SAE, saved; what there is to say of it."""
    folder = out / job.name(setting)
    log = out / "runs.jsonl"
    if folder.exists() and log.exists():
        for line in log.read_text().splitlines():
            if json.loads(line)["folder"] == folder.name:
                return dict(json.loads(line))
    torch.manual_seed(job.seed)
    kind = CLASSES[job.architecture]
    keys: dict[str, Any] = {}
    if job.architecture in COEFFICIENT:
        keys[COEFFICIENT[job.architecture]] = setting
        keys["l0_warm_up_steps" if job.architecture == "jumprelu" else "l1_warm_up_steps"] = STEPS // 20
    else:
        keys["k"] = int(setting)
    if job.architecture == "matryoshka":
        keys["matryoshka_widths"] = [FEATURES * n // 32 for n in (1, 3, 7, 15)] + [FEATURES]
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(
        d_in=store.widths[HOOK], d_sae=FEATURES, normalize_activations="expected_average_only_in", **keys
    )
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=STEPS * BATCH,
            train_batch_size_samples=BATCH,
            n_batches_for_norm_estimate=FOR_SCALE,
            lr=job.lr,
            lr_end=job.lr / 10,  # has to be given; the constant schedule decays to 0 all the same
            lr_warm_up_steps=100,
            lr_decay_steps=STEPS // 2,
            dead_feature_window=job.window,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=getattr(sae_lens, f"{kind}TrainingSAE")(config),
        data_provider=rows(store),
    )
    began = time.perf_counter()
    sae = trainer.fit()
    took = time.perf_counter() - began
    sae.save_inference_model(folder)
    behind = torch.cat([batch.activations[HOOK] for batch in store.batches(STEPS, STEPS + BEHIND)])
    with torch.no_grad():
        theirs = sae_lens.SAE.load_from_disk(folder)
        f_BF, x_hat_BD = theirs.encode(behind), theirs(behind)
        apart = (load_sae(folder)(behind) - x_hat_BD).norm() / x_hat_BD.norm()  # a z at a threshold may round apart
    assert apart < 1e-3, f"unmix reads {folder} otherwise than SAELens: {apart}"
    found = {
        "folder": folder.name, **job._asdict(), "setting": setting, "tokens_per_s": round(STEPS * BATCH / took, 1),
        "l0_behind": f_BF.count_nonzero(1).double().mean().item(),
        "ev_behind": (1 - (behind - x_hat_BD).square().sum() / (behind - behind.mean(0)).square().sum()).item(),
    }  # fmt: skip
    with log.open("a") as file:
        file.write(json.dumps(found) + "\n")
    print({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}, flush=True)
    return found


def search(store: Store, job: Job, out: Path) -> None:
    """Coefficients until two bracket the L0 closely enough."""
    power, tried = EXPONENT[job.architecture], {}
    setting = START[f"{job.architecture}:{job.l0:g}"]
    while len(tried) < MOST:
        tried[setting] = train(store, job, setting, out)["l0_behind"]
        off = {c: math.log(max(l0, 0.1) / job.l0) for c, l0 in tried.items()}
        above = [c for c in off if 0 <= off[c] < math.log(NEAR)]
        below = [c for c in off if -math.log(NEAR) < off[c] <= 0]
        if (above and below) or min(map(abs, off.values())) < 0.01:
            return
        nearest = min(off, key=lambda c: abs(off[c]))
        aim = off[nearest] + math.copysign(0.03, off[nearest])  # a little beyond, so that the two bracket it
        setting = float(f"{nearest * math.exp(power * aim):.5g}")


def main() -> None:
    torch.set_flush_denormal(True)
    out = Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    store = Store(Path(sys.argv[1]), [HOOK], batch_tokens=BATCH)
    for text in sys.argv[3:]:
        job = Job.read(text)
        if job.architecture in COEFFICIENT:
            search(store, job, out)
        else:
            train(store, job, job.l0, out)


if __name__ == "__main__":
    main()
