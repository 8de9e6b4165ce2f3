"""`unmix evaluate`: judge a run's members, or any SAE folder, on held-out documents."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.cli.arguments import CORPUS, Dotted, corpus_keys
from unmix.cli.place import place_of
from unmix.cli.progress import Progress
from unmix.errors import UserError

if TYPE_CHECKING:
    from unmix.config import MaskConfig


def add_evaluate(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="held-out metrics of a run's members, or of any SAE folder",
        description="Explained variance, cosine, cross-entropy with the SAE spliced in, sparsity, dead features …\n"
        "over documents that were held out of training, with baselines beside them. Writes evaluation.json.\n\n"
        "An SAE of SAELens that unmix did not train:\n"
        "  unmix evaluate FOLDER --model gpt2 --corpus texts/   [--hook resid_pre.8, if its cfg.json names none]\n\n"
        "Several are judged on the same tokens, with one table and a page that shows them side by side:\n"
        "  unmix evaluate runs/a runs/b FOLDER --model gpt2 --corpus texts/ --out comparison",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="RUN_OR_SAE",
        help="a run, an SAE folder, a file of one (NAME.npz, whose evaluation goes into NAME/ beside it), or "
        "OWNER/REPO/… on the hub; several are compared",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where evaluation.json and comparison.html of several go; comparison/ if not given",
    )
    parser.add_argument("--tokens", type=int, default=1_000_000, help="held-out tokens for fidelity (1,000,000)")
    parser.add_argument("--ce-tokens", type=int, metavar="N", help="of these, for cross-entropy (100,000)")
    parser.add_argument(
        "--debias",
        action="store_true",
        help="also refit each dictionary's magnitudes, support frozen; save in debiased/",
    )
    parser.add_argument(
        "--mask",
        choices=["auto", "none"],
        help="auto leaves out outliers, none keeps every token; if not given, the mask of the training, or auto if it "
        "kept every token",
    )
    parser.add_argument("--mask-special", action="store_true", help="leave out special tokens; they keep x if spliced")
    parser.add_argument(
        "--mask-norm-above", type=float, metavar="X", help="leave out tokens with norms above X times the median"
    )
    parser.add_argument("--model", help="the language model, if not the one that the folder names")
    parser.add_argument(
        "--corpus",
        help="the corpus, if not the one that the folder names; --corpus.field NAME and its other keys say how it is "
        "read",
    )
    parser.add_argument("--hook", help="where an SAE is judged, if not at the hook that its folder names")
    parser.add_argument("--hook-out", metavar="HOOK", help="where a transcoder's y is read, if its folder does not say")
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="sequences that go through the model at once; if not given, as many as need about 1 GB, at most 16",
    )
    parser.add_argument(
        "--device", help="where it is evaluated, if not on the device of the run: auto, cpu, cuda, cuda:1, mps, xpu"
    )
    parser.add_argument("--json", action="store_true", help="print evaluation.json")
    parser.set_defaults(run=_run, keys=CORPUS)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    for flag, value in (("--tokens", args.tokens), ("--ce-tokens", args.ce_tokens)):
        if value is not None and value < 1:
            raise UserError(f"{flag} {value} leaves nothing to evaluate on; give a number above 0")
    if args.batch is not None and args.batch < 1:
        raise UserError(f"--batch {args.batch} is no sequence at all; give a number above 0, or leave it out")
    if args.mask_norm_above is not None and not args.mask_norm_above > 0:
        raise UserError(f"--mask-norm-above {args.mask_norm_above:g} leaves nothing; give a number above 0")
    from unmix.evaluation.command import FILE, evaluate_folder, require_ours
    from unmix.evaluation.table import table
    from unmix.runlog import write_json

    several = len(args.folders) > 1
    places = [place_of(name) for name in args.folders]
    folder, kept = places[0]
    if args.out is not None and not several:
        raise UserError(f"--out {args.out} is for several folders; of one, evaluation.json goes into it")
    if several:
        kept = args.out or Path("comparison")
    elif args.debias and kept != folder:
        makes = "convert" if folder.is_file() else "pull"
        raise UserError(f"--debias writes into the folder; `unmix {makes} {args.folders[0]} DIR` makes one: give it")
    if kept != folder and kept.is_file():
        raise UserError(f"{kept} is a file, and {FILE} is to go into a folder of that name; move it away")
    require_ours(kept)
    found = evaluate_folder(
        [place.folder for place in places] if several else folder,
        fidelity_tokens=args.tokens,
        ce_tokens=args.ce_tokens,
        model=args.model,
        corpus=args.corpus,
        hook=args.hook,
        hook_out=args.hook_out,
        batch=args.batch,
        device=args.device,
        corpus_keys=corpus_keys(dotted),
        debias=args.debias,
        mask=evaluation_mask(args),
        say=Progress.say,
    )
    print(json.dumps(found, indent=1) if args.json else table(found))
    kept.mkdir(parents=True, exist_ok=True)
    write_json(kept / FILE, found)
    if several:
        from unmix.report.comparison import write_comparison

        Progress.say(f"comparison: {write_comparison(kept, found).resolve()}")
    elif kept != folder:
        Progress.say(f"evaluation: {kept / FILE}")
    return 0


def evaluation_mask(args: argparse.Namespace) -> Callable[[MaskConfig], MaskConfig]:
    """What the flags make of the mask that was trained with."""
    from unmix.config import EVERY_TOKEN, MaskConfig

    def mask(trained: MaskConfig) -> MaskConfig:
        base = {"auto": MaskConfig(), "none": EVERY_TOKEN}.get(args.mask, trained)
        above = base.norm_above if args.mask_norm_above is None else args.mask_norm_above
        return MaskConfig(special=base.special or args.mask_special, norm_above=above)

    return mask
