"""Run folders made up for the tests: the files that `unmix sweep`, `choose` and `extend` leave, with smooth curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from unmix.config import RunConfig, dump

D, F, BATCH = 256, 4096, 2048


def row(hook: str, l1: float, step: int, *, member: str, phase: str = "sweep", noise: float = 0.0) -> dict[str, Any]:
    """A plausible metric at `step`: dense at first, then sparser the larger l1, slower and slower."""
    settled = F / 4 / (1 + l1**1.35) if l1 else F / 3
    l0 = (settled + F / 2 * math.exp(-step / 900) + settled * math.exp(-step / 9000)) * (1 + noise)
    unexplained = 0.01 + 0.006 * l1**0.85 + 0.9 * math.exp(-step / 600)
    tokens = step * BATCH
    return {
        "step": step,
        "tokens": tokens,
        "member": member,
        "hook": hook,
        "l1": l1,
        "loss": D * unexplained + l1 * 14.0,
        "l2_reconstruction_loss": D * unexplained * (1 + noise),
        "l1_penalty": (60 / (1 + l1) ** 0.7 + 5 * (1 - math.exp(-step / 2000))) * (1 + noise),
        "nonzero_proportion": l0 / F,
        "l0": l0,
        "explained_variance": 1 - unexplained * (1 + noise),
        "dead_fraction": None if tokens < 10_000_000 else min(0.002 * l1, 0.5),
        "lr": 5e-4,
        "tokens_per_s": 9000.0,
        "seconds": tokens / 9000.0,
        "over_tokens": 50 * BATCH,
        "phase": phase,
    }


def candidate(hook: str, l1: float, member: str, at: int, to: int, cap: float) -> dict[str, Any]:
    now, later = row(hook, l1, at, member=member)["l0"], row(hook, l1, to, member=member)["l0"]
    good = later < cap
    return {
        "member": member,
        "hook": hook,
        "l1": l1,
        "l0": now,
        "l0_at_step": at,
        "nonzero_proportion": now / F,
        "predicted_l0": later * 1.03,
        "low": later * 0.94,
        "high": later * 1.12,
        "admissible": good,
        "why": "below the cap with its band" if good else f"predicted to stay above {cap:g}",
    }


class Made:
    """Writes run folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        *,
        hooks: tuple[str, ...] = ("resid_post.3",),
        l1: tuple[float, ...] = (0.0, 2.0, 5.0, 15.0, 50.0),
        steps: int = 6000,
        reached: int | None = None,
        every: int = 20,
        extend_to: int | None = None,
        chosen: float | None = None,
        came_true: bool = True,
        cap: float = 300,
        model: str = "embedded",
        source: str = "stdlib",
    ) -> Path:
        run = self.folder / "runs" / "made"
        run.mkdir(parents=True)
        recipe = RunConfig.model_validate(
            {
                "name": "made",
                "model": {"name": model},
                "corpus": {"source": source},
                "activations": {"hooks": list(hooks)},
                "sae": {"features": F},
                "training": {"l1": list(l1), "steps": steps, "batch_tokens": BATCH},
                "choice": {"max_active": cap, "extend_to": extend_to},
            }
        )
        about = {
            "recipe": dump(recipe),
            "versions": {"unmix": "0.1.0", "torch": "2.6.0", "transformers": "4.50", "numpy": "2.0", "python": "3.11"},
            "machine": {"cpu": "Example CPU @ 2.0 GHz", "cores": 2},
            "created": "2025-01-02T03:04:05+00:00",
            "model": {"name": model, "parameters": 9_700_000, "fingerprint": "ab" * 32, "layers": 6, "width": D},
            "corpus": {
                "source": source,
                "train_documents": 1480,
                "train_tokens": 6_200_000,
                "bytes": 21_000_000,
                "fingerprint": "cd" * 32,
            },
            "hooks": {h: {"width": D, "mean_norm": 11.0, "mean_square_norm": 130.0, "scale": 1.4} for h in hooks},
        }
        (run / "run.yaml").write_text(yaml.safe_dump(about, sort_keys=False, allow_unicode=True), encoding="utf-8")

        def name(hook: str, value: float) -> str:
            return f"l1-{value:g}" if len(hooks) == 1 else f"{hook}-l1-{value:g}"

        rows = []
        for step in range(every, (reached or steps) + 1, every):
            for hook in hooks:
                for value in l1:
                    wobble = 0.03 * math.sin(step * 12.9898 + value) * math.sin(step * 4.1)
                    rows.append(row(hook, value, step, member=name(hook, value), noise=wobble))
        stable = int(steps * 0.8)
        if extend_to is not None and chosen is not None:
            for step in range(stable + every, extend_to + 1, every):
                wobble = 0.03 * math.sin(step * 12.9898) * math.sin(step * 4.1)
                rows.append(row(hooks[0], chosen, step, member=name(hooks[0], chosen), phase="extend", noise=wobble))
                rows[-1]["seconds"] = (step - stable) * BATCH / 25_000
            extension = {"member": name(hooks[0], chosen), "from_step": stable, "to_step": extend_to}
            (run / "extension.json").write_text(json.dumps(extension), encoding="utf-8")
        if chosen is not None:
            to = extend_to or steps
            true = {"step": to, "l0": row(hooks[0], chosen, to, member="")["l0"]} if came_true and extend_to else None
            choice = {
                "member": name(hooks[0], chosen),
                "rule": f"the most active features per token below {cap:g}, at step {to:,}",
                "max_active": cap,
                "at_step": steps,
                "predict_step": to,
                "reason": f"λ = {chosen:g} is the smallest coefficient that stays below {cap:g} active features.",
                "candidates": [candidate(h, v, name(h, v), steps, to, cap) for h in hooks for v in l1],
                "came_true": true,
            }
            (run / "choice.json").write_text(json.dumps(choice), encoding="utf-8")
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return run


@pytest.fixture
def make(tmp_path: Path) -> Made:
    return Made(tmp_path)
