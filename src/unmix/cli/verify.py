"""`unmix verify`: check every file of a folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unmix.cli.arguments import Dotted


def add_verify(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="check every file of a run, a store or an SAE folder",
        description="Read everything: the description, each line of metrics, the checksums of checkpoints and shards,\n"
        "the shapes of the dictionaries. A line for each problem; exit status 1 if there is any.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run, a store, or a folder with cfg.json")
    parser.add_argument("--json", action="store_true", help="print what was checked and found as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    from unmix.verify import verify

    found = verify(args.folder)
    if args.json:
        print(json.dumps({"folder": str(args.folder), **found._asdict()}, indent=1))
    else:
        for problem in found.problems:
            print(problem)
        if not found.problems:
            print(f"{args.folder} is whole: {found.checked}")
    return 1 if found.problems else 0
