"""`unmix bench`: how fast this machine is, and what architectures find where the truth is known."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.cli.arguments import Dotted, force_argument, read_recipe, recipe_arguments
from unmix.cli.progress import Progress
from unmix.errors import UserError

if TYPE_CHECKING:
    import torch

SHORT_RUN = 96
"""Steps of `bench sweep` where no other number is asked for: three whole chunks of the demo's."""
BENCH = """\
Times on this machine, each next to the best the machine can do, measured in the same run. Nothing is compared with
numbers from elsewhere. Leave the machine idle otherwise. docs/speed.md says how to read the results.

examples:
  unmix bench step                                  D=768, F=10,000, 4,096 tokens, L0 = 100
  unmix bench step --l0 5000                        where half of the features are active: the dense step
  unmix bench step --device cuda                    every phase on a GPU, next to its lower bound
  unmix bench harvest --model gpt2 --hook resid_pre.8
  unmix bench sweep gpt2-l1-sweep --steps 352       three chunks of 25,600 tokens
  unmix bench truth                                 which architecture finds the true features
"""
TRUTH = """\
Activations are made from known features; architectures are trained on them, and judged by how many they found:
SynthSAEBench (arXiv 2602.14687), offline. docs/truth.md says what the numbers mean. No times are measured.

sizes (true features, width; features of a dictionary; L0; tokens):
  small     2,048, 256;    512;  8;   2 million, some minutes on two cores
  medium    4,096, 384;  1,024; 12;  20 million, hours
  full     16,384, 768;  4,096; 25; 200 million in batches of 1,024: the published protocol

examples:
  unmix bench truth
  unmix bench truth --architecture batchtopk matryoshka --l0 5 8 12 --seed 0 1 2
  unmix bench truth --size full --tokens 2000000
"""


def add_bench(commands: Any) -> None:
    """Add the command."""
    raw = argparse.RawDescriptionHelpFormatter
    bench = commands.add_parser(
        "bench",
        help="how fast a step, a harvest and a sweep are on this machine; which architecture finds true features",
        description=BENCH,
        formatter_class=raw,
        allow_abbrev=False,
    )
    whats = bench.add_subparsers(title="what", metavar="WHAT", required=True)

    step = whats.add_parser("step", help="one training step, next to the encoder's product alone", allow_abbrev=False)
    step.add_argument("--width", type=int, default=768, metavar="D", help="width of the activations (768)")
    step.add_argument("--features", type=int, default=10_000, metavar="F", help="features (10,000)")
    step.add_argument("--tokens", type=int, default=4096, metavar="B", help="tokens per step (4,096)")
    step.add_argument("--l0", type=float, default=100.0, help="active features per token (100)")
    step.add_argument(
        "--selection",
        nargs="+",
        choices=["fp32", "bf16", "int8"],
        help="how the active features are found (fp32, and what else the CPU has instructions for)",
    )
    step.add_argument(
        "--device",
        default="cpu",
        help="cpu, or cuda, cuda:1: every phase next to its lower bound on that GPU (cpu)",
    )
    _common(step)
    step.set_defaults(run=_step)

    harvest = whats.add_parser("harvest", help="reading activations, from the model and from disk", allow_abbrev=False)
    recipe_arguments(harvest)
    harvest.add_argument("--tokens", type=int, default=8192, help="tokens per reading (8,192)")
    harvest.add_argument("--store-tokens", type=int, default=131_072, help="tokens in the store (131,072)")
    _scratch(harvest)
    _common(harvest)
    harvest.set_defaults(run=_harvest)

    sweep = whats.add_parser(
        "sweep",
        help="a short real sweep: what takes the time",
        description=f"The sweep of a recipe (demo), cut to {SHORT_RUN} steps unless --steps says otherwise, in a\n"
        "temporary folder that is removed.",
        formatter_class=raw,
        allow_abbrev=False,
    )
    recipe_arguments(sweep)
    _scratch(sweep)
    _json(sweep)
    sweep.set_defaults(run=_sweep)

    truth = whats.add_parser(
        "truth",
        help="which architecture finds the true features: SynthSAEBench, offline",
        description=TRUTH,
        formatter_class=raw,
        allow_abbrev=False,
    )
    truth.add_argument("--size", choices=["small", "medium", "full"], default="small", help="of the world (small)")
    truth.add_argument(
        "--architecture",
        nargs="+",
        metavar="NAME",
        help="any of `unmix sweep`'s (relu, topk, batchtopk, matryoshka, jumprelu and gated)",
    )
    truth.add_argument("--l0", type=float, nargs="+", metavar="L0", help="active features per token (the size's)")
    truth.add_argument("--features", type=int, metavar="F", help="features of each dictionary (the size's)")
    truth.add_argument("--tokens", type=int, metavar="N", help="tokens to train on (the size's)")
    truth.add_argument("--judge", type=int, metavar="N", help="fresh tokens to judge on (the size's)")
    truth.add_argument("--lr", type=float, help="learning rate (a recipe's default for that many steps)")
    truth.add_argument("--seed", type=int, nargs="+", default=[0], metavar="S", help="one run for each (0)")
    truth.add_argument("--out", type=Path, metavar="DIR", help="keep the dictionaries, and one line for each, here")
    _json(truth)
    truth.set_defaults(run=_truth)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=7, help="rounds; figures are medians over them (7)")
    _json(parser)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything measured, as JSON")


def _scratch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where the temporary folder is made (the system's)")
    force_argument(parser)


def _step(args: argparse.Namespace, _: Dotted) -> int:
    _at_least_one_round(args)
    from unmix.devices import resolve

    device = resolve(args.device)
    if device.type != "cpu":
        return _step_on_gpu(args, device)
    from unmix.bench import step

    with Progress():
        found = step.run(
            width=args.width,
            features=args.features,
            tokens=args.tokens,
            l0=args.l0,
            repeats=args.repeats,
            selection=args.selection,
            say=Progress.say,
        )
    return _show(args, found, step.table)


def _step_on_gpu(args: argparse.Namespace, device: torch.device) -> int:
    if device.type != "cuda":
        raise UserError(f"--device {args.device} has no kernels of its own; give --device cpu, or cuda")
    if args.selection:
        raise UserError(f"--selection {' '.join(args.selection)} is of the processor's kernels; leave it out on a GPU")
    if find_spec("triton") is None:
        raise UserError(f"--device {args.device}: its kernels need triton; pip install triton, or give --device cpu")
    from unmix.bench import step, step_gpu

    step.require_a_step(args.width, args.features, args.tokens, args.l0)
    with Progress():
        found = step_gpu.run(
            width=args.width,
            features=args.features,
            tokens=args.tokens,
            l0=args.l0,
            repeats=args.repeats,
            device=device,
            say=Progress.say,
        )
    return _show(args, found, step_gpu.table)


def _harvest(args: argparse.Namespace, dotted: Dotted) -> int:
    _at_least_one_round(args)
    _folder_there(args)
    read = read_recipe(args, dotted)
    from unmix.bench import harvest

    with Progress():  # SIGTERM and Ctrl-C remove the temporary folder
        found = harvest.run(
            read,
            tokens=args.tokens,
            store_tokens=args.store_tokens,
            repeats=args.repeats,
            scratch=args.scratch,
            force=args.force,
            say=Progress.say,
        )
    return _show(args, found, harvest.table)


def _sweep(args: argparse.Namespace, dotted: Dotted) -> int:
    _folder_there(args)
    steps, args.steps = args.steps, None  # no change of the recipe: without any other option it is the demo
    if steps is not None and steps < 1:
        raise UserError(f"--steps {steps} trains nothing; give at least 1")
    read = read_recipe(args, dotted)
    from unmix.bench import sweep
    from unmix.training.run import Watch

    with Progress() as progress:
        watch = Watch(say=progress.say, rows=progress.rows)
        found = sweep.run(
            read,
            steps=steps or min(SHORT_RUN, read.training.steps),
            scratch=args.scratch,
            force=args.force,
            watch=watch,
        )
    return _show(args, found, sweep.table)


def _truth(args: argparse.Namespace, _: Dotted) -> int:
    if bad := [seed for seed in args.seed if seed < 0]:
        raise UserError(f"--seed {bad[0]} is below 0; give 0 or more")
    if len(set(args.seed)) < len(args.seed):
        raise UserError(f"--seed {' '.join(map(str, args.seed))} names one twice; name each once")
    from unmix.bench import truth
    from unmix.training.run import Watch

    with Progress() as progress:
        found = truth.run(
            args.size,
            architectures=args.architecture,
            l0=args.l0,
            tokens=args.tokens,
            judged_tokens=args.judge,
            features=args.features,
            lr=args.lr,
            seeds=args.seed,
            out=args.out,
            watch=Watch(say=progress.say, rows=progress.rows),
        )
    return _show(args, found, truth.table)


def _at_least_one_round(args: argparse.Namespace) -> None:
    if args.repeats < 1:
        raise UserError(f"--repeats {args.repeats} measures nothing; give at least 1")


def _folder_there(args: argparse.Namespace) -> None:
    if args.scratch is not None and not args.scratch.is_dir():
        raise UserError(f"--scratch {args.scratch} is not a folder; give an existing one")


def _show(args: argparse.Namespace, found: dict[str, Any], table: Callable[[dict[str, Any]], str]) -> int:
    print(json.dumps(found, indent=1) if args.json else table(found))
    return 0
