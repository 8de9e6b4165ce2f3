"""Which architecture finds the features that are there: SynthSAEBench, offline (docs/truth.md).

A world of known features makes the activations. The architectures that were asked for are trained on them at the L0s
that were asked for, all on the same batches, by the members and the loop of a sweep with a recipe's defaults; then all
are judged on the same fresh samples. Beside them stand the true directions, read out as well as a linear encoder can,
and a dictionary of random directions. Several seeds are several runs in the same world.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

from unmix import config as recipes
from unmix.activations.mask import Mask
from unmix.activations.synthetic import HOOK, Samples
from unmix.activations.synthetic_world import World, WorldConfig, make_world
from unmix.bench.machine import about, peak_memory, require_memory
from unmix.bench.table import aligned, machine_line
from unmix.config import RunConfig
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.nonlinearities import TopK
from unmix.errors import UserError
from unmix.evaluation.readout import BINS, linear_readout, untrained
from unmix.evaluation.truth import Scores, judge
from unmix.kernels.dispatch import Scratch
from unmix.precision import decide, said
from unmix.training import memory
from unmix.training.loop import train
from unmix.training.manifest import entries, sweep_schedule
from unmix.training.measure import measure
from unmix.training.member import Entry, Member, new_member
from unmix.training.run import SILENT, Watch

ARCHITECTURES = ("relu", "topk", "batchtopk", "matryoshka", "jumprelu", "gated")
READOUT, RANDOM = "true directions, linear readout", "random directions, top k"


@dataclass(frozen=True)
class Size:
    """A world, and how long dictionaries are trained and judged in it."""

    world: WorldConfig
    features: int
    """F: fewer than there are true ones, as in a language model."""
    l0: float
    """About the true L0 of the F features that are most often active."""
    tokens: int
    batch_tokens: int
    judged_tokens: int
    fitted_tokens: int
    """To which the readout of the true directions is fitted."""


SIZES = {
    "small": Size(WorldConfig(features=2048, width=256, roots=16), 512, 8, 2_000_000, 512, 100_000, 100_000),
    "medium": Size(WorldConfig(features=4096, width=384, roots=32), 1024, 12, 20_000_000, 1024, 200_000, 200_000),
    "full": Size(WorldConfig(), 4096, 25, 200_000_000, 1024, 500_000, 200_000),
}
"""`full` is the published one; the others have a half, a quarter … of its features, trees and width, and as much
interference: L0 / D is about the same."""


def run(
    size: str,
    *,
    architectures: Sequence[str] | None,
    l0: Sequence[float] | None,
    tokens: int | None,
    judged_tokens: int | None,
    features: int | None,
    lr: float | None,
    seeds: Sequence[int],
    out: Path | None,
    watch: Watch = SILENT,
) -> dict[str, Any]:
    """Train and judge. Options that are None are those of the size. Raises `UserError` for what cannot be done."""
    began = time.perf_counter()
    of = SIZES[size]
    B = of.batch_tokens
    judged = _batches("--judge", judged_tokens, of.judged_tokens, B)
    steps = _batches("--tokens", tokens, of.tokens, B)
    recipe = _recipe(of, architectures or ARCHITECTURES, l0 or [of.l0], steps, features, lr)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists already; give a folder that is new or empty")
    require_memory(_memory(of, recipe), f"bench truth --size {size}")

    watch.say(f"making the world: {of.world.features:,} features in {of.world.width} dimensions")
    world = make_world(of.world)
    recipe, measured = decide(recipe, {HOOK: of.world.width}, watch.say)
    if measured:
        watch.say(said(recipe, measured))
    found: dict[str, Any] = {
        "bench": "truth",
        **about(),
        "settings": {
            "size": size,
            "world": asdict(of.world),
            "features": recipe.sae.features,
            "tokens": steps * B,
            "batch_tokens": B,
            "judged_tokens": judged * B,
            "lr": recipe.training.lr,
            "seeds": list(seeds),
        },
        "rows": [],
    }
    for number, seed in enumerate(seeds):
        saes = _trained(recipe, world, seed, watch)
        asked: dict[str, Entry | None] = {entry.name: entry for entry in entries(recipe)}
        if out is not None:
            for name, sae in saes.items():
                save_sae(sae, out / f"seed-{seed}" / name, model="synthetic", hook=HOOK, context=1, more={})
        if not number:
            watch.say("reading out the true directions")
            saes |= _baselines(of, world, recipe, seed)
        watch.say(f"judging on {judged * B:,} tokens")
        samples = Samples(world, batch_tokens=B, seed=seed, split="held_out")
        scores = judge(saes, world.directions_ND, (samples.truth(step) for step in range(judged)))
        rows = [_row(name, asked.get(name), seed, of_sae) for name, of_sae in scores.items()]
        found["rows"] += rows
        if out is not None:
            with (out / "truth.jsonl").open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    return found | {"seconds": time.perf_counter() - began, "peak_memory_bytes": peak_memory()}


def _batches(flag: str, asked: int | None, usual: int, batch_tokens: int) -> int:
    """Whole batches, at least one."""
    if asked is not None and asked < batch_tokens:
        raise UserError(f"{flag} {asked} is less than a batch of {batch_tokens:,} tokens; give more")
    return (asked or usual) // batch_tokens


def _recipe(
    of: Size, architectures: Sequence[str], l0: Sequence[float], steps: int, features: int | None, lr: float | None
) -> RunConfig:
    """As for a sweep: every architecture is a variant."""
    if twice := sorted({name for name in architectures if architectures.count(name) > 1}):
        raise UserError(f"--architecture names {twice[0]} twice; name each once")
    F = of.features if features is None else features
    if of.world.features < F:
        raise UserError(f"--features {F:,}: there are {of.world.features:,} true ones; give no more than that")
    keys: dict[str, Any] = {
        "name": "truth",
        "activations.hooks": [HOOK],
        "sae.features": F,
        "training.l0": list(l0),
        "training.l1": [],
        "training.steps": steps,
        "training.batch_tokens": of.batch_tokens,
        "training.mask": "none",
        "training.log_every": max(1, steps // 50),
    }
    keys |= {} if lr is None else {"training.lr": lr}
    return recipes.load(None, keys | {f"variants.{name}.sae.architecture": name for name in architectures})


def _memory(of: Size, recipe: RunConfig) -> int:
    """Bytes at the peak: of the world, and of training or of what comes behind it."""
    N, D, F = of.world.features, of.world.width, recipe.sae.features
    members = len(entries(recipe))
    source: Any = SimpleNamespace(widths={HOOK: D}, target_widths={})  # all that is read of it
    training = memory.members(recipe, source, entries(recipe))
    behind = members * 8 * D * F + max(8 * F * N, 40 * F * BINS)  # the dictionaries; likenesses, or counts of z
    return 500 * 2**20 + 4 * N * (2 * D + 2 * of.world.rank) + max(16 * N * D, training, behind)


def _trained(recipe: RunConfig, world: World, seed: int, watch: Watch) -> dict[str, Dictionary]:
    """Every member's dictionary at the end."""
    training = recipe.training.model_copy(update={"seed": seed})
    recipe = recipe.model_copy(update={"training": training})
    source = Samples(world, batch_tokens=training.batch_tokens, seed=seed)
    members, scratch, head = [], Scratch(), source.head()
    for entry in entries(recipe):
        sae, own = recipe.of_variant(entry.variant)
        facts = measure(head, HOOK, sae, own, 0.0, [])
        mask = Mask(own.mask, [], facts.median_norm)
        members.append(
            new_member(
                entry, source.widths[HOOK], config=sae, training=own, facts=facts, mask=mask, head=head, scratch=scratch
            )
        )
    _train(recipe, members, source, watch)
    return {member.entry.name: member.sae() for member in members}


def _train(recipe: RunConfig, members: Sequence[Member], source: Samples, watch: Watch) -> None:
    """To the end; nothing is saved on the way."""
    t = recipe.training
    train(
        members,
        source,
        sweep_schedule(recipe),
        first=0,
        logged=range(t.log_every, t.steps, t.log_every),
        checkpoint_every=t.steps,
        dead_after_tokens=t.dead_after_tokens,
        log=lambda rows: watch.rows(rows, t.steps),
        save=lambda step: None,
        say=watch.say,
    )


def _baselines(of: Size, world: World, recipe: RunConfig, seed: int) -> dict[str, Dictionary]:
    """What the truth scores, and what chance does."""
    fit = Samples(world, batch_tokens=of.batch_tokens, seed=seed, split="fit")
    batches = max(1, min(of.fitted_tokens // of.batch_tokens, 2 * recipe.training.steps))
    F, k = recipe.sae.features, max(1, round(recipe.training.l0[0]))
    readout = linear_readout(world.directions_ND, F, lambda: (fit.truth(step) for step in range(batches)))
    start = new_dictionary(world.config.width, F, 1.0, seed, TopK(k))
    return {READOUT: readout, RANDOM: untrained(start, fit.head().activations[HOOK].mean(0))}


def _row(name: str, entry: Entry | None, seed: int, scores: Scores) -> dict[str, Any]:
    asked = {"architecture": name, "l0_asked": None} if entry is None else _asked(entry)
    return {**asked, "seed": seed, **scores._asdict()}


def _asked(entry: Entry) -> dict[str, Any]:
    return {"architecture": entry.variant, "l0_asked": entry.l0}


COLUMNS = {
    "F1": "f1",
    "precision": "precision",
    "recall": "recall",
    "MCC": "mcc",
    "unique": "uniqueness",
    "expl. var.": "explained_variance",
    "dead": "dead",
}


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    s, world = found["settings"], found["settings"]["world"]
    groups: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        groups.setdefault((row["architecture"], row["l0_asked"]), []).append(row)
    cells = [["", "L0 asked", "got", *COLUMNS]]
    for (name, asked), rows in sorted(groups.items(), key=lambda group: group[0][1] is None):
        if asked is None and cells[-1] and cells[-1][1]:
            cells.append([])  # the baselines stand apart
        got = f"{mean(row['l0'] for row in rows):.1f}"
        values = [_spread([row[key] for row in rows]) for key in COLUMNS.values()]
        cells.append([name, "" if asked is None else f"{asked:g}", got, *values])
    seeds = f"mean ± standard deviation of {len(s['seeds'])} seeds; " if len(s["seeds"]) > 1 else ""
    true_l0 = mean(row["true_l0"] for row in found["rows"])
    return "\n".join(
        (
            f"{world['features']:,} true features in {world['width']} dimensions, {true_l0:.1f} active a token; "
            f"dictionaries of {s['features']:,}, trained on {s['tokens']:,} tokens in batches of "
            f"{s['batch_tokens']:,} at a learning rate of {s['lr']:g}",
            "",
            aligned(cells),
            "",
            f"{seeds}judged on {s['judged_tokens']:,} other tokens of the same world",
            f"peak memory: {found['peak_memory_bytes'] / 1e9:,.2f} GB; {machine_line(found)}",
        )
    )


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
