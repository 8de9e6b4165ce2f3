"""The spread over seeds of write-up 2: python seeds.py [runs/seeds-1 runs/seeds-2]

Of the runs that are given, seeds.jsonl beside this file gets a line for each dictionary; seed 0 is in members.jsonl.
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RECORD = Path(__file__).parent
HOOK = "resid_post.15"
KEPT = ("l0", "explained_variance", "delta_ce", "kl", "dead")


def read(path: Path) -> list[dict[str, Any]]:
    """Its lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(runs: list[Path]) -> None:
    """seeds.jsonl, from their evaluations."""
    lines = []
    for run in runs:
        evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
        for name, row in evaluation["hooks"][0]["saes"].items():
            kind, _, alpha = name.removeprefix(f"{HOOK}-").rpartition("-l1-")
            found = {"run": run.name, "kind": kind, "alpha": float(alpha), **{key: row[key] for key in KEPT}}
            lines.append(json.dumps(found) + "\n")
    (RECORD / "seeds.jsonl").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    if sys.argv[1:]:
        write([Path(run) for run in sys.argv[1:]])
    others = read(RECORD / "seeds.jsonl")
    first = [row for row in read(RECORD / "members.jsonl") if row["hook"] == HOOK]
    print("| kind | α | seeds | L0 | EV | ΔCE, nats | KL | dead |\n|---|" + "--:|" * 7)
    for kind, alpha in dict.fromkeys((row["kind"], row["alpha"]) for row in others):
        rows = [row for row in first + others if (row["kind"], row["alpha"]) == (kind, alpha)]
        cells = [
            f"{mean(row[key] for row in rows):.{digits}f} ± {stdev(row[key] for row in rows):.{digits}f}"
            for key, digits in zip(KEPT, (1, 3, 3, 3, 3), strict=True)
        ]
        print(f"| {kind} | {alpha:g} | {len(rows)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
