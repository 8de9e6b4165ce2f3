"""The tables of README.md, from evaluation.jsonl and peers.jsonl here.

    python records/2026-11-27_smollm2-beside-saelens/table.py
    python records/2026-11-27_smollm2-beside-saelens/table.py --start RUN      writes start.json, from where RUN ended

A coefficient gives SAELens' penalised kinds an L0 that is some per cent off the one asked for. So ours are read at the
L0 of SAELens' dictionaries: ours of the same architecture that was asked for that L0, moved along the line through our
two nearest of seed 0 at 3e-3, in log L0. Both sides are at the best learning rate of those tried on seed 0: SAELens' by
what it explains of the rows behind the training's (peers.jsonl), ours by what it explains of the held-out tokens.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from itertools import product
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


def at(ours: list[Row], own: Row, l0: float, key: str) -> float:
    """One of `ours`, of one architecture, at an L0 near its own."""
    first, second = nearest(select(ours, seed=0, lr=3e-3), l0)[:2]
    slope = (second[key] - first[key]) / math.log(second["l0"] / first["l0"])
    return float(own[key] + slope * math.log(l0 / own["l0"]))


def best(ours: list[Row], rows: list[Row], asked: float) -> tuple[float, str]:
    """The rate at which seed 0 explains most, next to what `ours` explain at the same L0, and all that were tried."""
    (reference,) = select(ours, seed=0, lr=3e-3, asked=asked)
    more = {}
    for lr in sorted({row["lr"] for row in select(rows, seed=0)}):
        row = nearest(select(rows, seed=0, lr=lr), asked)[0]
        more[lr] = row["explained_variance"] - at(ours, reference, row["l0"], "explained_variance")
    found = max(more, key=lambda lr: more[lr])
    return found, f"{found:g} of {', '.join(f'{lr:g}' for lr in more)}"


def trained(kind: str, asked: float) -> list[Row]:
    """All of SAELens' that were, as they did on the rows behind the training's."""
    rows = select(read(HERE / "peers.jsonl"), architecture=kind, l0=asked)
    return [row | {"l0": row["l0_behind"], "explained_variance": row["ev_behind"]} for row in rows]


def beside(rows: list[Row]) -> None:
    """Ours and SAELens'."""
    heads = "EV | ΔCE, nats | KL | dead"
    print(f"| architecture, L0 | SAELens: rate | L0 | {heads} | ours: rate | {heads} | ours − SAELens': EV | ΔCE |")
    print("| --- " + "| --: " * 13 + "|")
    for kind in KINDS:
        ours = [row for row in select(rows, by="unmix", architecture=kind) if row.get("bias_rate") != 1]
        for asked in L0S:
            theirs = select(rows, by="SAELens", architecture=kind, asked=asked)
            if not theirs:
                continue
            rate, tried = best(ours, trained(kind, asked), asked)
            chosen = [
                nearest(select(theirs, lr=rate, seed=seed), asked)[0]
                for seed in sorted({row["seed"] for row in select(theirs, lr=rate)})
            ]
            l0 = mean(row["l0"] for row in chosen)
            own_rate, own_tried = best(ours, select(ours, asked=asked), asked)
            own = select(ours, asked=asked, lr=own_rate)
            of_own = {key: [at(ours, row, l0, key) for row in own] for key, _ in COLUMNS}
            cells = [
                f"{kind} {asked:g}", tried, spread([row["l0"] for row in chosen], 1),
                *(spread([row[key] for row in chosen], digits) for key, digits in COLUMNS),
                own_tried, *(spread(of_own[key], digits) for key, digits in COLUMNS),
            ]  # fmt: skip
            more = {key: mean(of_own[key]) - mean(row[key] for row in chosen) for key, _ in COLUMNS}
            print("| " + " | ".join([*cells, f"{more['explained_variance']:+.4f}", f"{more['delta_ce']:+.3f}"]) + " |")


def every() -> None:
    """Each of SAELens' dictionaries, on the rows behind the training's."""
    head = "architecture, L0", "rate", "seed", "setting", "L0", "EV"
    print("\n| " + " | ".join(head) + " |\n| --- " + "| --: " * 5 + "|")
    for kind, asked in product(KINDS, L0S):
        for row in trained(kind, asked):
            numbers = f"{row['setting']:.4g} | {row['l0']:.1f} | {row['explained_variance']:.4f}"
            print(f"| {kind} {asked:g} | {row['lr']:g} | {row['seed']} | {numbers} |")


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
        every()
        cost()
