"""`unmix harvest`: write activations to disk."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from unmix.cli.arguments import Dotted, force_argument, read_recipe, recipe_arguments
from unmix.cli.progress import Progress
from unmix.errors import UserError


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
    from unmix.activations.store import harvest, held, rows_written
    from unmix.precision import keep
    from unmix.training.inputs import activations_read, as_new, open_model, open_stream, store_facts
    from unmix.training.run import repeats

    say = Progress.say
    wanted = args.tokens if args.tokens is not None else activations_read(recipe)
    if wanted < 1:
        raise UserError(f"--tokens {wanted} is nothing to harvest; give a number above 0")
    there = held(args.out)
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

    harvest(
        stream,
        args.out,
        tokens=wanted,
        dtype=args.dtype,
        progress=progress,
        facts=store_facts(recipe, model, tokens),
        force=args.force,
    )
    say(f"store: {args.out.resolve()}")
    return 0
