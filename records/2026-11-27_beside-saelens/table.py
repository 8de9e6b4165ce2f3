"""The tables of README.md, from evaluation.jsonl and asked.jsonl here and from the records before.

    python records/2026-11-27_beside-saelens/table.py [RUNS]

RUNS: the run folders; of `asked`, L0 half-way and at the end is then written to asked.jsonl. Where a coefficient was
looked for, SAELens' figures are read off the line through the two runs nearest to our L0, in log L0.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

HERE = Path(__file__).parent
RECORDS = HERE.parent
KINDS, L0S = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu"), (20.0, 50.0, 100.0)
PENALISED = ("relu", "tanh_relu", "jumprelu", "jumprelu_tanh", "gated", "jumprelu_quadratic")
RATES = 3e-3, 6e-3, 1e-2
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Its lines."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def select(rows: Iterable[Row], **keys: Any) -> list[Row]:
    """Those with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in keys.items())]


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation, or the one there is; a dash for none."""
    if not values:
        return "–"
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def at(rows: list[Row], l0: float, key: str) -> float:
    """Of runs of one setting, at an L0: on the line through the two nearest; the one there is, where k was given."""
    first, *others = sorted(rows, key=lambda row: abs(math.log(row["l0"] / l0)))
    if not others:
        return float(first[key])
    share = math.log(l0 / first["l0"]) / math.log(others[0]["l0"] / first["l0"])
    return float(first[key] + share * (others[0][key] - first[key]))


def best_rate(rows: list[Row], l0: float) -> tuple[float, str]:
    """The learning rate at which seed 0 explains most, and all that were tried."""
    rates = sorted({row["lr"] for row in select(rows, seed=0)})
    found = max(rates, key=lambda lr: at(select(rows, seed=0, lr=lr), l0, "explained_variance"))
    return found, f"{found:g} of {', '.join(f'{lr:g}' for lr in rates)}"


def beside(rows: list[Row]) -> None:
    """Ours beside SAELens', each at its best rate of those tried on seed 0."""
    theirs = [row for row in rows if row["by"] == "SAELens" and row["window"] == 50]
    print("| architecture, L0 | ours: rate | seeds | L0 | EV | ΔCE "
          "| SAELens: rate | seeds | EV | ΔCE | ours − SAELens' EV |")  # fmt: skip
    print("| --- " + "| --: " * 10 + "|")
    for kind in KINDS:
        for asked in L0S:
            tried = [r for r in select(rows, by="unmix", architecture=kind, asked=asked) if r["run"] != "asked"]
            own = select(theirs, architecture=kind, asked=asked)
            if not tried or not own:
                continue
            rate, rates = best_rate(tried, asked)
            ours = select(tried, lr=rate)
            l0 = mean(row["l0"] for row in ours)
            best, their_rates = best_rate(own, l0)
            seeds = sorted({row["seed"] for row in select(own, lr=best)})
            found = {
                key: [at(select(own, lr=best, seed=seed), l0, key) for seed in seeds]
                for key in ("explained_variance", "delta_ce")
            }
            cells = [
                f"{kind} {asked:g}", rates, str(len(ours)), spread([r["l0"] for r in ours], 1),
                spread([r["explained_variance"] for r in ours], 4), spread([r["delta_ce"] for r in ours], 4),
                their_rates, str(len(seeds)), spread(found["explained_variance"], 4), spread(found["delta_ce"], 4),
                f"{mean(r['explained_variance'] for r in ours) - mean(found['explained_variance']):+.4f}",
            ]  # fmt: skip
            print("| " + " | ".join(cells) + " |")


def every(rows: list[Row]) -> None:
    """All of ours, at every rate that was tried."""
    for asked in L0S:
        print(f"\nL0 {asked:g} asked\n\n| architecture | rate | seeds | L0 | EV | ΔCE | KL | dead, % |")
        print("| --- | --: | --: | --: | --: | --: | --: | --: |")
        for kind in KINDS:
            for lr in RATES:
                own = [
                    r for r in select(rows, by="unmix", architecture=kind, asked=asked, lr=lr) if r["run"] != "asked"
                ]
                if own:
                    columns = (("l0", 1), ("explained_variance", 4), ("delta_ce", 4), ("kl", 4))
                    cells = [spread([r[key] for r in own], digits) for key, digits in columns]
                    dead = spread([100 * r["dead"] for r in own], 1)
                    print(f"| {kind} | {lr:g} | {len(own)} | {' | '.join(cells)} | {dead} |")


def write_asked(runs: Path) -> None:
    """L0 about the middle and over the last tenth of the steps, as logged."""
    by_member: dict[str, list[Row]] = {}
    for row in (row for run in sorted(runs.glob("asked*")) for row in read(run / "metrics.jsonl")):
        by_member.setdefault(row["member"], []).append(row)
    with (HERE / "asked.jsonl").open("w") as file:
        for name, own in sorted(by_member.items()):
            end = own[-1]["step"]
            half = median(r["l0"] for r in own if 0.45 * end < r["step"] <= 0.5 * end)
            last = median(r["l0"] for r in own if r["step"] > 0.9 * end)
            found = {"member": name, "asked": own[-1]["target_l0"], "steps": end, "half": half, "end": last}
            file.write(json.dumps(found | {"coefficient": own[-1].get("coefficient")}) + "\n")


def asked(rows: list[Row]) -> None:
    """L0 asked and got."""
    logged = {row["member"]: row for row in read(HERE / "asked.jsonl")}
    print("\n| architecture | asked | half-way | end | held out | off | EV | ΔCE | dead, % |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: | --: |")
    for kind in PENALISED:
        for row in sorted(
            (r for r in select(rows, architecture=kind) if r["run"].startswith("asked")), key=lambda row: row["asked"]
        ):
            on = logged[row["member"]]
            print(
                f"| {kind} | {row['asked']:g} | {on['half']:.1f} | {on['end']:.1f} | {row['l0']:.1f} "
                f"| {row['l0'] / row['asked'] - 1:+.1%} | {row['explained_variance']:.4f} | {row['delta_ce']:.4f} "
                f"| {100 * row['dead']:.1f} |"
            )


def main() -> None:
    """All tables."""
    if len(sys.argv) > 1:
        write_asked(Path(sys.argv[1]))
    names = "2026-11-27_beside-saelens", "2026-11-26_centre", "2026-11-26_three-seeds"
    here, centre, before = (read(RECORDS / name / "evaluation.jsonl") for name in names)
    rows = [*here, *centre, *(row for row in before if row["by"] == "SAELens")]
    beside(rows)
    every(rows)
    asked(rows)


if __name__ == "__main__":
    main()
