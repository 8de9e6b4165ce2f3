"""`unmix sweep`: train every member, choose, extend, evaluate, report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.cli.arguments import Dotted, force_argument, read_recipe, recipe_arguments, recipes_text
from unmix.cli.choose import decide
from unmix.cli.extend import run_extension
from unmix.cli.progress import Progress
from unmix.cli.report import show_report

if TYPE_CHECKING:
    from unmix.activations.rows import Rows
    from unmix.config import RunConfig

SWEEP = """\
Train a dictionary for every target L0 (active features per token), or every coefficient of the sparsity penalty (and
every hook and architecture), all on the same batches; then choose one and, if the recipe says how far, train it
further; then write the report. Everything goes into runs/NAME. Run the same command again to resume a stopped run.

examples:
  unmix sweep                                       the demo: the embedded model, a few minutes
  unmix sweep gpt2-l1-sweep                         a recipe that ships with unmix, by name
  unmix sweep my.yaml --name first-try --l1 0 5 50 500 --steps 35000
  unmix sweep --name compared --architecture relu batchtopk --l0 20 50 100
  unmix sweep --model smollm2 --hook resid_post.15 --corpus english/ --name smollm2
  unmix sweep --model gpt2 --hook resid_pre.8 --features 10000 --corpus texts/ --steps 35000 --name gpt2-texts

without a recipe or options it runs the demo; options alone change the defaults (2,000 steps of 512 tokens; batchtopk
with 8,192 features, of which 20, 40, 80 or 160 are active; with --l1, relu; a learning rate for that many steps, a cap
of 100 active features, no extension; tokens with norms above 10 times the median are left out).

any key of a recipe can be given as --section.key value, for instance:
  --training.lr 1e-3            learning rate                  --training.batch_tokens 4096   tokens per step
  --sae.decoder unit_norm       rows of norm 1, plain L1       --sae.scaling none             no input scaling
  --sae.prefixes 64 512         Matryoshka prefixes            --sae.auxk 0.1                 train dead features
  --training.mask none          train on outliers too          --sae.centre none              the mean stays in x
  --corpus.max_tokens 5000000   read no more than this         --choice.extend_to 105000      extend the choice
  --activations.store DIR       read what `unmix harvest` wrote  --activations.rows X.npy      your own activations
  --activations.targets Y.npy   predict these rows from X.npy: transcoders
"""


def add_sweep(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sweep",
        help="train every member of a sweep, choose, extend, report",
        description=SWEEP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=recipes_text(),
        allow_abbrev=False,
    )
    recipe_arguments(parser)
    parser.add_argument(
        "--train-only", action="store_true", help="stop after the sweep: no choice, extension, evaluation, report"
    )
    parser.add_argument(
        "--no-evaluate",
        action="store_true",
        help="skip the evaluation at the end (100,000 held-out tokens, cross-entropy on 20,000): no held-out numbers "
        "in the report",
    )
    force_argument(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    recipe = read_recipe(args, dotted)
    folder = args.runs / recipe.name
    with Progress() as progress:
        code = run_sweep(
            progress, recipe, folder, force=args.force, train_only=args.train_only, evaluate=not args.no_evaluate
        )
    return code if code or args.train_only else show_report(folder)


def run_sweep(
    progress: Progress,
    recipe: RunConfig,
    folder: Path,
    *,
    force: bool = False,
    train_only: bool = False,
    evaluate: bool = True,
    given: Rows | None = None,
) -> int:
    """Train, choose, train the choice on, evaluate; the status that `Progress.guard` answers.

    `given`: the activations, where the recipe has `activations.rows: given`.
    """
    from unmix.training.run import sweep

    code = progress.guard(lambda: sweep(recipe, folder, progress.watch(), force=force, given=given))
    if code or train_only:
        return code
    choices = decide(folder, recipe.choice.max_active, None)
    for choice in choices:
        progress.result(choice["reason"])
    steps, decay = recipe.choice.extend_to, recipe.choice.extend_decay_fraction
    for member in [choice["member"] for choice in choices if choice["member"]]:
        if steps is None:
            break
        code = run_extension(progress, folder, member, steps, decay, force=force, given=given)
        if code:
            return code
    if evaluate:
        from unmix.evaluation.command import evaluate_run

        evaluate_run(folder, progress.watch().say, given)
    return 0
