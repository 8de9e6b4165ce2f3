"""`unmix extend`: train a member on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.cli.arguments import Dotted, force_argument
from unmix.cli.progress import Progress
from unmix.cli.report import show_report
from unmix.errors import UserError

if TYPE_CHECKING:
    from unmix.activations.rows import Rows


def add_extend(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "extend", help="train a member further, from its state before any decay", allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--member", help="which member (default: the one in choice.json)")
    parser.add_argument("--steps", type=int, required=True, help="train it to this step")
    parser.add_argument(
        "--decay", type=float, default=0.0, metavar="SHARE", help="final share of the steps over which lr falls to 0"
    )
    parser.add_argument(
        "--anew",
        action="store_true",
        help="set aside an earlier extension of the member if the new one begins before it (nothing is deleted)",
    )
    force_argument(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    from unmix.runlog import read_choices
    from unmix.training.manifest import read_run

    read_run(args.folder)
    member = args.member
    if member is None:
        chosen = [choice["member"] for choice in read_choices(args.folder) if choice.get("member")]
        if not chosen:
            raise UserError(f"{args.folder} has no choice; give --member, or run `unmix choose {args.folder}`")
        if len(chosen) > 1:
            raise UserError(f"{args.folder} has several choices; give --member, one of {', '.join(chosen)}")
        [member] = chosen
    if not 0 <= args.decay < 1:
        raise UserError(f"--decay {args.decay} is not a share of the steps; give a number from 0 up to 1")
    with Progress() as progress:
        code = run_extension(progress, args.folder, member, args.steps, args.decay, anew=args.anew, force=args.force)
    return code or show_report(args.folder)


def run_extension(
    progress: Progress,
    folder: Path,
    member: str,
    steps: int,
    decay: float,
    *,
    anew: bool = False,
    force: bool,
    given: Rows | None = None,
) -> int:
    """Extend the member, and add to the choice what came true of it; the status that `Progress.guard` answers."""
    from unmix.training.chosen import note_what_came_true
    from unmix.training.extension import extend

    code = progress.guard(
        lambda: extend(folder, member, steps, decay, progress.watch(), anew=anew, force=force, given=given)
    )
    if not code and (folder / "choice.json").exists():
        note_what_came_true(folder)
    return code
