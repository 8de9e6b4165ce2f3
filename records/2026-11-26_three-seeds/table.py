"""The tables and the picture of the record: table.md, curves.png.

    python records/2026-11-26_three-seeds/table.py

Two dictionaries are compared at one L0, ours. Of SAELens' runs with the same learning rate and seed the two nearest to
it are taken, at most 20 % away, and the explained variance is interpolated linearly in log L0. Where there is one alone
(k is given, and what a batchtopk has on held-out text is near it), it is moved along the slope of our own curve.
What is compared among dictionaries of ours alone is read from behind.jsonl, all else from evaluation.jsonl.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
KINDS = ("relu", "topk", "batchtopk", "matryoshka", "jumprelu", "gated")
L0S, SEEDS, NEAR = (20.0, 50.0, 100.0), (0, 1, 2), 0.2
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """Lines of a file beside this one."""
    path = HERE / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def select(rows: Iterable[Row], **keys: Any) -> list[Row]:
    """Those with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in keys.items())]


def seeds(rows: list[Row], kind: str, l0: float) -> list[Row]:
    """Our three of the record."""
    return [r for r in select(rows, by="unmix", architecture=kind, asked=l0) if r["run"].startswith("seed-")]


def spread(values: list[float], digits: int) -> str:
    """mean ± standard deviation."""
    if not values:
        return "–"
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def markdown(header: str, rows: list[list[str]]) -> list[str]:
    """A table; the first column is words."""
    names = header.split(" | ")
    return ["| " + " | ".join(row) + " |" for row in (names, ["---", *["--:"] * (len(names) - 1)], *rows)] + [""]


def of_ours(rows: list[Row]) -> list[str]:
    """Every architecture at every L0."""
    lines = []
    for l0 in L0S:
        table = []
        for kind in KINDS:
            found = seeds(rows, kind, l0)
            table.append(
                [kind, *(spread([r[key] for r in found], digits) for key, digits in
                 (("l0", 1), ("explained_variance", 4), ("delta_ce", 4), ("kl", 4))),
                 spread([100 * r["dead"] for r in found], 1)]
            )  # fmt: skip
        lines += [f"L0 {l0:g} asked", "", *markdown("architecture | L0 | EV | ΔCE, nats | KL | dead, %", table)]
    return lines


def of_stability() -> list[str]:
    """Whether seeds agree."""
    table = [
        [f"{'SAELens ' if r['by'] != 'unmix' else ''}{r['architecture']} {r['asked']:g}", f"{r['live']:.0f}"]
        + [f"{r[key]:.3f}" for key in ("best", "by_firing", "matched", "above_0.9")]
        + [f"{r['chance']['best']:.3f}"]
        for r in read("stability.jsonl")
    ]
    return markdown("architecture, L0 | live | best | by firing | matched | above 0.9 | best by chance", table)


def slope(rows: list[Row], kind: str, l0: float) -> float:
    """d EV / d log L0 of our own curve, between the L0 asked for and the next one (the one before, at the end)."""
    known = sorted(
        (mean(r["l0"] for r in found), mean(r["explained_variance"] for r in found))
        for other in L0S if (found := seeds(rows, kind, other))
    )  # fmt: skip
    nearest = min(range(len(known) - 1), key=lambda i: abs(math.log(known[i][0] / l0)))
    (a, ev_a), (b, ev_b) = known[nearest : nearest + 2]
    return float((ev_b - ev_a) / math.log(b / a))


def at(rows: list[Row], l0: float, steepness: float) -> float | None:
    """EV of these runs at an L0, as said on top; none if no run is near."""
    near = sorted((r for r in rows if abs(math.log(r["l0"] / l0)) < NEAR), key=lambda r: abs(math.log(r["l0"] / l0)))
    if not near:
        return None
    first = near[0]
    beside = [r for r in near[1:] if (r["l0"] - l0) * (first["l0"] - l0) < 0]
    if not beside:
        return float(first["explained_variance"] + steepness * math.log(l0 / first["l0"]))
    a, b = first, beside[0]
    share = math.log(l0 / a["l0"]) / math.log(b["l0"] / a["l0"])
    return float(a["explained_variance"] + share * (b["explained_variance"] - a["explained_variance"]))


def beside_saelens(rows: list[Row]) -> list[str]:
    """EV at our L0, by learning rate and dead window."""
    theirs = select(rows, by="SAELens")
    table = []
    for kind in KINDS:
        for l0 in L0S:
            settings = sorted({(r["window"], r["lr"]) for r in select(theirs, architecture=kind, asked=l0)})
            for window, lr in settings:
                differences, their_evs, our_evs, dead = [], [], [], []
                for seed in SEEDS:
                    mine = [r for r in seeds(rows, kind, l0) if r["seed"] == seed]
                    same = select(theirs, architecture=kind, asked=l0, window=window, lr=lr, seed=seed)
                    ev = at(same, mine[0]["l0"], slope(rows, kind, l0)) if mine and same else None
                    if ev is not None:
                        their_evs.append(ev)
                        our_evs.append(mine[0]["explained_variance"])
                        differences.append(our_evs[-1] - ev)
                        dead.append(min(same, key=lambda r: abs(r["l0"] - mine[0]["l0"]))["dead"])
                if differences:
                    table.append(
                        [f"{kind} {l0:g}", f"{window}", f"{lr:g}", f"{len(differences)}", spread(our_evs, 4),
                         spread(their_evs, 4), f"{mean(differences):+.4f}", f"{100 * mean(dead):.1f}"]
                    )  # fmt: skip
    return markdown(
        "architecture, L0 | dead window, steps | learning rate | seeds | unmix EV | SAELens EV | ours higher by "
        "| SAELens dead, %",
        table,
    )


def against_fixed(rows: list[Row]) -> list[str]:
    """The controller beside fixed coefficients."""
    table = []
    for kind in ("relu", "jumprelu", "gated"):
        fixed = select(rows, run=f"fixed-{kind}")
        mine = [r for r in seeds(rows, kind, 50.0) if r["seed"] == 0]
        if fixed and mine:
            ev = at(fixed, mine[0]["l0"], slope(rows, kind, 50.0))
            tried = ", ".join(
                f"{r['coefficient']:g}: {r['l0']:.1f}, {r['explained_variance']:.4f}"
                for r in sorted(fixed, key=lambda r: -r["l0"])
            )
            table.append(
                [kind, f"{mine[0]['l0']:.1f}", f"{mine[0]['explained_variance']:.4f}",
                 "–" if ev is None else f"{ev:.4f}",
                 "–" if ev is None else f"{mine[0]['explained_variance'] - ev:+.4f}", tried]
            )  # fmt: skip
    return markdown("architecture | L0 | controlled EV | fixed EV there | difference | coefficient: L0, EV", table)


def by_rate(rows: list[Row]) -> list[str]:
    """Ours at other learning rates, seed 0; EV at the L0 of the default's."""
    table = []
    for kind in KINDS:
        for l0 in L0S:
            mine = [r for r in seeds(rows, kind, l0) if r["seed"] == 0]
            others = [r for r in select(rows, by="unmix", architecture=kind, asked=l0) if r["run"].startswith("lr-")]
            if mine and others:
                cells = {mine[0]["lr"]: mine[0]["explained_variance"]}
                cells |= {r["lr"]: at([r], mine[0]["l0"], slope(rows, kind, l0)) for r in others}
                table.append(
                    [f"{kind} {l0:g}", ", ".join(f"{lr:g}: {ev:.4f}" for lr, ev in sorted(cells.items()) if ev)]
                )
    return markdown("architecture, L0 | learning rate: EV", table)


def picture(rows: list[Row]) -> None:
    """EV and ΔCE against L0: ours as lines with the range over seeds, SAELens' best as crosses."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    for index, kind in enumerate(KINDS):
        found = [group for l0 in L0S if (group := seeds(rows, kind, l0))]
        for panel, key in zip(panels, ("explained_variance", "delta_ce"), strict=True):
            middle = [mean(r[key] for r in group) for group in found]
            reach = [
                [m - min(r[key] for r in group) for m, group in zip(middle, found, strict=True)],
                [max(r[key] for r in group) - m for m, group in zip(middle, found, strict=True)],
            ]
            l0s = [mean(r["l0"] for r in group) for group in found]
            panel.errorbar(l0s, middle, yerr=reach, color=f"C{index}", marker="o", capsize=3, linewidth=1.2, label=kind)
            theirs = best_of(rows, kind)
            if theirs:
                panel.plot(
                    [r["l0"] for r in theirs], [r[key] for r in theirs], "x", color=f"C{index}", markersize=8,
                    label=f"SAELens {kind}",
                )  # fmt: skip
    for panel, label in zip(panels, ("explained variance, held out", "ΔCE, nats a token"), strict=True):
        panel.set(xscale="log", xlabel="active features per token (L0)", ylabel=label)
        panel.set_xticks(L0S, [f"{l0:g}" for l0 in L0S])
        panel.minorticks_off()
        panel.grid(alpha=0.25)
    panels[1].set_yscale("log")
    panels[1].set_yticks((0.05, 0.1, 0.2, 0.5, 1), ("0.05", "0.1", "0.2", "0.5", "1"))
    panels[0].legend(fontsize=7, ncols=2)
    figure.suptitle(
        "embedded model, resid_post.3, 1,024 features, 1.02 M tokens; bars: range over three seeds", fontsize=11
    )
    figure.savefig(HERE / "curves.png", dpi=110)


def best_of(rows: list[Row], kind: str) -> list[Row]:
    """Of SAELens' runs near each L0, the one with the largest explained variance, seed 0."""
    found = []
    for l0 in L0S:
        near = [
            r for r in select(rows, by="SAELens", architecture=kind, asked=l0, seed=0)
            if abs(math.log(r["l0"] / l0)) < NEAR
        ]  # fmt: skip
        if near:
            found.append(max(near, key=lambda r: r["explained_variance"]))
    return found


def main() -> None:
    rows = read("evaluation.jsonl")
    parts = {
        "Every architecture": of_ours(rows),
        "Stability": of_stability(),
        "Beside SAELens": beside_saelens(rows),
        "Controlled and fixed": against_fixed(read("behind.jsonl")),
        "Learning rate": by_rate(read("behind.jsonl")),
    }
    text = "\n".join(line for title, lines in parts.items() for line in (f"## {title}", "", *lines))
    (HERE / "table.md").write_text(text + "\n")
    print(text)
    picture(rows)


if __name__ == "__main__":
    main()
