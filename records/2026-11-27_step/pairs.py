"""A step of two versions of unmix, in turns: does a change of the code make steps slower?

    git worktree add /tmp/before fbc3611
    python records/2026-11-27_step/pairs.py /tmp/before/src src [--rounds 31]

Each version is a process of its own that waits while the other one takes its step, so that what a machine does from
minute to minute falls on both. The step is that of `unmix bench step`: D 768, F 10,000, 4,096 tokens.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles

CASES = [("100", "fp32"), ("100", "bf16"), ("100", "int8"), ("5000", "fp32"), ("5000", "bf16")]


class Worker:
    """A process with one member of one version."""

    def __init__(self, source: Path, l0: str, selection: str) -> None:
        command = [sys.executable, __file__, "--worker", str(source.resolve()), l0, selection]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.kind = self._answer()

    def step(self) -> float:
        """Seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer())

    def end(self) -> None:
        """Wait for its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def work(source: str, l0: str, selection: str) -> None:
    """What the process does: a step for each line that it is sent."""
    sys.path.insert(0, source)
    from time import perf_counter

    from unmix.bench import step
    from unmix.machine import keep_freed_memory

    keep_freed_memory()
    batch = step._batch(768, 4096)
    one = step._member(batch, 10_000, float(l0), selection)
    call = step._stepper(one, batch)
    for _ in range(3):
        call()
    print("sparse" if one.step.sparse else "dense", flush=True)
    for _ in sys.stdin:
        began = perf_counter()
        call()
        print(perf_counter() - began, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a folder that holds the package unmix")
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=31)
    args = parser.parse_args()
    print(
        "| L0, selection | step | before, ms | after, ms | after / before | its quartiles |\n|---|---|--:|--:|--:|--:|"
    )
    for l0, selection in CASES:
        before, after = Worker(args.before, l0, selection), Worker(args.after, l0, selection)
        seconds = []
        for number in range(max(3, args.rounds if before.kind == "sparse" else args.rounds // 3)):
            first, second = (before, after) if number % 2 else (after, before)
            taken = {first: first.step(), second: second.step()}
            seconds.append((taken[before], taken[after]))
        ratios = [b / a for a, b in seconds]
        low, _, high = quantiles(ratios, n=4)
        columns = (1e3 * median(each) for each in zip(*seconds, strict=True))
        each = " | ".join(f"{ms:.0f}" for ms in columns)
        print(
            f"| {l0}, {selection} | {after.kind} | {each} | {median(ratios):.3f} | {low:.3f} to {high:.3f} |",
            flush=True,
        )
        before.end()
        after.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
