"""The tables of README.md, from evaluation.jsonl and speed.jsonl here.

python records/2026-11-27_smollm2-beside-saelens/table.py
python records/2026-11-27_smollm2-beside-saelens/table.py --start RUN      writes start.json, from where RUN ended
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


def write_start(run: Path) -> None:
    """architecture:l0 -> the coefficient that the controller of that member ended with."""
    last = {row["member"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    found = {
        f"{row['variant'] or 'relu'}:{row['target_l0']:g}": row["coefficient"]
        for row in last.values()
        if row.get("coefficient")
    }
    (HERE / "start.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    write_start(Path(sys.argv[2]))
