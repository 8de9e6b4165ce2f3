"""Checks and times the GPU kernels, in ten minutes at most: PYTHONPATH=src python scripts/check_gpu.py [--json FILE]

Needs an NVIDIA GPU, torch, triton and numpy. Every kernel is held against float64 formulas on random inputs, for
every row of the table that it knows, with its outputs and scratch memory full of NaN before; so is the portable step,
in float32, in bf16 and compiled. Then steps and updates are timed, whole and by phase, beside what this GPU does at
best, and where dense and sparse steps meet is measured. All numbers go to one file, with what there was no time for
under `not_done`. Exits 1 if a check is wrong or not made or a timing fails, 2 if there is no GPU. Without a GPU:

    --interpret           the checks at tiny sizes in Triton's interpreter (on the CPU)
    --compile 80 90 100   every kernel through the compiler, for these compute capabilities; nothing runs
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 540  # the rest of the ten minutes is for what was begun before
SPARED = 210  # of them for what is timed after the phases


def measure(found: dict[str, Any], timings: dict[str, Callable[[], Any]], file: Path | None, seconds: float) -> None:
    """Puts the numbers of each timing under its name; of one that fails, the message under NAME_failed.

    None is begun when so many seconds have gone by; what there was no time for is listed under `not_done`.
    """
    from gpu_clock import LATE, undone

    until = time.monotonic() + seconds
    for name, timing in timings.items():
        try:
            if time.monotonic() >= until:
                found[f"{name}_failed"] = LATE
            else:
                found[name] = timing()
        except Exception as error:  # the other numbers are worth having
            found[f"{name}_failed"] = f"{type(error).__name__}: {error}"
            print(f"  FAILED {name}: {found[f'{name}_failed']}", flush=True)
        found["not_done"] = undone(found)
        write(found, file)


def write(found: dict[str, Any], file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(found, indent=1))


def verdict(found: dict[str, Any]) -> int:
    """Says whether all went well; answers the exit status."""
    wrong = sum(not row["ok"] for row in found["checks"])
    failed = [name.removesuffix("_failed") for name in found if name.endswith("_failed")]
    print(f"\nWRONG: {wrong} checks" if wrong else f"\nall {len(found['checks'])} checks right")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    if found.get("not_done"):
        print(f"NO TIME LEFT FOR: {'; '.join(found['not_done'])}")
    return 1 if wrong or failed or found.get("checks_left_out") else 0


def every_timing(found: dict[str, Any], until: float, compiled: bool) -> dict[str, Callable[[], Any]]:
    """By name, in their order; none begins anything after `until`. `compiled`: with what goes through torch.compile."""
    from gpu_late import time_members, time_portable_members
    from gpu_times import crossover, floors, rivals, time_adam, time_phases, time_portable

    return {
        "floors": floors,
        "phases": lambda: time_phases(found["floors"], until - SPARED),
        "members": lambda: time_members(until),
        "crossover": lambda: crossover(until),
        "adam": lambda: time_adam(found["floors"], until),
        "portable": lambda: time_portable(compiled, until),
        "portable_members": lambda: time_portable_members(compiled, until),
        "rivals": lambda: rivals(compiled, until),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a new file for all numbers; on a GPU gpu.json if it is not given")
    parser.add_argument("--interpret", action="store_true", help="checks at tiny sizes, no GPU needed")
    parser.add_argument("--compile", type=int, nargs="+", metavar="CAPABILITY", help="only compile; no GPU needed")
    parser.add_argument("--no-torch-compile", action="store_true", help="nothing through torch.compile")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no timing begins later than so (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs of the checks (%(default)s)")
    parser.add_argument("--leave", nargs="+", default=[], metavar="PART", help="leave these out: checks, or timings")
    args = parser.parse_args()
    file = args.json or (None if args.interpret else Path("gpu.json"))
    if file and file.exists() and not args.compile:
        print(f"{file} is there already: give another --json FILE")
        return 2
    os.environ["TRITON_INTERPRET"] = "1" if args.interpret else "0"  # read where kernels are defined: imports wait
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's test for repeatable operations asks for it
    if args.compile:
        from gpu_compile import compile_for

        return max(map(compile_for, args.compile))
    import torch

    if not args.interpret and not torch.cuda.is_available():
        print("no CUDA device that torch can use: run this where there is one, or with --interpret on the CPU")
        return 2
    import triton
    from gpu_checks import check
    from gpu_clock import undone

    if args.interpret:
        from gpu_interpret import quicken

        quicken()
    began = time.monotonic()
    found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__, "seed": args.seed}
    torch.manual_seed(args.seed)
    if not args.interpret:
        gpu = torch.cuda.get_device_properties(0)
        found |= {"device": gpu.name, "memory_gb": gpu.total_memory / 1e9}
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    found["checks"] = []
    if "checks" not in args.leave:
        print("checks, in Triton's interpreter" if args.interpret else "checks", flush=True)
        # in the interpreter they take as long as they take
        until = math.inf if args.interpret else began + args.seconds
        device, compiled = "cpu" if args.interpret else "cuda", not (args.interpret or args.no_torch_compile)
        checks = check(device, tiny=args.interpret, compiled=compiled, until=until)
        found |= {"checks": checks.rows, "checks_left_out": checks.left_out}
    found["not_done"] = undone(found)
    write(found, file)
    if not args.interpret:
        until = began + args.seconds
        timings = every_timing(found, until, not args.no_torch_compile)
        timings = {name: timing for name, timing in timings.items() if name not in args.leave}
        measure(found, timings, file, until - time.monotonic())
        found["seconds"] = time.monotonic() - began
        write(found, file)
    return verdict(found)


if __name__ == "__main__":
    sys.exit(main())
