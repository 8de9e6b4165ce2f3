"""How far the encoder's biases of our relu dictionaries came, by learning rate and coefficient.

    python records/2026-11-27_smollm2-beside-saelens/biases.py WORK/runs WORK/fixed

In units of training, where E||x - c||² is D and biases start at 0; L0 and explained variance as logged last.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors import safe_open

print("| run | member | rate | λ at the end | L0 | EV | mean b_enc at step 500 | at 1,000 |")
print("| --- | --- |" + " --: |" * 6)
for run in sorted(path.parent for folder in sys.argv[1:] for path in Path(folder).glob("*/run.yaml")):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rate = max(row["lr"] for row in rows)
    for member, last in sorted({row["member"]: row for row in rows}.items()):
        if not member.startswith(("relu", "l1-")):
            continue
        means = []
        for state in sorted((run / "members" / member).glob("step-*/training_state.safetensors")):
            with safe_open(state, "pt") as file:
                means.append(f"{file.get_tensor('b_enc').mean().item():.2f}")
        numbers = f"{last.get('coefficient', last['l1']):.2f} | {last['l0']:.1f} | {last['explained_variance']:.3f}"
        print(f"| {run.name} | {member} | {rate:g} | {numbers} | {' | '.join(means)} |")
