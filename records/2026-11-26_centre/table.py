"""The tables of README.md, from evaluation.jsonl here and that of the three-seeds record.

python records/2026-11-26_centre/table.py
"""

import json
from pathlib import Path
from statistics import mean, stdev

HERE = Path(__file__).parent
KINDS = ("relu", "topk", "batchtopk", "matryoshka", "jumprelu", "gated")


def rows(path: Path) -> list[dict]:
    """Of unmix' own, asked for an L0."""
    lines = map(json.loads, path.read_text().splitlines())
    return [row for row in lines if row["by"] == "unmix" and row["asked"]]


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation, or the one there is; a dash for none."""
    if not values:
        return "–"
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    """Two tables."""
    centred, raw = rows(HERE / "evaluation.jsonl"), rows(HERE.parent / "2026-11-26_three-seeds" / "evaluation.jsonl")
    groups = {
        "x, 3e-3": (raw, 3e-3),
        "x − c, 3e-3": (centred, 3e-3),
        "x − c, 6e-3": (centred, 6e-3),
        "x − c, 1e-2": (centred, 1e-2),
    }
    for l0 in (20, 50, 100):
        print(f"\nL0 {l0} asked\n")
        print("| architecture | what is encoded, learning rate | seeds | L0 | EV | ΔCE, nats | dead, % |")
        print("| --- | --- | --: | --: | --: | --: | --: |")
        for kind in KINDS:
            for said, (of, lr) in groups.items():
                own = [
                    r
                    for r in of
                    if r["architecture"] == kind and r["asked"] == l0 and r["lr"] == lr
                    and not r["run"].startswith(("try", "fixed"))
                ]  # fmt: skip
                if own:
                    cells = [
                        spread([r["l0"] for r in own], 1), spread([r["explained_variance"] for r in own], 4),
                        spread([r["delta_ce"] for r in own], 4), spread([100 * r["dead"] for r in own], 1),
                    ]  # fmt: skip
                    print(f"| {kind} | {said} | {len(own)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
