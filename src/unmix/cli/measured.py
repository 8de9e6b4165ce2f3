"""`unmix convert … --to saebench`, `neuronpedia`, `delphi`: what dictionaries were found to do, for other tools."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from unmix.cli.arguments import Dotted, corpus_keys
from unmix.cli.place import place_of
from unmix.cli.progress import Progress
from unmix.errors import UserError

LAYOUTS = ("saebench", "neuronpedia", "delphi")
TOKENS = 262_144  # as many as an explorer looks at
_OF = {"set": ("neuronpedia",), "creator": ("neuronpedia",), "corpus": ("delphi",), "tokens": ("delphi",)}
"""Options that are of some of them alone."""


def refuse_options(args: argparse.Namespace, dotted: Dotted) -> None:
    """Raises `UserError` for an option that means nothing to what is written."""
    for name, layouts in _OF.items():
        if getattr(args, name) is not None and args.to not in layouts:
            raise UserError(f"--{name} {getattr(args, name)} is only for --to {' or '.join(layouts)}; leave it out")
    if dotted and args.to != "delphi":
        raise UserError(f"--{next(iter(dotted))} is only for --to delphi; leave it out")


def write_measured(args: argparse.Namespace, dotted: Dotted) -> int:
    """Write DST, and print what is in it."""
    if len(args.src) > 1:
        raise UserError(f"{len(args.src)} folders are given, and --to {args.to} takes one; give one")
    written = {"saebench": _saebench, "neuronpedia": _neuronpedia, "delphi": _delphi}[args.to](args, dotted)
    if args.json:
        print(json.dumps({"folder": str(args.dst), "written": [str(path) for path in written]}, indent=1))
        return 0
    for path in written:
        print(path)
    return 0


def _saebench(args: argparse.Namespace, _: Dotted) -> list[Path]:
    """From the evaluation.json of a run or a dictionary."""
    from unmix.interop.convert import convert_evaluation

    if args.model or args.hook:
        raise UserError("--model and --hook are of the evaluation already; leave them out, or evaluate with them again")
    folder, kept = place_of(args.src[0], pickles=True)
    return convert_evaluation(folder, kept, args.dst)


def _neuronpedia(args: argparse.Namespace, _: Dotted) -> list[Path]:
    """From the explorer's site of a run or a dictionary."""
    from unmix.explore.neuronpedia import Asked, write_pages
    from unmix.interop.convert import made_whole, require_free
    from unmix.interop.neuronpedia import CREATOR

    if args.hook:
        raise UserError(f"--hook {args.hook}: a site has its hooks; leave it out")
    require_free(args.dst)
    folder, kept = place_of(args.src[0], pickles=True)
    explored = (folder / "site").is_dir()  # it is the explorer's folder itself
    asked = Asked(args.model, args.set or args.dst.name, args.creator or CREATOR)
    with made_whole(args.dst) as beside:
        out = folder if explored else kept / "explore"
        written = write_pages(out, None if explored else folder, beside, asked, Progress.say)
    return [args.dst / path.relative_to(beside) for path in written]


def _delphi(args: argparse.Namespace, dotted: Dotted) -> list[Path]:
    """From a pass over held-out documents: a cache of each dictionary."""
    import torch

    from unmix.corpus.tokens import sample
    from unmix.evaluation.opened import open_subject
    from unmix.interop.convert import made_whole, require_free
    from unmix.interop.delphi import write_cache

    tokens = TOKENS if args.tokens is None else args.tokens
    if tokens < 1:
        raise UserError(f"--tokens {tokens} leaves nothing to cache; give a number above 0")
    require_free(args.dst)
    subject, lm, held_out = open_subject(
        place_of(args.src[0]).folder,
        Progress.say,
        model=args.model,
        corpus=args.corpus,
        hook=args.hook,
        corpus_keys=corpus_keys(dotted),
        read_at_most=20 * tokens,
    )
    N, T = held_out.ids_NT.shape
    ids_NT = torch.from_numpy(held_out.ids_NT[sample(N)[: max(1, tokens // T)]].astype("int64"))
    several = sum(map(len, subject.saes.values())) > 1
    with made_whole(args.dst) as beside:
        written = []
        for hook, saes in subject.saes.items():
            for name, sae in saes.items():
                Progress.say(f"{name} on {ids_NT.numel():,} tokens at {hook}")
                folder = beside / name if several else beside
                made = write_cache(
                    lm, ids_NT, hook, sae, folder, dataset=subject.corpus.source, dataset_split="held_out"
                )
                written.append(made)
    return [args.dst / path.relative_to(beside) for path in written]
