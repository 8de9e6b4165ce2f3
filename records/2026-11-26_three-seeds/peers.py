"""SAELens' own classes and trainer on the rows of a store, in their order: the same 2,000 batches that unmix saw.

    benchmarks/.venv/bin/python records/2026-11-26_three-seeds/peers.py STORE OUT JOB … [options]

The options are for other records: hook, features, steps, coefficients to begin with, and a length in medians beyond
which rows are left out, as unmix' mask does (here the next rows take their place, so that batches stay whole).

A JOB is `architecture:l0:lr:seed`, for instance `topk:20:1e-3:0`. topk kinds take k from it. For the others the
coefficient is looked for: the first is from `start.json` (where unmix' controller ended; SAELens' objective is the same
up to a scale of x that differs by some per cent), the next ones follow the last on a power law, until two lie on both
sides of the L0 asked for, at most 12 % apart from it, or `MOST` were trained. All are kept; `table.py` interpolates.

Of SAELens' defaults these are changed: fp32 and `expected_average_only_in` as its tutorial has it; the schedule is
that of unmix (100 steps of warm-up, linear decay to 0 over the last half, the coefficient warmed up over 5 %); and
`window`, a fifth part of a JOB that may be left out, is `dead_feature_window` (1,000 steps by default: in a run of
2,000 AuxK would begin half-way). OUT/runs.jsonl has a line a run: rate, L0 on rows behind the training's.
"""

from __future__ import annotations

import argparse
import json
import math
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

BATCH, FOR_SCALE, BEHIND = 512, 100, 24
CLASSES = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "MatryoshkaBatchTopK",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "relu": "Standard",
}
COEFFICIENT = {"jumprelu": "l0_coefficient", "gated": "l1_coefficient", "relu": "l1_coefficient"}
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


class Data:
    """The rows of a hook of a store, those that are not too long, and what follows them."""

    def __init__(self, store: Store, hook: str, steps: int, longest: float) -> None:
        self.store, self.hook, self.steps = store, hook, steps
        norm_B = store.head().activations[hook].float().norm(dim=1)
        self.most = longest * norm_B.median().item()

    def kept(self, first: int, last: int) -> Iterator[torch.Tensor]:
        """x of these batches, each without what is too long."""
        for batch in self.store.batches(first, last):
            x_BD = batch.activations[self.hook]
            yield x_BD[x_BD.norm(dim=1) <= self.most]

    def whole(self) -> Iterator[torch.Tensor]:
        """The same of all steps, in batches of BATCH; what is left over at the end is dropped."""
        rest = torch.empty(0, self.store.widths[self.hook])
        for x_BD in self.kept(0, self.steps):
            rest = torch.cat([rest, x_BD])
            while len(rest) >= BATCH:
                yield rest[:BATCH]
                rest = rest[BATCH:]

    def for_training(self) -> Iterator[torch.Tensor]:
        """What the estimate of the scale reads, then all from the beginning."""
        return chain(islice(self.whole(), FOR_SCALE), self.whole())


def train(data: Data, features: int, job: Job, setting: float, out: Path) -> dict[str, Any]:
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
        keys["l0_warm_up_steps" if job.architecture == "jumprelu" else "l1_warm_up_steps"] = data.steps // 20
    else:
        keys["k"] = int(setting)
    if job.architecture == "matryoshka":
        keys["matryoshka_widths"] = [features * n // 32 for n in (1, 3, 7, 15)] + [features]
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(
        d_in=data.store.widths[data.hook], d_sae=features, normalize_activations="expected_average_only_in", **keys
    )
    steps = sum(1 for _ in data.whole())
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * BATCH,
            train_batch_size_samples=BATCH,
            n_batches_for_norm_estimate=FOR_SCALE,
            lr=job.lr,
            lr_end=job.lr / 10,  # has to be given; the constant schedule decays to 0 all the same
            lr_warm_up_steps=100,
            lr_decay_steps=steps // 2,
            dead_feature_window=job.window,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=getattr(sae_lens, f"{kind}TrainingSAE")(config),
        data_provider=data.for_training(),
    )
    began = time.perf_counter()
    sae = trainer.fit()
    took = time.perf_counter() - began
    sae.save_inference_model(folder)
    behind = torch.cat(list(data.kept(data.steps, data.steps + BEHIND)))
    with torch.no_grad():
        theirs = sae_lens.SAE.load_from_disk(folder)
        f_BF, x_hat_BD = theirs.encode(behind), theirs(behind)
        apart = (load_sae(folder)(behind) - x_hat_BD).norm() / x_hat_BD.norm()  # a z at a threshold may round apart
    assert apart < 1e-3, f"unmix reads {folder} otherwise than SAELens: {apart}"
    found = {
        "folder": folder.name, **job._asdict(), "setting": setting, "tokens_per_s": round(steps * BATCH / took, 1),
        "l0_behind": f_BF.count_nonzero(1).double().mean().item(),
        "ev_behind": (1 - (behind - x_hat_BD).square().sum() / (behind - behind.mean(0)).square().sum()).item(),
    }  # fmt: skip
    with log.open("a") as file:
        file.write(json.dumps(found) + "\n")
    print({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}, flush=True)
    return found


def search(data: Data, features: int, job: Job, setting: float, out: Path, most: int) -> None:
    """Coefficients until two bracket the L0 closely enough, the first of which is `setting`."""
    power, tried = EXPONENT[job.architecture], {}
    while len(tried) < most:
        tried[setting] = train(data, features, job, setting, out)["l0_behind"]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("jobs", nargs="+", metavar="JOB", type=Job.read)
    parser.add_argument("--hook", default="resid_post.3")
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--longest", type=float, default=math.inf, help="in medians")
    parser.add_argument("--start", type=Path, default=Path(__file__).parent / "start.json")
    parser.add_argument("--most", type=int, default=MOST, help="coefficients that are tried")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start = json.loads(args.start.read_text())
    data = Data(Store(args.store, [args.hook], batch_tokens=BATCH), args.hook, args.steps, args.longest)
    for job in args.jobs:
        if job.architecture in COEFFICIENT:
            search(data, args.features, job, start[f"{job.architecture}:{job.l0:g}"], args.out, args.most)
        else:
            train(data, args.features, job, job.l0, args.out)


if __name__ == "__main__":
    main()
