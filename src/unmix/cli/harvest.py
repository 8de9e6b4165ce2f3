"""`unmix harvest`: write activations to disk."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.cli.arguments import Dotted, force_argument, read_recipe, recipe_arguments
from unmix.cli.progress import Progress
from unmix.errors import UserError

if TYPE_CHECKING:
    from unmix.config import RunConfig


def add_harvest(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "harvest",
        help="write activations to disk, to train on them repeatedly",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run the model of a recipe over its corpus and write the shuffled activations to a store.\n"
        "Train on it with `unmix sweep RECIPE --activations.store DIR`.",
    )
    recipe_arguments(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the store; an unfinished one is resumed"
    )
    parser.add_argument(
        "--tokens", type=int, help="how many (default: as many as the recipe's sweep and extension read)"
    )
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="on disk (bfloat16)"
    )
    force_argument(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    recipe = read_recipe(args, dotted)
    from unmix.training.inputs import activations_read
    from unmix.training.lock import STORE, locked

    wanted = args.tokens if args.tokens is not None else activations_read(recipe)
    if wanted < 1:
        raise UserError(f"--tokens {wanted} is nothing to harvest; give a number above 0")
    with locked(args.out, STORE):  # two at once would write into each other's shards
        _harvest(recipe, args.out, wanted, args.dtype, args.force)
    Progress.say(f"store: {args.out.resolve()}")
    return 0


def _harvest(recipe: RunConfig, out: Path, wanted: int, dtype: str, force: bool) -> None:
    """Write the store, or the rest of it."""
    from unmix.activations.store import harvest, held, rows_written
    from unmix.precision import keep
    from unmix.training.inputs import as_new, open_model, open_stream, store_facts
    from unmix.training.run import repeats

    say, there = Progress.say, held(out)
    before, written = there.get("recipe"), sum(shard["rows"] for shard in there.get("shards", []))
    rows = rows_written(wanted)
    recipe = keep(recipe, before) if before else as_new(recipe, rows, say)
    model, tokens = open_model(recipe, say, rows)
    stream = open_stream(recipe, model, tokens)
    if twice := repeats(stream, rows):
        say(twice)
    began = time.perf_counter()

    def progress(rows: int) -> None:
        rate = (rows - written) / (time.perf_counter() - began)
        say(f"{rows:,} activations ({wanted:,} are needed), {rate:,.0f} tokens/s")

    facts = store_facts(recipe, model, tokens)
    harvest(stream, out, tokens=wanted, dtype=dtype, progress=progress, facts=facts, force=force)
