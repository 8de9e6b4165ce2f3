"""How far apart the curves of two runs of the same sweep are: the median and the largest difference of logged rows.

    python scripts/compare_curves.py records/A/metrics.jsonl records/B/metrics.jsonl --after 2000

L0, the reconstruction loss and the L1 penalty: |b - a| / a. Explained variance: |b - a|. Rows up to `--after` stand in a
table of their own: where a loss falls steeply, runs that are a few steps apart differ by much.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

RELATIVE = {"L0": "l0", "L2": "l2_reconstruction_loss", "L1": "l1_penalty"}
Rows = dict[int, dict[str, float]]


def curves(path: Path) -> dict[str, Rows]:
    """member -> step -> the logged row of the sweep."""
    found: dict[str, Rows] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("phase", "sweep") == "sweep":
            found.setdefault(row["member"], {})[row["step"]] = row
    return found


def apart(a: Rows, b: Rows, steps: list[int]) -> list[str]:
    """A row of the table: the mean L0 of both, then the median and the largest difference of each curve."""
    cells = [f"{sum(rows[step]['l0'] for step in steps) / len(steps):,.4g}" for rows in (a, b)]
    for key in RELATIVE.values():
        by = [abs(b[step][key] - a[step][key]) / abs(a[step][key]) for step in steps if a[step][key]]
        cells.append(f"{median(by):.1%}, {max(by):.1%}")
    by = [abs(b[step]["explained_variance"] - a[step]["explained_variance"]) for step in steps]
    return [*cells, f"{median(by):.4f}, {max(by):.4f}"]


def table(first: dict[str, Rows], second: dict[str, Rows], keep: range) -> str:
    """One range of steps, a line per member."""
    lines = [["member", "rows", "mean L0", "of the other", *RELATIVE, "explained variance"]]
    lines.append(["---", *["--:"] * (len(lines[0]) - 1)])
    for name in (name for name in first if name in second):
        steps = sorted(step for step in first[name].keys() & second[name].keys() if step in keep)
        lines.append([name, str(len(steps)), *apart(first[name], second[name], steps)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--after", type=int, default=2000, metavar="STEP")
    args = parser.parse_args()
    first, second = curves(args.first), curves(args.second)
    for title, keep in (
        (f"after step {args.after:,}", range(args.after + 1, 10**9)),
        (f"up to step {args.after:,}", range(args.after + 1)),
    ):
        print(f"{title} (median, largest)\n\n{table(first, second, keep)}\n")


if __name__ == "__main__":
    main()
