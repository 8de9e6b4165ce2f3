"""`unmix choose`: which member is the one, by the rule."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unmix.bench.table import aligned
from unmix.cli.arguments import Dotted
from unmix.errors import UserError


def add_choose(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "choose", help="apply the rule: fewer than N active features, but not far fewer", allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--max-active", type=float, help="N, active features per token (default: the recipe's)")
    parser.add_argument(
        "--at-step", type=int, metavar="S", help="predict L0 at this step (default: choice.extend_to, or the last step)"
    )
    parser.add_argument("--json", action="store_true", help="print choice.json")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    from unmix.training.manifest import read_run

    cap = args.max_active if args.max_active is not None else read_run(args.folder)[0].choice.max_active
    if not cap > 0:
        raise UserError(f"--max-active {cap:g} admits nothing; give a number above 0")
    if args.at_step is not None and args.at_step < 1:
        raise UserError(f"--at-step {args.at_step} is before training; give 1 or more, or leave it out")
    choices = decide(args.folder, cap, args.at_step)
    if args.json:
        print(json.dumps(choices[0] if len(choices) == 1 else {"hooks": choices}, indent=1))
        return 0
    each = ", for each variant of each hook" if "variant" in choices[0] else ", for each hook"
    print(f"rule: {choices[0]['rule']}{each if len(choices) > 1 else ''}")
    for choice in choices:
        _show_choice(choice)
    return 0


def _show_choice(choice: dict[str, Any]) -> None:
    print()
    candidates = choice["candidates"]
    compared = any(c["explained_variance"] is not None for c in candidates)
    rows, marks = (
        [["member", f"L0 at {choice['at_step']:,}", *["expl. var."] * compared, "expected", "90 % band"]],
        [""],
    )
    for c in candidates:
        explained = "" if c["explained_variance"] is None else f"{c['explained_variance']:.3f}"
        expected = "" if c["no_forecast"] else f"{c['predicted_l0']:.4g}"
        band = "" if c["low"] is None else f"{c['low']:.4g} to {c['high']:.4g}"
        rows.append([c["member"], f"{c['l0']:.4g}", *[explained] * compared, expected, band])
        marks.append("chosen" if c["member"] == choice["member"] else c["why"])
    for line, mark in zip(aligned(rows).splitlines(), marks, strict=True):
        print(f"{line}   {mark}".rstrip())
    print(f"\n{choice['reason']}")


def decide(folder: Path, cap: float, at_step: int | None) -> list[dict[str, Any]]:
    """A choice for each hook (or variant of each), written to `choice.json`; with what came true, where it is known."""
    from unmix.training.chosen import make_choices, note_what_came_true

    choices = make_choices(folder, cap, at_step)
    return note_what_came_true(folder) if (folder / "extension.json").exists() else choices
