"""What the benchmarks share: alternating timings, comparisons with a target, the machine, the file of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Literal

PACKAGES = ("torch", "numba", "transformers", "unmix", "sae-lens", "dictionary-learning", "eai-sparsify")
PACKAGES += ("transformer-lens",)


@dataclass(frozen=True)
class Comparison:
    """Ours beside theirs, and the target, which was set before."""

    what: str
    ours: str
    theirs: str
    our_value: float
    their_value: float
    unit: str
    ratio: float
    """The median over the rounds of the ratio within a round; of growth, the ratio of medians."""
    target: float
    goal: Literal["at least", "at most"] = "at least"

    @property
    def met(self) -> bool:
        """Whether the ratio reaches the target."""
        return self.ratio >= self.target if self.goal == "at least" else self.ratio <= self.target


def alternate(contenders: Mapping[str, Callable[[], object]], rounds: int, untimed: int = 1) -> dict[str, list[float]]:
    """Seconds per call, one number per contender and round; within a round they take turns: A B C, A B C, …

    Each turn begins with calls that are not counted, so that a contender does not pay for the caches and threads
    that the one before it left behind. One more round goes before, to warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, call in contenders.items():
            for _ in range(untimed):
                call()
            began = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - began)
        print(f"round {round_} of {rounds}{'' if round_ else ' (warm-up)'}", file=sys.stderr)
    return seconds


def compare(
    what: str, ours: str, theirs: str, seconds: Mapping[str, Sequence[float]], target: float, tokens: int
) -> Comparison | None:
    """How many times faster ours is; none if one of the two did not run."""
    if ours not in seconds or theirs not in seconds:
        return None
    ratio = median(t / o for o, t in zip(seconds[ours], seconds[theirs], strict=True))
    rates = [tokens / median(seconds[name]) for name in (ours, theirs)]
    return Comparison(what, ours, theirs, *rates, "tokens/s", ratio, target)


def fastest(names: Sequence[str], seconds: Mapping[str, Sequence[float]]) -> str:
    """Of several settings of a library, the one with the smallest median; the first name if none ran."""
    ran = [name for name in names if name in seconds]
    return min(ran, key=lambda name: median(seconds[name])) if ran else names[0]


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Smallest to largest."""
    return f"{min(values):.3g}-{max(values):.3g}"


def machine() -> dict[str, Any]:
    """Where and with what it ran."""
    from unmix.machine import cpu_name

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu_name(), "cores": cores, "python": platform.python_version(), "versions": versions}


def report(
    script: str,
    args: argparse.Namespace,
    comparisons: Sequence[Comparison | None],
    rows: Sequence[Mapping[str, Any]],
    checks: Sequence[str],
    folder: Path | None,
    name: str,
) -> None:
    """Print the tables; write them as JSON if there is a folder for it."""
    kept = [c for c in comparisons if c is not None]
    if rows:
        print(markdown(list(rows[0]), [list(row.values()) for row in rows]), end="\n\n")
    if checks:
        print("\n".join(f"- {check}" for check in checks), end="\n\n")
    print(markdown(COLUMNS, [cells(asdict(c) | {"met": c.met}) for c in kept]))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in vars(args).items() if not isinstance(value, Path)}
        result = {
            "script": script,
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "settings": settings,
            "comparisons": [asdict(c) | {"met": c.met} for c in kept],
            "rows": [dict(row) for row in rows],
            "checks": list(checks),
        }
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


COLUMNS = ("what", "ours", "theirs", "ours", "theirs", "ratio", "target", "met")


def cells(c: Mapping[str, Any]) -> list[str]:
    """A comparison as a row of `COLUMNS`."""
    values = [f"{c[key]:,.4g} {c['unit']}" for key in ("our_value", "their_value")]
    return [c["what"], c["ours"], c["theirs"], *values, f"{c['ratio']:.2f}", f"{c['goal']} {c['target']:g}", c["met"]]


def use_threads(number: int | None) -> None:
    """Let torch and numba run on so many threads."""
    if number:
        import numba
        import torch

        torch.set_num_threads(number)
        numba.set_num_threads(number)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options that every script has."""
    parser.add_argument("--rounds", type=int, default=7, help="how often each contender has its turn")
    parser.add_argument("--json", type=Path, metavar="DIR", help="write the results to DIR/NAME.json")
    parser.add_argument("--name", help="NAME of the file of results")
    parser.add_argument("--threads", type=int, help="threads of torch and numba (as many as there are cores)")
