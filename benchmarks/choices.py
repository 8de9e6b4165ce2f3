"""Whether `auto` takes what is fastest: a sweep with every fixed setting, and with `auto`, in the same run.

    python benchmarks/choices.py [--recipe demo] [--steps 600] [--rounds 1] [--json FILE]

Each is a process of its own, `unmix bench sweep`, timed from the moment the inputs are open to the last checkpoint:
with what `auto` tries of training steps (about a second), without its passes through the model. In every round they
take turns, in the opposite order the next time. The best of a setting's rounds counts: other work only adds to a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BORDERS = {"fp32": 0.12, "bf16": 0.07}  # those that were fixed before they were measured
FIXED = {
    f"{matmul}, {dense}, {selection}": {
        "model.matmul": matmul,
        "training.dense": dense,
        "training.selection": selection,
        "training.border": BORDERS[dense],
    }
    for matmul, dense, selection in itertools.product(("fp32", "bf16"), ("fp32", "bf16"), ("fp32", "bf16", "int8"))
}


def timed(recipe: str, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """What `unmix bench sweep --json` prints."""
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "unmix.cli", "bench", "sweep", recipe, "--steps", str(steps), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    settings: dict[str, dict[str, Any]] = {"auto": {}, **FIXED}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    for number in range(args.rounds):
        for name in settings if number % 2 == 0 else reversed(settings):
            found[name].append(timed(args.recipe, args.steps, settings[name]))
            print(f"round {number + 1}: {name}: {found[name][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    seconds = {name: min(of["seconds"] for of in runs) for name, runs in found.items()}
    best = min(FIXED, key=lambda name: seconds[name])
    took = found["auto"][-1]["settings"]
    print(f"| model.matmul, training.dense, training.selection | s | beside {best} |\n|---|--:|--:|")
    for name in sorted(seconds, key=lambda name: seconds[name]):
        print(f"| {name} | {seconds[name]:.1f} | {seconds[name] / seconds[best]:.2f} |")
    machine = found["auto"][-1]["machine"]
    print(
        f"\nauto took {took['matmul']}, {took['dense']}, {took['selection']}, sparse below {took['border']:.1%}; "
        f"{machine['cpu']}, {machine['cores']} cores; "
        f"{args.recipe}, {args.steps} steps, best of {args.rounds}"
    )
    if args.json:
        args.json.write_text(json.dumps({"seconds": seconds, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
