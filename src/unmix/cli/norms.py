"""`unmix norms`: the norms of activations, and the tokens with the largest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unmix.cli.arguments import Dotted, read_recipe, recipe_arguments
from unmix.cli.progress import Progress
from unmix.errors import UserError


def add_norms(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "norms",
        help="activation norms at every layer, and the tokens with the largest",
        description="One pass of a recipe's model over its corpus: the distribution of ||x|| at every layer and the\n"
        "recipe's hooks, and the tokens that fill the top 1 %. Writes norms.json and norms.png.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    recipe_arguments(parser)
    parser.add_argument("--tokens", type=int, default=200_000, help="tokens of the train split (200,000)")
    parser.add_argument("--out", type=Path, default=Path("norms"), metavar="DIR", help="where the files go (norms/)")
    parser.add_argument("--json", action="store_true", help="print norms.json")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    recipe = read_recipe(args, dotted)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"matmul": "fp32"})})  # norms are exact
    if args.tokens < 1:
        raise UserError(f"--tokens {args.tokens} is nothing to measure; give a number above 0")
    from unmix.evaluation.norms import norms, table
    from unmix.report.norms import heat_map
    from unmix.runlog import write_json, write_whole
    from unmix.training.inputs import as_new, open_model

    recipe = as_new(recipe, args.tokens, Progress.say)
    model, tokens = open_model(recipe, Progress.say, args.tokens)
    found = norms(model, tokens, args.tokens, recipe.activations.hooks)
    write_json(args.out / "norms.json", found)
    write_whole(args.out / "norms.png", heat_map(found))
    print(json.dumps(found, indent=1) if args.json else table(found))
    Progress.say(f"written: {(args.out / 'norms.json').resolve()}, norms.png")
    return 0
