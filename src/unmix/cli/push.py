"""`unmix push`: a dictionary to the Hugging Face hub, with a card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unmix.cli.arguments import Dotted
from unmix.cli.progress import Progress


def add_push(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "push",
        help="upload a dictionary to the Hugging Face hub, with a model card",
        description="Upload cfg.json, sae_weights.safetensors, samples.safetensors (64 activations and their codes,\n"
        "if the folder has them) and a README.md with the dictionary's figures, and nothing else, in one commit.\n"
        "The figures are those of the folder's evaluation.json, or of its run's. Local paths in cfg.json are cut to\n"
        "their last part. Log in first (`hf auth login`, or set HF_TOKEN).\n\n"
        "  unmix push runs/demo OWNER/REPO --license apache-2.0 --dry-run    prints what it would upload",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a checkpoint, an SAE folder, or a run: its choice")
    parser.add_argument("repo", metavar="REPO", help="OWNER/REPO; created if it does not exist")
    parser.add_argument("--into", default="", metavar="DIR", help="the folder in the repository (its root)")
    parser.add_argument("--license", metavar="ID", help="apache-2.0, mit, cc-by-4.0 …: there is no default")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--replace", action="store_true", help="replace these files if the repository has them")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    from unmix.disk import size
    from unmix.interop.push import prepare, push

    parcel = prepare(args.folder, args.repo, args.license, args.into.strip("/"))
    where = f"{parcel.repo}{', private' if args.private else ''}"
    print(f"{'would send' if args.dry_run else 'sending'} {parcel.folder} to {where}:")
    for name in parcel.files:
        print(f"  {name:<28}{size(parcel.size(name)):>10}")
    for path in parcel.cut:
        print(f"  {path} is cut to its last part in it")
    if args.dry_run:
        print(f"\n{parcel.card}")
        return 0
    print(push(parcel, private=args.private, replace=args.replace, say=Progress.say))
    return 0
