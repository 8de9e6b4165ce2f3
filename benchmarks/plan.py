"""How far `unmix plan` is off in time: the plan of a sweep, then that sweep, each a process of its own.

    python benchmarks/plan.py [--rounds 3] [--json FILE] [-- what `unmix sweep` takes; the demo]
    python benchmarks/plan.py -- demo --architecture relu jumprelu matryoshka gated --l0 30

What the sweep took is the `seconds` of the sweep's last line of metrics: reading and training, without loading,
tokenizing, evaluation and report, as in the plan. Where the plan is a range, it is right within it, and off by how
far the sweep was outside.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

UNMIX = [sys.executable, "-m", "unmix.cli"]


def called(words: list[str]) -> str:
    """What an `unmix` command prints."""
    done = subprocess.run([*UNMIX, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"unmix {' '.join(words)}\n{done.stderr}")
    return done.stdout


def tried(words: list[str]) -> dict[str, Any]:
    """Seconds of the plan (low, high), and of the sweep."""
    with tempfile.TemporaryDirectory() as runs:
        where = ["--runs", runs, "--name", "planned"]
        plan = json.loads(called(["plan", *words, *where, "--json"]))
        called(["sweep", *words, *where, "--train-only"])
        lines = (Path(runs) / "planned" / "metrics.jsonl").read_text().splitlines()
        seconds = max(row["seconds"] for row in map(json.loads, lines) if row["phase"] == "sweep")
    low, high = plan["sweep_s"]["low"], plan["sweep_s"]["high"]
    nearest = min(max(seconds, low), high)
    return {"low": low, "high": high, "sweep": seconds, "off": nearest / seconds - 1, "harvest": plan["harvest_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    words = args.words or ["demo"]
    found = [tried(words) for _ in range(args.rounds)]
    print("| planned, s | of it activations | the sweep took, s | off by |\n|--:|--:|--:|--:|")
    for row in found:
        span = f"{row['low']:.1f} to {row['high']:.1f}" if row["high"] > 1.01 * row["low"] else f"{row['low']:.1f}"
        print(f"| {span} | {row['harvest']:.1f} | {row['sweep']:.1f} | {row['off']:+.1%} |")
    print(
        f"\nunmix sweep {' '.join(words)}; median off {median(row['off'] for row in found):+.1%}; {platform.machine()}"
    )
    if args.json:
        args.json.write_text(json.dumps({"words": words, "rounds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
