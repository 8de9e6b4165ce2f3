"""Do other seeds find the same features? A line per architecture, L0 and maker in stability.jsonl.

    benchmarks/.venv/bin/python records/2026-11-26_three-seeds/stability.py STORE RUNS PEERS [OUT]

The seeds differ in the first weights alone; batches and their order are the same. For each pair of seeds, both ways,
over live features (those that fire on at least one of the store's last 131,072 tokens):

    best        a feature's largest cosine with a live decoder row of the other seed; the mean over features
    by firing   the same mean, a feature weighted by how often it fires
    matched     the mean cosine of the one-to-one matching with the largest sum (Hungarian), over the smaller side
    above 0.9   the share of live features whose partner in that matching has a cosine above 0.9

`chance` is what rows drawn at random, as many as live ones, would give.
"""

from __future__ import annotations

import json
import sys
from itertools import permutations
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from judge import ours, theirs
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unmix.activations.store import Store
from unmix.interop.load import load_sae

HOOK, TOKENS, BATCH = "resid_post.3", 131_072, 4096


def live_rows(folder: Path, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """(decoder rows of length 1 of the live features, how often each fires)."""
    sae = load_sae(folder)
    fired_F = torch.zeros(sae.features, dtype=torch.int64)
    with torch.no_grad():
        for part in x_BD.split(BATCH):
            fired_F += sae.encode(part).count_nonzero(0)
        rows_FD = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    return rows_FD[fired_F > 0], fired_F[fired_F > 0].double()


def compare(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> dict[str, float]:
    """How the features of a are found again in b."""
    cosine_NM = a[0] @ b[0].T
    best_N = cosine_NM.max(dim=1).values.double()
    at_N, at_M = linear_sum_assignment(cosine_NM.numpy(), maximize=True)
    matched = cosine_NM[at_N, at_M]
    return {
        "best": best_N.mean().item(),
        "by_firing": ((best_N * a[1]).sum() / a[1].sum()).item(),
        "matched": matched.mean().item(),
        "above_0.9": (matched > 0.9).sum().item() / len(best_N),
    }


def average(rows: list[dict[str, float]]) -> dict[str, float]:
    """Over pairs."""
    return {key: round(mean(row[key] for row in rows), 4) for key in rows[0]}


def main(store: Path, runs: Path, peers: Path, out: Path = Path(__file__).parent / "stability.jsonl") -> None:
    source = Store(store, [HOOK], batch_tokens=BATCH)
    last = source.rows // BATCH
    x_BD = torch.cat([b.activations[HOOK] for b in source.batches(last - TOKENS // BATCH, last)])
    groups: dict[tuple[Any, ...], dict[int, Path]] = {}
    for folder, about in [*ours(runs).values(), *theirs(peers).values()]:
        if about["by"] == "unmix" and not about["run"].startswith("seed-"):
            continue
        if about["by"] != "unmix" and about["architecture"] not in ("topk", "batchtopk", "matryoshka"):
            continue  # of the others each seed has its own L0
        key = (about["by"], about["architecture"], about["asked"], about["lr"], about.get("window"))
        groups.setdefault(key, {})[about["seed"]] = folder
    generator = torch.Generator().manual_seed(0)
    with out.open("w") as file:
        for key, folders in groups.items():
            if len(folders) < 2:
                continue
            found = {seed: live_rows(folder, x_BD) for seed, folder in folders.items()}
            drawn = {
                seed: (torch.nn.functional.normalize(torch.randn(rows.shape, generator=generator), dim=1), fired)
                for seed, (rows, fired) in found.items()
            }
            line = dict(zip(("by", "architecture", "asked", "lr", "window"), key, strict=True))
            line["seeds"] = len(folders)
            line["live"] = round(mean(len(rows) for rows, _ in found.values()), 1)
            line |= average([compare(found[a], found[b]) for a, b in permutations(found, 2)])
            line["chance"] = average([compare(drawn[a], drawn[b]) for a, b in permutations(found, 2)])
            file.write(json.dumps(line) + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:5]))
