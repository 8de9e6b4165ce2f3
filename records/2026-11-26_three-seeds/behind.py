"""A quick look: L0, EV and dead of every dictionary on the store's last 24,576 rows, which none was trained on.

    python records/2026-11-26_three-seeds/behind.py STORE RUNS PEERS

The rows are of training documents. Dictionaries that were trained on what centre.py wrote are judged on the same rows
there. behind.jsonl; `judge.py` is the measure that counts, on held-out documents.
"""

import json
import sys
from pathlib import Path

import torch
from judge import ours, theirs

from unmix.activations.store import Store
from unmix.interop.load import load_sae

HOOK, BATCH, FIRST, LAST = "resid_post.3", 512, 2000, 2048
MOVED = ("mean-only", "scale-only", "centred")


def rows(store: Path, run: str) -> torch.Tensor:
    """What a run's dictionaries act on."""
    if run.startswith("centred"):
        store = store.with_name(f"{store.name}-{next(how for how in MOVED if how in run)}")
    return torch.cat([b.activations[HOOK] for b in Store(store, [HOOK], batch_tokens=BATCH).batches(FIRST, LAST)])


def main(store: Path, runs: Path, peers: Path) -> None:
    """A line a dictionary."""
    at = ""
    with (Path(__file__).parent / "behind.jsonl").open("w") as file, torch.no_grad():
        for name, (folder, about) in {**ours(runs, moved=True), **theirs(peers)}.items():
            if about["run"] != at:
                at, x_BD = about["run"], rows(store, about["run"])
                total = (x_BD - x_BD.mean(0)).square().sum().item()
            sae, error = load_sae(folder), 0.0
            active = torch.zeros(sae.features, dtype=torch.int64)
            for part in x_BD.split(2048):
                f_BF = sae.encode(part)
                error += (sae.decode(f_BF, part) - part).square().sum().item()
                active += f_BF.count_nonzero(0)
            row = {
                "name": name, **about, "l0": active.sum().item() / len(x_BD), "explained_variance": 1 - error / total,
                "dead": (active == 0).double().mean().item(),
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
            print(
                f"{name:<50} L0 {row['l0']:.2f}  EV {row['explained_variance']:.4f}  dead {row['dead']:.3f}", flush=True
            )


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:4]))
