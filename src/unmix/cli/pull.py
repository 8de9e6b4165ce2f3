"""`unmix pull`: a dictionary of the Hugging Face hub into a plain folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unmix.cli.arguments import Dotted
from unmix.cli.progress import Progress


def add_pull(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "pull",
        help="copy a dictionary from the Hugging Face hub into a plain folder",
        description="Download the files of one folder (or one file) of a repository through the hub's cache, and copy\n"
        "them to DST. The other commands take OWNER/REPO/SUBFOLDER directly, so this is for copies to keep.\n\n"
        "  unmix pull google/gemma-scope-2b-pt-res layer_20/width_16k/average_l0_71 gemma-scope-2b-pt-res/layer_20\n\n"
        "Gemma Scope and some others name the hook only in their paths: keep those names in DST, as here, or give\n"
        "--hook to the commands that read it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("repo", metavar="REPO", help="OWNER/REPO[@REVISION], or a release of SAELens")
    parser.add_argument("subfolder", nargs="?", metavar="SUBFOLDER", help="the folder or file in it, or the SAE's id")
    parser.add_argument("dst", type=Path, metavar="DST", help="the folder to write; it must not exist")
    parser.add_argument("--revision", metavar="REV", help="a branch, tag or commit (main)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    from unmix.disk import size
    from unmix.interop.pull import pull

    files = pull(args.repo, args.subfolder, args.dst, revision=args.revision, say=Progress.say)
    print(f"{args.dst}: {len(files)} files, {size(sum(path.stat().st_size for path in files))}")
    return 0
