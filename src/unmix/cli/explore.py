"""`unmix explore`: what did it learn? A site of every feature, opened from a folder or served."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unmix.cli.arguments import CORPUS, Dotted, corpus_keys
from unmix.cli.place import place_of
from unmix.cli.progress import Progress
from unmix.cli.report import show_report
from unmix.errors import UserError

_OF_EXPLAIN = ("--explain-model", "--features", "--key-variable", "--seed")


def add_explore(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explore",
        help="see the features: a site that opens from its folder, or is served on this machine",
        description="Shows what each feature is active on, what it promotes, and how members differ.\n\n"
        "  unmix explore runs/demo --build    one pass over held-out tokens; then open explore/site/index.html\n"
        "  unmix explore runs/demo            the same page, served on 127.0.0.1: prompts and interventions too\n\n"
        "An SAE or a transcoder that unmix did not train:\n"
        "  unmix explore FOLDER --build --model gpt2 --corpus texts/   [--hook resid_pre.8]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN_OR_SAE", help="a run, an SAE folder, or OWNER/REPO/… on the hub"
    )
    parser.add_argument("--build", action="store_true", help="build the site, or resume a build, and do not serve it")
    parser.add_argument("--tokens", type=int, metavar="N", help="held-out tokens that features are seen on (262,144)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where it is built (RUN_OR_SAE/explore)")
    parser.add_argument("--anew", action="store_true", help="replace a site of other checkpoints, tokens or documents")
    parser.add_argument("--member", nargs="+", default=[], metavar="NAME", help="these members of the run only")
    parser.add_argument(
        "--beside", type=Path, nargs="*", metavar="OTHER",
        help="match every feature with those of these runs or SAEs too, at the same hook; none given: with none",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8200, help="where it is served; 0 is any that is free (8200)")
    parser.add_argument("--explain", metavar="URL", help="ask this OpenAI-compatible endpoint for descriptions")
    parser.add_argument("--explain-model", metavar="NAME", help="which of its models")
    parser.add_argument("--features", type=int, nargs="+", metavar="I", help="describe these (50 at random)")
    parser.add_argument("--key-variable", metavar="NAME", help="the environment variable that holds the endpoint's key")
    parser.add_argument("--seed", type=int, help="which examples are drawn for descriptions (0)")
    parser.add_argument("--model", help="the language model, if not the one that the folder names")
    parser.add_argument(
        "--corpus",
        help="the corpus, if not the one that the folder names; --corpus.field NAME and its other keys say how it is "
        "read",
    )
    parser.add_argument("--hook", help="where an SAE is read, if not at the hook that its folder names")
    parser.add_argument("--hook-out", metavar="HOOK", help="where a transcoder's y is read, if its folder does not say")
    parser.set_defaults(run=_run, keys=CORPUS)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    if args.tokens is not None and args.tokens < 1:
        raise UserError(f"--tokens {args.tokens} leaves nothing to see; give a number above 0")
    if not args.explain and (unused := [flag for flag in _OF_EXPLAIN if getattr(args, _name(flag)) is not None]):
        raise UserError(f"{unused[0]} is of --explain URL, and does nothing without it; give that, or leave it out")
    from unmix.explore.build import Wanted, build
    from unmix.explore.manifest import read_manifest, require_asked

    folder, kept = place_of(args.folder)
    out = args.out or kept / "explore"
    given = {"model": args.model, "corpus": args.corpus, "hook": args.hook, "hook_out": args.hook_out}
    keys = corpus_keys(dotted)
    wanted = Wanted(args.tokens, args.member, **given, anew=args.anew, beside=args.beside, corpus_keys=keys)
    there = read_manifest(out)
    if args.build or args.anew or args.beside is not None or there is None or not there["site"]:
        page = build(folder, out, wanted, Progress.say)
        print(f"explorer: {page.resolve()}")
        if out == folder / "explore" and (folder / "report.html").exists():
            show_report(folder)  # anew, with features of the site
    else:
        members = [] if args.explain else args.member  # which are to be described
        read = {"corpus": args.corpus, "corpus_keys": keys, "hook": args.hook, "hook_out": args.hook_out}
        require_asked(out, there, args.tokens, members, **read)
    if args.explain:
        return _explain(args, out)
    if args.build:
        return 0
    from unmix.explore.server import serve

    serve(folder, out, port=args.port, **given, corpus_keys=keys, say=Progress.say)
    return 0


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _explain(args: argparse.Namespace, out: Path) -> int:
    if not args.explain_model:
        raise UserError(f"--explain {args.explain} needs the name of a model; give --explain-model NAME")
    from unmix.explore.describe import describe_site
    from unmix.explore.describe_ask import Endpoint, key_from
    from unmix.explore.descriptions import show

    endpoint = Endpoint(args.explain, args.explain_model, key_from(args.key_variable))
    for member in args.member or [None]:
        path = describe_site(
            out, endpoint, member=member, features=args.features or (), seed=args.seed or 0, say=Progress.say
        )
        name = path.relative_to(out / "descriptions").as_posix().removesuffix(".jsonl")
        print(f"descriptions: {path}; the site shows {show(out, name)} of {name}")
    return 0
