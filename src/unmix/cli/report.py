"""`unmix report`: write the page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unmix.cli.arguments import Dotted


def add_report(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("report", help="write RUN/report.html and its figures", allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    return show_report(args.folder)


def show_report(folder: Path) -> int:
    """Write the report of a run and print where it is."""
    from unmix.report.html import write_report

    print(f"report: {write_report(folder).resolve()}")
    return 0
