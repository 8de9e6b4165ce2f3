"""Checks and times the GPU kernels, in ten minutes at most: PYTHONPATH=src python scripts/check_gpu.py [--json FILE]

Needs an NVIDIA GPU, torch, triton and numpy. Every kernel is held against float64 formulas on random inputs, for
every row of the table that it knows, with its outputs and scratch memory full of NaN before; then steps and updates are
timed, whole and by phase, beside what this GPU does at best, and where dense and sparse steps meet is measured.
All numbers go to one file. Exits 1 if a check is wrong or a timing fails, 2 if there is no GPU. Without a GPU:

    --interpret           the checks at tiny sizes in Triton's interpreter (on the CPU)
    --compile 80 90 100   every kernel through the compiler, for these compute capabilities; nothing runs
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 540
SPARED = 120  # of them for what is timed after the phases


def measure(found: dict[str, Any], timings: dict[str, Callable[[], Any]], file: Path | None, seconds: float) -> None:
    """Puts the numbers of each timing under its name; of one that fails, the message under NAME_failed.

    None is begun when so many seconds have gone by.
    """
    until = time.monotonic() + seconds
    for name, timing in timings.items():
        try:
            if time.monotonic() >= until:
                found[f"{name}_failed"] = "no time left for it"
                continue
            found[name] = timing()
        except Exception as error:  # the other numbers are worth having
            found[f"{name}_failed"] = f"{type(error).__name__}: {error}"
            print(f"  FAILED {name}: {found[f'{name}_failed']}", flush=True)
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
    return 1 if wrong or failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a new file for all numbers; on a GPU gpu.json if it is not given")
    parser.add_argument("--interpret", action="store_true", help="checks at tiny sizes, no GPU needed")
    parser.add_argument("--compile", type=int, nargs="+", metavar="CAPABILITY", help="only compile; no GPU needed")
    parser.add_argument("--no-torch-compile", action="store_true", help="leave the torch.compile column out")
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

    if args.interpret:
        from gpu_interpret import quicken

        quicken()
    began = time.monotonic()
    found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__, "seed": args.seed}
    torch.manual_seed(args.seed)
    if not args.interpret:
        device = torch.cuda.get_device_properties(0)
        found |= {"device": device.name, "memory_gb": device.total_memory / 1e9}
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    found["checks"] = []
    if "checks" not in args.leave:
        print("checks, in Triton's interpreter" if args.interpret else "checks", flush=True)
        found["checks"] = check("cpu" if args.interpret else "cuda", tiny=args.interpret).rows
    write(found, file)
    if not args.interpret:
        from gpu_late import time_members
        from gpu_times import crossover, floors, rivals, time_adam, time_phases

        timings = {
            "floors": floors,
            "phases": lambda: time_phases(found["floors"], began + args.seconds - SPARED),
            "members": time_members,
            "crossover": crossover,
            "adam": lambda: time_adam(found["floors"]),
            "rivals": lambda: rivals(not args.no_torch_compile),
        }
        timings = {name: timing for name, timing in timings.items() if name not in args.leave}
        measure(found, timings, file, args.seconds - (time.monotonic() - began))
        found["seconds"] = time.monotonic() - began
        write(found, file)
    return verdict(found)


if __name__ == "__main__":
    sys.exit(main())
