"""The tables of README.md and curves.png, from evaluation.jsonl, stability.jsonl and truth.jsonl here.

    python records/2026-11-27_every-architecture/table.py
    python records/2026-11-27_every-architecture/table.py --around      architecture and coefficients to hold fixed

What the controller costs: the explained variance at its L0 is read off the line through the two fixed coefficients on
both sides of it, in log L0.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HERE = Path(__file__).parent
KINDS = (
    "relu", "topk", "abstopk", "batchtopk", "matryoshka", "jumprelu", "jumprelu_tanh", "jumprelu_quadratic", "gated",
)  # fmt: skip
PENALISED = ("relu", "jumprelu", "jumprelu_tanh", "gated")
"""Of jumprelu_quadratic the L0 is the target of the penalty itself: no coefficient is looked for."""
L0S, AROUND = (20.0, 50.0, 100.0), (0.85, 0.95, 1.05, 1.15)
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """Lines of a file beside this one."""
    path = HERE / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def select(rows: Iterable[Row], **keys: Any) -> list[Row]:
    """Those with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in keys.items())]


def of_seeds(rows: list[Row], kind: str, l0: float) -> list[Row]:
    """The same member of every seed."""
    return [row for row in select(rows, architecture=kind, asked=l0) if row["run"].startswith("seed-")]


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation, or the one there is; a dash for none."""
    if not values:
        return "–"
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def table(header: str, rows: list[list[str]]) -> None:
    """In Markdown, the first column to the left."""
    print(f"\n| {header} |")
    print("| --- |" + " --: |" * header.count("|"))
    for cells in rows:
        print("| " + " | ".join(cells) + " |")


def quality(rows: list[Row]) -> None:
    """Every architecture at every L0."""
    columns = (("l0", 1), ("explained_variance", 4), ("delta_ce", 4), ("kl", 4))
    for asked in L0S:
        found = []
        for kind in KINDS:
            own = of_seeds(rows, kind, asked)
            cells = [spread([row[key] for row in own], digits) for key, digits in columns]
            found.append([kind, str(len(own)), *cells, spread([100 * row["dead"] for row in own], 1)])
        print(f"\nL0 {asked:g} asked")
        table("architecture | seeds | L0 | EV | ΔCE, nats | KL | dead, %", found)


def stability(rows: list[Row]) -> None:
    """How much of one seed is found again in another."""
    found = [
        [
            f"{row['architecture']} {row['asked']:g}", f"{row['live']:.0f}",
            *(f"{row[key]:.3f}" for key in ("best", "by_firing", "matched", "above_0.9")),
            f"{row['chance']['best']:.3f}",
        ]
        for row in sorted(rows, key=lambda row: (row["asked"], KINDS.index(row["architecture"])))
    ]  # fmt: skip
    table("architecture, L0 | live | best | by firing | matched | above 0.9 | best by chance", found)


def truth(rows: list[Row]) -> None:
    """Which of the true features are found."""
    keys = ("l0", "f1", "precision", "recall", "mcc", "uniqueness", "explained_variance", "dead")
    found = []
    for name in dict.fromkeys(row["architecture"] for row in rows):
        own = select(rows, architecture=name)
        cells = [spread([row[key] for row in own], 1 if key == "l0" else 3) for key in keys]
        found.append([name, str(len(own)), *cells])
    table("dictionary | seeds | L0 | F1 | precision | recall | MCC | unique | EV | dead", found)


def controlled(rows: list[Row]) -> None:
    """The controlled run beside fixed coefficients, at its L0."""
    found = []
    for kind in PENALISED:
        own = [row for row in of_seeds(rows, kind, 50.0) if row["seed"] == 0]
        fixed = sorted(select(rows, run=f"fixed-{kind}"), key=lambda row: row["l0"])
        if not own or not fixed:
            continue
        [mine] = own
        tried = ", ".join(
            f"{row['coefficient']:.4g}: {row['l0']:.1f}, {row['explained_variance']:.4f}" for row in fixed
        )
        pairs = [(a, b) for a, b in pairwise(fixed) if a["l0"] <= mine["l0"] <= b["l0"]]
        there = "–"
        if pairs:
            a, b = pairs[0]
            share = math.log(mine["l0"] / a["l0"]) / math.log(b["l0"] / a["l0"])
            ev = a["explained_variance"] + share * (b["explained_variance"] - a["explained_variance"])
            there = f"{mine['explained_variance'] - ev:+.4f}"
        found.append([kind, f"{mine['l0']:.1f}", f"{mine['explained_variance']:.4f}", there, tried])
    table("architecture | L0 | EV, controlled | above fixed by | coefficient: L0, EV", found)


def picture(rows: list[Row]) -> None:
    """EV and ΔCE against L0; bars: the range over seeds."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    for index, kind in enumerate(KINDS):
        groups = [group for l0 in L0S if (group := of_seeds(rows, kind, l0))]
        for panel, key in zip(panels, ("explained_variance", "delta_ce"), strict=True):
            middle = [mean(row[key] for row in group) for group in groups]
            reach = [
                [m - min(row[key] for row in group) for m, group in zip(middle, groups, strict=True)],
                [max(row[key] for row in group) - m for m, group in zip(middle, groups, strict=True)],
            ]
            panel.errorbar(
                [mean(row["l0"] for row in group) for group in groups], middle, yerr=reach, color=f"C{index}",
                marker="osD^v<>ph"[index], markersize=5, capsize=3, linewidth=1.2, label=kind,
            )  # fmt: skip
    for panel, label in zip(panels, ("explained variance, held out", "ΔCE, nats a token"), strict=True):
        panel.set(xscale="log", xlabel="active features per token (L0)", ylabel=label)
        panel.set_xticks(L0S, [f"{l0:g}" for l0 in L0S])
        panel.minorticks_off()
        panel.grid(alpha=0.25)
    panels[1].set_yscale("log")
    panels[1].set_yticks((0.05, 0.1, 0.2, 0.5, 1), ("0.05", "0.1", "0.2", "0.5", "1"))
    panels[0].legend(fontsize=8)
    figure.suptitle("embedded model, resid_post.3, 1,024 features, 1.02 M tokens, three seeds", fontsize=11)
    figure.savefig(HERE / "curves.png", dpi=110)


def main() -> None:
    """All tables and the picture; or what to hold fixed."""
    rows = read("evaluation.jsonl")
    if "--around" in sys.argv[1:]:
        for kind in PENALISED:
            [own] = [row for row in of_seeds(rows, kind, 50.0) if row["seed"] == 0]
            print(kind, *(f"{own['coefficient'] * share:.6g}" for share in AROUND))
        return
    quality(rows)
    stability(read("stability.jsonl"))
    controlled(rows)
    truth(read("truth.jsonl"))
    picture(rows)


if __name__ == "__main__":
    main()
