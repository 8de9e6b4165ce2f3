"""`unmix plan`: what a sweep would take, before it begins."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.cli.arguments import Dotted, read_recipe, recipe_arguments, recipes_text
from unmix.cli.outlook import lines_of, outlooks_of
from unmix.cli.progress import Progress
from unmix.cli.published import beside
from unmix.cli.screen import show

if TYPE_CHECKING:
    from unmix.config import RunConfig
    from unmix.training.plan import Plan, Spread


def add_plan(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "plan",
        help="what a sweep would take: tokens, operations, memory, disk, time on this machine",
        description="Open the recipe's model and corpus, time some steps of every member and a chunk of activations,\n"
        "and report what the sweep would take and what limits it; how many tokens published dictionaries were trained\n"
        "on; and, with three or more finished runs like it, the explained variance that a scaling law through them\n"
        "predicts. Takes the options of `unmix sweep`; trains and writes nothing (tokens and timings go into the\n"
        "cache, where the sweep finds them).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=recipes_text(),
        allow_abbrev=False,
    )
    recipe_arguments(parser)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs), finished ones too"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    recipe = read_recipe(args, dotted)
    folder = args.runs / recipe.name
    from unmix.training.plan import plan

    found = plan(recipe, folder, Progress.say)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    outlooks = outlooks_of(recipe, found.read, args.runs)
    if args.json:
        more = {"run": str(folder), "epochs": found.epochs, "sweep_s": asdict(found.sweep_s), "disk_free": free}
        published = [budget._asdict() for budget in beside(recipe.sae.features)]
        laws = {"published": published, "scaling_laws": [asdict(outlook) for outlook in outlooks]}
        print(json.dumps({**asdict(found), **more, "limits": _limits(found, free), **laws}, indent=1))
        return 0
    show([*_lines(found, folder, free), *_published(recipe, found), *lines_of(outlooks, args.runs)])
    return 0


def _lines(found: Plan, folder: Path, free: int) -> Iterator[tuple[str, str]]:
    from unmix.disk import size

    yield "run", f"{folder}: {found.members} members, {found.steps:,} steps of {found.batch_tokens:,} tokens"
    yield (
        "tokens",
        f"{found.read:,} activations are read, of {found.there:,} available: {found.epochs:.2g} epochs, "
        f"{found.chunks:,} chunks",
    )
    model = "no model" if found.model_flops is None else f"model {found.model_flops:.2g}"
    sparse = "" if found.sparse_flops is None else f"; {found.sparse_flops:.2g} if sparse at the target L0"
    yield "operations", f"{model}; members {found.dense_flops:.2g} if every step is dense{sparse}"
    device = "" if found.device_bytes is None else f"; {size(found.device_bytes)} on {found.device}, without the model"
    yield "memory", f"about {size(found.host_bytes)} at the peak{device}"
    yield "disk", f"at most {size(found.disk_bytes)} of checkpoints, where {size(free)} are free"
    yield "time", f"{span(found.sweep_s)}: activations {clock(found.harvest_s)}, members {span(found.members_s)}"
    if found.extension_s is not None:
        yield "", f"then {span(found.extension_s)} to extend the chosen member"
    yield "", "without evaluation and report; the corpus is tokenized already"
    yield "limits", _limits(found, free)


def _published(recipe: RunConfig, found: Plan) -> Iterator[tuple[str, str]]:
    features = recipe.sae.features
    yield (
        "published",
        f"this one: {found.read:,} tokens, {found.read / features:,.0f} for each of {features:,} features",
    )
    for budget in beside(features):
        per_feature = f"{budget.tokens / budget.features:,.0f} for each of {budget.features:,}"
        yield "", f"{budget.tokens:,} tokens, {per_feature}: {budget.what} ({budget.source})"


def _limits(found: Plan, free: int) -> str:
    """What is short, or takes the most time."""
    if found.disk_bytes > free:
        return "the disk: fewer checkpoints (training.keep_last, keep_every), or --runs elsewhere"
    share = found.harvest_s / found.sweep_s.high if found.sweep_s.high else 0.0
    if share > 0.5:
        return f"making activations, {share:.0%} of the time: `unmix harvest` makes them once for several sweeps"
    return f"the members' steps, {1 - share:.0%} of the time: fewer members or features, or larger batches"


def span(seconds: Spread) -> str:
    """`about 3 min 20 s`, or `2 min to 5 min` where the ends differ by more than a tenth."""
    if seconds.high <= 1.1 * seconds.low:
        return f"about {clock((seconds.low + seconds.high) / 2)}"
    return f"{clock(seconds.low)} to {clock(seconds.high)}"


def clock(seconds: float) -> str:
    """`1 d 4 h`, `3 h 20 min`, `3 min 20 s`, `12.3 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, per, unit in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= per:
            return f"{whole // per} {large} {whole % per // unit} {small}"
    raise AssertionError(seconds)
