"""`unmix show`: a feature, or a text, in the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unmix.cli.arguments import Dotted
from unmix.cli.place import place_of
from unmix.cli.progress import Progress
from unmix.errors import UserError


def add_show(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "show",
        help="a feature in the terminal; or a text, with the features of each of its tokens",
        description="Reads what `unmix explore RUN --build` wrote.\n\n"
        "  unmix show runs/demo 1234                   a feature of the chosen member\n"
        "  unmix show runs/demo l0-20:1234             or of another\n"
        '  unmix show runs/demo --text "import os"     runs the model',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN_OR_SAE", help="a run, an SAE folder, or OWNER/REPO/… on the hub"
    )
    parser.add_argument("feature", nargs="?", metavar="FEATURE", help="its number, or MEMBER:NUMBER")
    parser.add_argument("--text", help="show the features of this text's tokens")
    parser.add_argument("--member", metavar="NAME", help="which member (default: the chosen one)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the site was built (RUN_OR_SAE/explore)")
    parser.add_argument(
        "--most", type=int, default=8, metavar="N", help="examples per kind, and features per token (8)"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    if (args.feature is None) == (args.text is None):
        raise UserError("show takes a FEATURE or --text, one of them")
    if args.most < 1:
        raise UserError(f"--most {args.most} shows nothing; give a number above 0")
    from rich.console import Console

    from unmix.explore.terminal import asked_feature, open_site, show_feature, show_text
    from unmix.interop.hub import kept_of

    out = args.out or kept_of(args.folder) / "explore"
    console = Console(highlight=False, emoji=False, markup=False)
    if args.feature is not None:
        member, feature = asked_feature(args.feature, args.member)
        show_feature(console, open_site(out, member), feature, args.most)
        return 0
    view = open_site(out, args.member)
    from unmix.explore.server_open import open_served

    served = open_served(place_of(args.folder).folder, out, model=None, corpus=None, hook=None, say=Progress.say)
    read = served.read(served.member(view.member["name"]), args.text)
    show_text(console, view._replace(piece=lambda i: _piece(served.bytes_of(i))), read, args.most)
    return 0


def _piece(token: bytes) -> str:
    from unmix.explore.marks import shown

    return shown(token)
