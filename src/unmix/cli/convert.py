"""`unmix convert`: bring a dictionary of another library into a folder of ours."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.cli.arguments import CORPUS, Dotted
from unmix.cli.measured import LAYOUTS, refuse_options, write_measured
from unmix.errors import UserError

if TYPE_CHECKING:
    from unmix.dictionary.model import Dictionary


def add_convert(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "convert",
        help="import a dictionary of another library, .pt files included, into an unmix folder",
        description="Read SRC, a file or folder of SAELens, Gemma Scope, sparsify, dictionary_learning, OpenAI, Llama\n"
        "Scope, Qwen Scope, circuit-tracer …, normalize it to raw x in and raw ŷ out, and write DST, which must\n"
        "not exist: cfg.json and sae_weights.safetensors. One line says what SRC was read as.\n\n"
        "From a .pt file only tensors and plain values are read, and nothing in it is run. Folders without one\n"
        "open as they are. docs/interop.md says what opens, what is refused and why.\n\n"
        "Results for other tools:\n"
        "  unmix convert RUN_OR_SAE DST --to saebench       the evaluation.json there, as SAEBench's core results\n"
        "  unmix convert RUN_OR_SAE DST --to neuronpedia    the explorer's site there, for Neuronpedia (DST/bulk for\n"
        "                                                   its importer, DST/upload for its API)\n"
        "  unmix convert RUN_OR_SAE DST --to delphi         a cache of activations, on --model and --corpus",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "src",
        type=Path,
        nargs="+",
        metavar="SRC",
        help="a folder, a file such as ae.pt, or OWNER/REPO/… on the hub; for circuit_tracer one per layer",
    )
    parser.add_argument("dst", type=Path, metavar="DST", help="the folder to write")
    parser.add_argument("--model", metavar="NAME", help="the language model, if SRC does not say, or is wrong")
    parser.add_argument(
        "--hook", metavar="HOOK", help="where x is read, such as resid_post.3, if SRC does not say, or is wrong"
    )
    parser.add_argument(
        "--to",
        choices=["unmix", "dictionary_learning", "sparsify", "circuit_tracer", *LAYOUTS],
        default="unmix",
        help="the layout to write; the default is ours, which SAELens opens. sparsify takes only topk; "
        "dictionary_learning relu, jumprelu, gated and topk; circuit_tracer relu and jumprelu transcoders, one per "
        "layer from 0 on",
    )
    parser.add_argument("--set", metavar="NAME", help="for neuronpedia: the source set (default: DST's name)")
    parser.add_argument(
        "--creator", metavar="ID", help="for neuronpedia: the user's id there (default: that of a new instance)"
    )
    parser.add_argument("--corpus", metavar="SOURCE", help="for delphi: the corpus (default: the one that SRC names)")
    parser.add_argument("--tokens", type=int, metavar="N", help="for delphi: held-out tokens to cache (262,144)")
    parser.add_argument("--json", action="store_true", help="print what was read as JSON")
    parser.set_defaults(run=_run, keys=CORPUS)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    from unmix.interop.convert import convert, convert_set

    refuse_options(args, dotted)
    if args.to in LAYOUTS:
        return write_measured(args, dotted)
    if args.to == "circuit_tracer":
        read = convert_set(args.src, args.dst, model=args.model, hook=args.hook)
    elif len(args.src) > 1:
        raise UserError(f"{len(args.src)} dictionaries cannot go into one folder; give one, or --to circuit_tracer")
    else:
        read = [convert(args.src[0], args.dst, model=args.model, hook=args.hook, to=args.to)]
    if args.json:
        found = [{"folder": str(args.dst), **_widths(one.dictionary), **asdict(one.origin)} for one in read]
        print(json.dumps(found if args.to == "circuit_tracer" else found[0], indent=1))
        return 0
    for one in read:
        print(one.origin.line(one.dictionary))
        for note in one.origin.notes:
            print(f"  {note}")
    return 0


def _widths(sae: Dictionary) -> dict[str, int]:
    return {"d_in": sae.width, "d_out": sae.W_dec.shape[1], "features": sae.features}
