"""The tables of README.md, from evaluation.jsonl and peers.jsonl here.

    python records/2026-11-27_smollm2-beside-saelens/table.py
    python records/2026-11-27_smollm2-beside-saelens/table.py --start RUN      writes start.json, from where RUN ended

A coefficient gives SAELens' penalised kinds an L0 that is some per cent off the one asked for. So ours are read at the
L0 of SAELens' dictionaries: ours of the same architecture that was asked for that L0, moved along the line through our
two nearest of seed 0, in log L0.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HERE = Path(__file__).parent
KINDS, L0S = ("batchtopk", "matryoshka", "jumprelu", "relu"), (20.0, 50.0, 100.0)
COLUMNS = (("explained_variance", 4), ("delta_ce", 3), ("kl", 3), ("dead", 3))
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Its lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_start(run: Path) -> None:
    """architecture:l0 -> the coefficient that the controller of that member ended with."""
    last = {row["member"]: row for row in read(run / "metrics.jsonl")}
    found = {
        f"{row['variant'] or 'relu'}:{row['target_l0']:g}": row["coefficient"]
        for row in last.values()
        if row.get("coefficient")
    }
    (HERE / "start.json").write_text(json.dumps(found, indent=1) + "\n")


def select(rows: Iterable[Row], **keys: Any) -> list[Row]:
    """Those with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in keys.items())]


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation, or the one there is."""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def nearest(rows: list[Row], l0: float) -> list[Row]:
    """By how far their L0 is from this one."""
    return sorted(rows, key=lambda row: abs(math.log(row["l0"] / l0)))


def at(ours: list[Row], l0: float, key: str, *, seed: int, asked: float) -> float:
    """Ours of this seed at an L0 near the one asked for; `ours`: of one architecture."""
    first, second = nearest(select(ours, seed=0), l0)[:2]
    slope = (second[key] - first[key]) / math.log(second["l0"] / first["l0"])
    (own,) = select(ours, seed=seed, asked=asked)
    return float(own[key] + slope * math.log(l0 / own["l0"]))


def beside(rows: list[Row]) -> None:
    """Ours and SAELens', at the best rate of those tried on seed 0."""
    print("| architecture, L0 | SAELens: rate | seeds | L0 | EV | ΔCE | KL | dead "
          "| ours: seeds | EV | ΔCE | KL | dead | ours − SAELens' EV |")  # fmt: skip
    print("| --- " + "| --: " * 13 + "|")
    for kind in KINDS:
        ours = select(rows, by="unmix", architecture=kind)
        for asked in L0S:
            theirs = select(rows, by="SAELens", architecture=kind, asked=asked)
            rates = sorted({row["lr"] for row in select(theirs, seed=0)})
            if not rates:
                continue
            gain = {}  # rate -> by how much SAELens' explains more than ours at its L0
            for lr in rates:
                row = nearest(select(theirs, seed=0, lr=lr), asked)[0]
                own = at(ours, row["l0"], "explained_variance", seed=0, asked=asked)
                gain[lr] = row["explained_variance"] - own
            best = max(rates, key=lambda lr: gain[lr])
            seeds = sorted({row["seed"] for row in select(theirs, lr=best)})
            chosen = [nearest(select(theirs, lr=best, seed=seed), asked)[0] for seed in seeds]
            l0 = mean(row["l0"] for row in chosen)
            own_seeds = [row["seed"] for row in select(ours, asked=asked)]
            own_by_key = {key: [at(ours, l0, key, seed=seed, asked=asked) for seed in own_seeds] for key, _ in COLUMNS}
            cells = [
                f"{kind} {asked:g}", f"{best:g} of {', '.join(f'{lr:g}' for lr in rates)}", str(len(seeds)),
                spread([row["l0"] for row in chosen], 1),
                *(spread([row[key] for row in chosen], digits) for key, digits in COLUMNS),
                str(len(own_seeds)), *(spread(own_by_key[key], digits) for key, digits in COLUMNS),
            ]  # fmt: skip
            more = mean(own_by_key["explained_variance"]) - mean(row["explained_variance"] for row in chosen)
            print("| " + " | ".join([*cells, f"{more:+.4f}"]) + " |")


def every(rows: list[Row]) -> None:
    """Each of SAELens' dictionaries, with ours of seed 0 at its L0."""
    head = "architecture, L0", "rate", "seed", "setting", "L0", "EV", "ours there", "ΔCE", "ours there"
    print("\n| " + " | ".join(head) + " |\n| --- " + "| --: " * 8 + "|")
    for row in sorted(select(rows, by="SAELens"), key=lambda r: (KINDS.index(r["architecture"]), r["asked"], r["lr"])):
        kind, asked = row["architecture"], row["asked"]
        ours = select(rows, by="unmix", architecture=kind)
        ev, ce = (
            f"{row[key]:.4f} | {at(ours, row['l0'], key, seed=0, asked=asked):.4f}"
            for key in ("explained_variance", "delta_ce")
        )
        setting, l0 = f"{row['coefficient']:.4g}", f"{row['l0']:.1f}"
        print(f"| {kind} {asked:g} | {row['lr']:g} | {row['seed']} | {setting} | {l0} | {ev} | {ce} |")


def cost() -> None:
    """Seconds a dictionary of SAELens', by architecture, while other work ran."""
    peers = read(HERE / "peers.jsonl")
    for kind in KINDS:
        speeds = [row["tokens_per_s"] for row in select(peers, architecture=kind)]
        if speeds:
            print(f"{kind}: {len(speeds)} runs, {min(speeds):,.0f} to {max(speeds):,.0f} tokens/s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--start"]:
        write_start(Path(sys.argv[2]))
    else:
        rows = read(HERE / "evaluation.jsonl")
        beside(rows)
        every(rows)
        cost()
