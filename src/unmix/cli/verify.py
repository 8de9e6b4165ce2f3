"""`unmix verify`: check every file of a folder, and with a model, that its dictionaries belong there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unmix.cli.arguments import CORPUS, Dotted, corpus_keys
from unmix.cli.place import place_of
from unmix.cli.progress import Progress


def add_verify(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="check every file of a run, a store or an SAE folder",
        description="Read everything: the description, each line of metrics, the checksums of checkpoints and shards,\n"
        "the shapes of the dictionaries, and their output on the sample activations stored with them. With --model\n"
        "and --corpus, also how much a dictionary of any library explains of that model's activations. If that is\n"
        "less than their mean does, the hook or the scale is wrong, and possible fixes are tried: other hooks, b_dec\n"
        "subtracted from x or not, scales. Prints a line for each problem; exit status 1 if there is any.\n\n"
        "  unmix verify FOLDER --model gpt2 --corpus texts/   [--hook resid_pre.8, if the folder names none]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="a run, a store, an SAE folder, or OWNER/REPO/… on the hub"
    )
    parser.add_argument("--model", help="the language model; also checks how well the dictionaries fit it")
    parser.add_argument(
        "--corpus",
        help="the corpus for that (default, if unmix trained it: the held-out part of its own); --corpus.field NAME "
        "and its other keys say how it is read",
    )
    parser.add_argument("--hook", help="where x is read (default: the hook that the folder names)")
    parser.add_argument("--hook-out", metavar="HOOK", help="where a transcoder's y is read, if the folder does not say")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens for that (8,192)")
    parser.add_argument("--json", action="store_true", help="print what was checked and found as JSON")
    parser.set_defaults(run=_run, keys=CORPUS)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    from unmix.verify import PROOF_TOKENS, prove_folder, verify

    folder = place_of(args.folder).folder
    found = verify(folder)
    asked = {"model": args.model, "corpus": args.corpus, "hook": args.hook, "hook_out": args.hook_out}
    keys, fit = corpus_keys(dotted), None
    if not found.problems and (args.tokens is not None or keys or any(asked.values())):
        tokens = PROOF_TOKENS if args.tokens is None else args.tokens
        fit = prove_folder(folder, **asked, corpus_keys=keys, tokens=tokens, say=Progress.say)
    problems = found.problems + (fit.problems if fit else [])
    if args.json:
        facts = {"folder": str(args.folder), **found._asdict(), "problems": problems}
        print(json.dumps(facts | ({"fit": fit.checked} if fit else {}), indent=1))
        return 1 if problems else 0
    if not found.problems:
        print(f"{args.folder} is whole: {found.checked}")
    for line in problems or ([fit.checked] if fit else []):
        print(line)
    return 1 if problems else 0
