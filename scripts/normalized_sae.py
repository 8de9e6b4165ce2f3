"""The experiment of records/2026-11-21_normalized-sae: {SAE, normalized SAE} x {k = 0, 1, 2} x {alpha, beta}, and more.

    python scripts/normalized_sae.py plan RECORD        write RECORD/recipes/*.yaml
    RECORD/run                                          harvest, train and evaluate them
    python scripts/normalized_sae.py analyse RECORD RUNS    write RECORD/tables.md and the pictures

Every member is trained on activations that one scalar s brought to E||x||² = D. Minimising the loss in raw units with
the coefficient λ is the same as minimising it on s·x with λ s^p (p as in `l1_norm_power`: both terms grow by s^(2-k)
there): so "one α for all hooks" is, in the scaled units, the coefficient c (n̄_ref / n̄)^p, and "β = α n̄^p" is one c
for all hooks. The grid's steps are √r, r the ratio of the two hooks' mean norms, so that a whole number of steps
leads from the β of a hook to its α: both are read off the same dictionaries.
"""

from __future__ import annotations

import json
import math
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from unmix.report import axes

NORMS = {  # n̄ of the first chunk; the manifests of the sweeps have it (mean_norm)
    "mlp_out.1": 19.8,
    "mlp_out.2": 27.2,
    "mlp_out.3": 33.4,
    "mlp_out.4": 46.0,
    "mlp_out.5": 159.7,
    "resid_post.4": 259.8,
}
MAIN, SECOND = "mlp_out.4", "resid_post.4"
STEP = (NORMS[SECOND] / NORMS[MAIN]) ** 0.5
SAE_ALPHA = [round(0.115 * STEP**i, 5) for i in range(-2, 3)]
BOUNDED_ALPHA = [round(0.0052 * STEP**i, 6) for i in range(-2, 3)]
QUIET_ALPHA = [round(0.0052 * STEP**i, 6) for i in range(-1, 4)]

BOUNDED = {"nonlinearity": "tanh_relu"}
NOISY = {**BOUNDED, "noise": 1.0}


def family(sae: dict[str, Any], alpha: list[float], **training: Any) -> dict[str, Any]:
    """A variant: a dictionary of this kind at several coefficients."""
    return {"sae": sae, "training": {"l1": alpha, "l1_norm_power": "matched", **training}}


def main_variants() -> dict[str, Any]:
    """The kinds that are compared at equal L0."""
    found: dict[str, Any] = {}
    for k in (0, 1, 2):
        found[f"sae.k{k}"] = family({}, SAE_ALPHA, norm_power=k)
        found[f"nsae.noise.k{k}"] = family(NOISY, BOUNDED_ALPHA, norm_power=k)
        found[f"nsae.quiet.k{k}"] = family(BOUNDED, QUIET_ALPHA, norm_power=k)
    found["nsae.weighed.k0"] = family({**BOUNDED, "penalty": "decoder_norm"}, SAE_ALPHA)
    found["sae.masked"] = family({}, SAE_ALPHA, mask={"norm_above": 2.0})
    found["sae.token"] = family({"scaling": "token"}, SAE_ALPHA)
    return found


def seed_variants() -> dict[str, Any]:
    """Those that claims hang on, trained again with other data and other starts."""
    kept = ("sae.k0", "sae.k1", "sae.k2", "nsae.noise.k0", "nsae.noise.k2", "nsae.quiet.k0", "sae.masked", "sae.token")
    return {name: variant for name, variant in main_variants().items() if name in kept}


def layer_variants(hook: str) -> dict[str, Any]:
    """One coefficient for every MLP, in raw units (alpha) and scale-matched (beta)."""
    found: dict[str, Any] = {}
    ratio = NORMS[MAIN] / NORMS[hook]
    for k in (0, 1, 2):
        for kind, sae, middle, p in (("sae", {}, SAE_ALPHA[2], 1 - k), ("nsae.noise", NOISY, BOUNDED_ALPHA[2], 2 - k)):
            found[f"{kind}.k{k}.beta"] = family(sae, [middle], norm_power=k)
            found[f"{kind}.k{k}.alpha"] = family(sae, [middle * ratio**p], norm_power=k)
    return found


def recipe(name: str, hook: str, variants: dict[str, Any], store: str, seed: int = 0) -> dict[str, Any]:
    """A sweep on one hook."""
    return {
        "name": name,
        "model": {"name": "embedded", "matmul": "fp32"},
        "corpus": {"source": "stdlib"},
        "activations": {
            "hooks": [hook],
            "sequence_length": 256,
            "chunk_sequences": 256,
            "store": store,
            "seed": seed,
        },
        "sae": {"features": 1024, "scaling": "dataset", "centre": "start", "bias_rate": 1},
        "training": {
            "selection": "fp32",
            "dense": "fp32",
            "steps": 1000,
            "batch_tokens": 512,
            "lr": 4.0e-3,
            "lr_warmup_steps": 50,
            "decay_fraction": 0.2,
            "dead_after_tokens": 200_000,
            "checkpoint_every": 1000,
            "seed": seed,
        },
        "variants": variants,
    }


def plan(record: Path) -> None:
    """Write every recipe."""
    recipes = [
        recipe("main", MAIN, main_variants(), "runs/nsae/store-0"),
        recipe("second", SECOND, main_variants(), "runs/nsae/store-0"),
        *(recipe(f"seed-{s}", MAIN, seed_variants(), f"runs/nsae/store-{s}", s) for s in (1, 2)),
        *(
            recipe(f"layer-{hook}", hook, layer_variants(hook), "runs/nsae/store-0")
            for hook in NORMS
            if hook.startswith("mlp_out")
        ),
    ]
    (record / "recipes").mkdir(parents=True, exist_ok=True)
    for made in recipes:
        text = yaml.safe_dump(made, sort_keys=False)
        (record / "recipes" / f"{made['name']}.yaml").write_text(text, encoding="utf-8")


# -------------------------------------------------------------------------------------------------------- the figures

Row = dict[str, Any]
TICKS = (5, 10, 25, 50, 100, 200)
LEVELS = (10, 30, 100)  # active features per token at which kinds are compared
PANELS = {
    "relu": ["sae.k0", "sae.k1", "sae.k2"],
    "normalized, noise": ["sae.k0", "nsae.noise.k0", "nsae.noise.k1", "nsae.noise.k2"],
    "normalized, no noise": ["sae.k0", "nsae.quiet.k0", "nsae.quiet.k1", "nsae.quiet.k2", "nsae.weighed.k0"],
    "plain alternatives": ["sae.k0", "sae.masked", "sae.token"],
}


def rows(folder: Path) -> list[Row]:
    """The evaluated members of a sweep, flat."""
    found = []
    [result] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["hooks"]
    for name, row in result["saes"].items():
        kind, _, l1 = name.rpartition("-l1-")
        top, rest = row["by_norm"]["groups"]["top 1 %"], row["by_norm"]["groups"]["the rest"]
        found.append({**row, "kind": kind, "alpha": float(l1), "top": top, "rest": rest})
    return found


def at_level(members: list[Row], value: Callable[[Row], float], level: float) -> float:
    """A number at an L0, linear in log L0 between the two members around it; NaN outside their range."""
    points = sorted((row["l0"], value(row)) for row in members if row["l0"] > 0)
    x, y = np.log([p[0] for p in points]), [p[1] for p in points]
    return float(np.interp(math.log(level), x, y, left=math.nan, right=math.nan))


def of_kind(members: list[Row], kind: str) -> list[Row]:
    """The curve of a kind."""
    return [row for row in members if row["kind"] == kind]


def pareto(members: list[Row], hook: str, panels: dict[str, list[str]] = PANELS) -> bytes:
    """Explained variance above, cost in cross-entropy below, a column a question; kinds that are not there left out."""
    with axes.style():
        figure = Figure(figsize=(3.5 * len(panels), 7), layout="constrained")
        figure.suptitle(
            f"{hook}: what each kind reaches, at every L0", x=0.01, ha="left", fontsize=13, fontweight="bold"
        )
        grid = figure.subplots(2, len(panels), sharex=True, sharey="row")
        for column, (title, kinds) in enumerate(panels.items()):
            for row, (value, label) in enumerate(
                (("explained_variance", "explained variance"), ("delta_ce", "ΔCE, nats per token"))
            ):
                panel = grid[row][column]
                for index, kind in enumerate(kind for kind in kinds if of_kind(members, kind)):
                    points = sorted((m["l0"], m[value]) for m in of_kind(members, kind) if m["l0"] > 0.5)
                    colour = axes.GREY if kind == "sae.k0" else axes.colours(list(range(4)))[index - 1]
                    panel.plot(*zip(*points, strict=True), "o-", color=colour, label=kind, markersize=4, linewidth=1.4)
                panel.set_xscale("log")
                panel.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
                panel.set_xticks([], minor=True)
                if row == 0:
                    panel.set_title(title, loc="left", fontsize=10)
                    panel.legend(fontsize=8, loc="lower right")
                else:
                    panel.set_xlabel("active features per token (L0)")
                if column == 0:
                    panel.set_ylabel(label)
        return axes.png(figure)


def table_at_levels(runs: list[list[Row]]) -> list[str]:
    """Mean over seeds (± half their range where there are several) of the columns, at each level."""
    columns = ("explained_variance", "cosine", "delta_ce", "kl", "dead", "norm_ratio")
    lines = [
        "| kind | L0 | expl. var. | cosine | ΔCE | KL | dead | ‖x̂‖/‖x‖ | seeds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind in sorted({row["kind"] for row in runs[0]}):
        curves = [of_kind(run, kind) for run in runs if of_kind(run, kind)]
        for level in LEVELS:
            cells, seeds = [], 0
            for column in columns:
                values = [at_level(curve, operator.itemgetter(column), level) for curve in curves]
                values = [value for value in values if not math.isnan(value)]
                seeds = max(seeds, len(values))
                spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}" if values else "")
            if cells[0]:
                lines.append(f"| {kind} | {level} | {' | '.join(cells)} | {seeds} |")
    return lines


def deciles(members: list[Row], hook: str, level: float) -> bytes:
    """Explained variance by tenth of the norm, and of the longest 1 %, at one L0."""
    kinds = ["sae.k0", "sae.k1", "sae.k2", "sae.token", "sae.masked", "nsae.noise.k0", "nsae.noise.k2"]
    shades = axes.colours(list(range(len(kinds))))
    with axes.style():
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        title = f"{hook}: explained variance by length of x, at {level:g} active features"
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        panel = figure.add_subplot()
        for index, kind in enumerate(kinds):
            curve = of_kind(members, kind)
            values = [
                at_level(curve, lambda row, i=i: row["by_norm"]["deciles"][i]["explained_variance"], level)  # type: ignore[misc]
                for i in range(10)
            ]
            top = at_level(curve, lambda row: row["top"]["explained_variance"], level)
            panel.plot(range(1, 11), values, "o-", color=shades[index], markersize=4, linewidth=1.4, label=kind)
            panel.plot(11.5, top, "D", color=shades[index], markersize=6)
        panel.set_xticks([*range(1, 11), 11.5], [*map(str, range(1, 11)), "longest\n1 %"])
        panel.set_xlabel("tenths of the tokens, short to long")
        panel.set_ylabel("explained variance")
        panel.set_ylim(top=1.0)
        panel.legend(fontsize=8, loc="lower center", ncols=2)
        return axes.png(figure)


BY_NORM = {
    "L0, longest 1 %": lambda row: row["top"]["l0"],
    "L1, longest 1 %": lambda row: row["top"]["l1"],
    "L1, the rest": lambda row: row["rest"]["l1"],
    "expl. var., shortest tenth": lambda row: row["by_norm"]["deciles"][0]["explained_variance"],
    "expl. var., the rest": lambda row: row["rest"]["explained_variance"],
    "expl. var., longest 1 %": lambda row: row["top"]["explained_variance"],
    "‖x̂‖/‖x‖, longest 1 %": lambda row: row["top"]["norm_ratio"],
    "squared error on the longest 1 %": lambda row: row["top"]["share_of_loss"],
}


def table_by_norm(members: list[Row], level: float) -> list[str]:
    """What each kind does with the longest and the shortest tokens, at one L0."""
    lines = ["| kind | " + " | ".join(BY_NORM) + " |", "|---|" + "--:|" * len(BY_NORM)]
    for kind in sorted({row["kind"] for row in members}):
        values = [at_level(of_kind(members, kind), value, level) for value in BY_NORM.values()]
        lines.append(f"| {kind} | " + " | ".join(f"{v:.3g}" for v in values) + " |")
    return lines


def table_of_layers(layers: dict[str, list[Row]]) -> list[str]:
    """L0 on every layer at one coefficient, and the largest over the smallest."""
    hooks = list(layers)
    lines = [f"| kind | {' | '.join(hooks)} | max / min |", "|---|" + "--:|" * (len(hooks) + 1)]
    for kind in sorted({row["kind"] for row in layers[hooks[0]]}):
        l0 = [of_kind(layers[hook], kind)[0]["l0"] for hook in hooks]
        lines.append(f"| {kind} | {' | '.join(f'{v:.1f}' for v in l0)} | {max(l0) / max(min(l0), 1e-9):.3g} |")
    return lines


KEPT = ("kind", "alpha", "l0", "explained_variance", "cosine", "norm_ratio", "l1", "delta_ce", "kl", "dead")


def write_members(record: Path, sweeps: dict[str, list[Row]]) -> None:
    """RECORD/members.jsonl: a line for each dictionary, so that the figures can be made anew without training."""
    lines = []
    for name, members in sweeps.items():
        for row in members:
            groups = {
                group: {key: value for key, value in row[group].items() if not key.endswith("proportions")}
                for group in ("top", "rest")
            }
            error = {"delta_ce_standard_error": row["delta_ce_standard_error"]}
            lines.append(json.dumps({"sweep": name} | {key: row[key] for key in KEPT} | error | groups))
    (record / "members.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def analyse(record: Path, runs: Path) -> None:
    """Write RECORD/tables.md and the pictures from the evaluations."""
    main, second = rows(runs / "main"), rows(runs / "second")
    seeds = [rows(runs / f"seed-{s}") for s in (1, 2)]
    layers = {hook: rows(runs / f"layer-{hook}") for hook in NORMS if hook.startswith("mlp_out")}
    for hook, members in ((MAIN, main), (SECOND, second)):
        (record / f"pareto_{hook}.png").write_bytes(pareto(members, hook))
        (record / f"deciles_{hook}.png").write_bytes(deciles(members, hook, 30))
    parts = {
        f"{MAIN}, at equal L0 (mean over seeds ± half their range)": table_at_levels([main, *seeds]),
        f"{SECOND}, at equal L0 (one seed)": table_at_levels([second]),
        f"{MAIN}, by length, at L0 = 30": table_by_norm(main, 30),
        f"{SECOND}, by length, at L0 = 30": table_by_norm(second, 30),
        "One coefficient on five layers": table_of_layers(layers),
    }
    if (runs / "main-masked" / "evaluation.json").exists():
        title = f"{MAIN}, tokens above twice the median norm left out and left as they are, at equal L0"
        parts[title] = table_at_levels([rows(runs / "main-masked")])
    write_members(record, {"main": main, "second": second, "seed-1": seeds[0], "seed-2": seeds[1]} | layers)
    text = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in parts.items())
    (record / "tables.md").write_text(f"# Tables\n\nWritten by `{Path(__file__).name}`.\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "plan":
        plan(Path(sys.argv[2]))
    else:
        analyse(Path(sys.argv[2]), Path(sys.argv[3]))
