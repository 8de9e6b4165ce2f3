"""The tables of README.md, from rows.jsonl here; with run folders, that is written first.

    python records/2026-11-28_bias-rate/table.py [RUN …]
    python records/2026-11-28_bias-rate/table.py --mean STORE HOOK      what the mean has of E||x||², without outliers

Numbers are those of the last line of each member in metrics.jsonl: the last 50 steps of training, tokens that were
trained on.
"""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from unmix.activations.store import Store
from unmix.config import load_resolved
from unmix.runlog import read_manifest

HERE = Path(__file__).parent
ROWS = HERE / "rows.jsonl"
Row = dict[str, Any]


def of_run(run: Path) -> list[Row]:
    """A line a member."""
    manifest = read_manifest(run / "run.yaml")
    recipe = load_resolved(manifest["recipe"], run / "run.yaml")
    found = []
    last = {row["member"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    for row in last.values():
        sae, training = recipe.of_variant(row.get("variant", ""))
        rate = sae.bias_rate_at(SMOLLM2 if recipe.model.name == "smollm2" else EMBEDDED)
        if run.name in PATCHED:
            rate = PATCHED[run.name]
        found.append(
            {
                "model": recipe.model.name,
                "architecture": sae.architecture,
                "centre": sae.centre,
                "lr": training.lr,
                "bias_rate": rate,
                "steps": row["step"],
                "asked": row.get("target_l0"),
                "coefficient": row.get("coefficient", row["l1"]),
                **{key: row[key] for key in ("l0", "explained_variance", "dead_fraction")},
            }
        )
    return found


SMOLLM2, EMBEDDED = 576, 256
PATCHED = {
    **{"biases-3": 3.0, "biases-10": 10.0, "biases-30": 30.0, "biases-100": 100.0, "all-24": 24.0},
    **{"relu-3e-3": 24.0, "relu-6e-3": 24.0, "relu-1.2e-2": 24.0, "e-3e-3": 16.0, "e-6e-3": 16.0},
}
"""Runs whose run.yaml does not say it: by a patch of the update that is the same but for rounding, or when it was √D by
default."""


def at_l0(rows: list[Row], l0: float) -> str:
    """Explained variance there, linear in log L0 between the two nearest around it."""
    rows = sorted(rows, key=lambda row: row["l0"])
    for low, high in pairwise(rows):
        if low["l0"] <= l0 <= high["l0"]:
            part = math.log(l0 / low["l0"]) / math.log(high["l0"] / low["l0"])
            more = high["explained_variance"] - low["explained_variance"]
            return f"{low['explained_variance'] + part * more:.3f}"
    return ""


def fixed(rows: list[Row]) -> None:
    """relu on SmolLM2 at fixed coefficients: a line a treatment."""
    rows = [row for row in rows if row["asked"] is None and row["model"] == "smollm2"]
    print(
        "| centre | lr | biases | " + " | ".join(f"EV at L0 {l0}" for l0 in (15, 20, 30)) + " | L0 and EV of each λ |"
    )
    print("|---|--:|--:|--:|--:|--:|---|")
    for key in sorted({(row["centre"], row["lr"], row["bias_rate"]) for row in rows}):
        of = [row for row in rows if (row["centre"], row["lr"], row["bias_rate"]) == key]
        each = "; ".join(f"{r['coefficient']:g}: {r['l0']:.1f}, {r['explained_variance']:.3f}" for r in of)
        centre, lr, rate = key
        print(f"| {centre} | {lr:g} | {rate:g} | " + " | ".join(at_l0(of, l0) for l0 in (15, 20, 30)) + f" | {each} |")


def asked(rows: list[Row]) -> None:
    """By request: each architecture at its learning rates, biases moved as far as the rest, and √D times as far."""
    rows = [row for row in rows if row["asked"] is not None and row["architecture"] != "matryoshka"]
    rows = [row for row in rows if row["architecture"] == "relu" or row["lr"] == 3e-3]
    print("\n| model, steps | architecture, lr | biases | L0 20: L0 | EV | L0 50: L0 | EV | L0 100: L0 | EV |")
    print("|---|---|" + "--:|" * 7)
    keys = {(r["model"], r["steps"], r["architecture"], r["lr"], r["bias_rate"]) for r in rows}
    for key in sorted(keys, key=lambda key: (key[0], key[1], key[2] != "relu", *key[2:])):
        model, steps, architecture, lr, rate = key
        of = [r for r in rows if (r["model"], r["steps"], r["architecture"], r["lr"], r["bias_rate"]) == key]
        cells = [f"{r['l0']:.1f} | {r['explained_variance']:.3f}" for r in sorted(of, key=lambda r: r["asked"])]
        print(f"| {model}, {steps:,} | {architecture}, {lr:g} | {rate:.2g} | " + " | ".join(cells) + " |")


def mean_share(store: Path, hook: str) -> float:
    """||E x||² / E||x||² of the first 12,288 rows, without those over 10 medians."""
    batches = Store(store, [hook], batch_tokens=4096).batches(0, 3)
    x_ND = torch.cat([batch.activations[hook].double() for batch in batches])
    norm_N = x_ND.norm(dim=1)
    x_ND = x_ND[norm_N <= 10 * norm_N.median()]
    return float(x_ND.mean(0).square().sum() / x_ND.square().sum(1).mean())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--mean"]:
        print(f"{mean_share(Path(sys.argv[2]), sys.argv[3]):.3f}")
        sys.exit()
    if sys.argv[1:]:
        lines = [json.dumps(row) + "\n" for run in sys.argv[1:] for row in of_run(Path(run))]
        ROWS.write_text("".join(lines))
    kept = [json.loads(line) for line in ROWS.read_text().splitlines()]
    fixed(kept)
    asked(kept)
