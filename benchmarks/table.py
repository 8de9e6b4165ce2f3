"""Files of results to Markdown: first what was aimed at, then what was measured.

python table.py results/*.json > results/README.md
python table.py --part results results/*.json         without what each script measured; --part rows: that alone
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import COLUMNS, cells, markdown


def beside(results: Sequence[dict[str, Any]]) -> list[str]:
    """Date and machine; ours beside theirs; where we lose."""
    every = [comparison for result in results for comparison in result["comparisons"]]
    missed = [c for c in every if not c["met"]]
    slower = [c for c in missed if c["goal"] == "at least" and c["ratio"] < 1 and "share of" not in c["what"]]
    parts = [*(heading(group) for group in machines(results)), markdown(COLUMNS, [_said(c) for c in every])]
    parts += [f"{len(every) - len(missed)} of {len(every)} targets are met.", "### Where we lose"]
    return [*parts, losses(slower, missed)]


def measured(results: Sequence[dict[str, Any]]) -> list[str]:
    """What each script measured."""
    parts = []
    for result in results:
        parts += [f"## {result['script']}: {', '.join(_settings(result))}"]
        parts += ["\n".join(f"- {check}" for check in result["checks"])] if result["checks"] else []
        if result["rows"]:
            parts.append(markdown(list(result["rows"][0]), [list(row.values()) for row in result["rows"]]))
    return parts


def machines(results: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Each date and machine once."""
    found: list[tuple[str, dict[str, Any]]] = []
    for result in results:
        pair = (result["date"], result["machine"])
        if pair not in found:
            found.append(pair)
    return found


def heading(pair: tuple[str, dict[str, Any]]) -> str:
    """Date, machine, versions."""
    date, machine = pair
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{date}; {machine['cpu']}, {machine['cores']} cores; Python {machine['python']}; {versions}."


def losses(slower: Sequence[dict[str, Any]], missed: Sequence[dict[str, Any]]) -> str:
    """Comparisons in which the other one is better, then the targets that are missed."""
    lines = [f"- Slower than {c['theirs']}: {c['what']}, {c['ratio']:.2f} times its speed." for c in slower]
    lines += [
        f"- Missed: {c['what']}, {c['ours']} beside {c['theirs']}: {c['ratio']:.2f}, target {c['goal']} "
        f"{c['target']:g}."
        for c in missed
        if c not in slower
    ]
    return "\n".join(lines) or "In none of these comparisons."


def _said(c: dict[str, Any]) -> list[str]:
    *most, met = cells(c)
    return [*most, "yes" if met else "**no**"]


def _settings(result: dict[str, Any]) -> list[str]:
    quiet = ("json", "name", "folder", "check", "small", "threads", "passes", "only")
    return [f"{key}={value}" for key, value in result["settings"].items() if key not in quiet and value is not None]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--part", choices=["all", "results", "rows"], default="all")
    args = parser.parse_args()
    results = [json.loads(path.read_text()) for path in args.files]
    parts = ["# Results"] if args.part == "all" else []
    parts += beside(results) if args.part != "rows" else []
    parts += measured(results) if args.part != "results" else []
    print("\n\n".join(parts))
