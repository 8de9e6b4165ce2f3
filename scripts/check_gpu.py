"""Checks and times the GPU kernels: PYTHONPATH=src python scripts/check_gpu.py [--json FILE]

Needs an NVIDIA GPU, torch, triton and numpy. Every kernel is held against float64 formulas on fresh random
inputs, with its outputs and scratch memory full of NaN before; then a step and an update are timed against plain torch.
Exits 1 if a check is wrong or a timing fails, 2 if there is no GPU. Without a GPU:

    --interpret     the checks at tiny sizes in Triton's interpreter (on the CPU)
    --compile 90    every kernel through the compiler, for that compute capability; nothing runs
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure(found: dict[str, Any], timings: dict[str, Callable[[], Any]], file: Path | None) -> None:
    """Puts the numbers of each timing under its name; of one that fails, the message under NAME_failed."""
    for name, timing in timings.items():
        try:
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
    print(f"\nWRONG: {wrong} checks" if wrong else "\nall checks right")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if wrong or failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--interpret", action="store_true", help="checks at tiny sizes, no GPU needed")
    parser.add_argument("--compile", type=int, metavar="CAPABILITY", help="only compile, e.g. for 90; no GPU needed")
    parser.add_argument("--no-torch-compile", action="store_true", help="leave the torch.compile column out")
    args = parser.parse_args()
    os.environ["TRITON_INTERPRET"] = "1" if args.interpret else "0"  # read where kernels are defined: imports wait
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's test for repeatable operations asks for it
    if args.compile:
        from gpu_compile import compile_for

        return compile_for(args.compile)
    import torch

    if not args.interpret and not torch.cuda.is_available():
        print("no CUDA device: nothing to check (--interpret runs the checks on the CPU)")
        return 2
    import triton
    from gpu_checks import check

    found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__}
    if not args.interpret:
        device = torch.cuda.get_device_properties(0)
        found |= {"device": device.name, "memory_gb": device.total_memory / 1e9}
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    print("checks, in Triton's interpreter" if args.interpret else "checks", flush=True)
    found["checks"] = check("cpu" if args.interpret else "cuda", tiny=args.interpret).rows
    write(found, args.json)
    if not args.interpret:
        from gpu_times import floors, time_adam, time_parts, time_steps

        timings = {
            "floors": floors,
            "step_ms": lambda: time_steps(not args.no_torch_compile),
            "adam_ms": lambda: time_adam(found.get("floors", {}).get("copy_tb_per_s")),
            "parts": time_parts,
        }
        measure(found, timings, args.json)
    return verdict(found)


if __name__ == "__main__":
    sys.exit(main())
