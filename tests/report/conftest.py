"""Run folders made up for the tests: the files that `unmix sweep`, `choose` and `extend` leave, with smooth curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from unmix.activations.norms import distribution
from unmix.config import RunConfig, dump
from unmix.evaluation.by_norm import ByNorm

D, F, BATCH = 256, 4096, 2048


@pytest.fixture(autouse=True)
def pictures() -> None:
    """They are drawn here."""


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


def asked(hook: str, variant: str, l0: float, step: int, *, member: str, quality: float) -> dict[str, Any]:
    """The same of a member that was asked for an L0: it comes close, from above, and explains as `quality` says."""
    found = row(hook, 0.0, step, member=member)
    active = l0 * (1.02 + 5 * math.exp(-step / 300))
    k = variant in ("topk", "batchtopk", "matryoshka")
    found |= {"l1": None, "target_l0": l0, "coefficient": 0.0 if k else 2 - math.exp(-step / 500)}
    found |= {"variant": variant} if variant else {}
    return found | {"l0": active, "nonzero_proportion": active / F, "explained_variance": quality - 2 / l0}


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
        l0: tuple[float, ...] = (),
        architectures: tuple[str, ...] = (),
        sae: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
    ) -> Path:
        """With `l0`, members are asked for these in place of `l1`; `architectures` are variants of those names."""
        run = self.folder / "runs" / "made"
        run.mkdir(parents=True)
        recipe = RunConfig.model_validate(
            {
                "name": "made",
                "model": {"name": model},
                "corpus": {"source": source},
                "activations": {"hooks": list(hooks)},
                "sae": {"features": F, **(sae or {})},
                "training": {
                    "l0" if l0 else "l1": list(l0 or l1),
                    "steps": steps,
                    "batch_tokens": BATCH,
                    **(training or {}),
                },
                "variants": {name: {"sae": {"architecture": name}} for name in architectures},
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
                for number, variant in enumerate(architectures or ("",)):
                    for value in l0:
                        member = "-".join(
                            [*([hook] if len(hooks) > 1 else []), *([variant] if variant else []), f"l0-{value:g}"]
                        )
                        rows.append(asked(hook, variant, value, step, member=member, quality=0.9 - 0.05 * number))
                for value in () if l0 else l1:
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


def by_norm(sparsity: float, tokens: int = 1000) -> dict[str, Any]:
    """Random tokens, 1 % of them 30 times as long; the larger `sparsity`, the fewer features and the worse."""
    generator = torch.Generator().manual_seed(0)
    width, features = 16, 256
    x = torch.randn(tokens, width, generator=generator)
    x[::100] *= 30
    share = (0.5 / (1 + sparsity) ** 2 * x.norm(dim=1, keepdim=True) / 4).clamp(max=0.9)
    f = (torch.rand(tokens, features, generator=generator) < share) * torch.rand(tokens, features, generator=generator)
    found = ByNorm(torch.ones(features), x.mean(0))
    noise = torch.randn(tokens, width, generator=generator)
    found.add(x, f, (1 - 0.02 * (1 + sparsity)) * x + 0.02 * sparsity * noise)
    return found.metrics()


def held_out(hook: str, names: list[str], *, with_by_norm: bool = True) -> dict[str, Any]:
    """The result of one hook as `evaluation.json` has it, the dictionaries sparser in the order of their names."""
    effect = {"delta_ce": 0.2, "delta_ce_standard_error": 0.01, "kl": 0.1}
    saes = {}
    for at, name in enumerate(names):
        saes[name] = {
            "l0": 200 / (1 + at) ** 2,
            "explained_variance": 0.95 - 0.05 * at,
            "cosine": 0.97 - 0.02 * at,
            "norm_ratio": 0.97 - 0.02 * at,
            "dead": 0.01 * at,
            "features": F,
            "density_edges": [10.0**e for e in range(-7, 1)],
            "density_counts": [0, 1, 5, 30, 100, 40, 10],
            "loss_recovered_mean": 0.97,
            "loss_recovered_zero": 0.98,
            "pca_explained_variance_at_l0": 0.9 - 0.06 * at,
            **effect,
        }
        if with_by_norm:
            saes[name]["by_norm"] = by_norm(float(at))
    return {
        "hook": hook,
        "mask": "position 0 (BOS) left out of every number",
        "fidelity_tokens": 20_000,
        "ce_tokens": 10_000,
        "ce_sequences": 40,
        "ce_untouched": 2.3,
        "baselines": {
            "predict the mean": {"explained_variance": 0.0, **effect},
            "zero": effect,
            "identity": {"explained_variance": 1.0, **effect},
        },
        "saes": saes,
        "findings": {name: ["Nothing stands out at the thresholds used."] for name in names},
    }


def write_evaluation(run: Path, *results: dict[str, Any]) -> None:
    (run / "evaluation.json").write_text(json.dumps({"hooks": results}, allow_nan=False), encoding="utf-8")


def write_norms(run: Path, hooks: tuple[str, ...] = ("resid_post.3",), *, token: str = "\n\n") -> dict[str, Any]:
    """`norms.json`: the first position is 50 times as long as the rest, and the token of id 7 twice."""
    rng = np.random.default_rng(0)
    ids_NT = rng.integers(8, 60, size=(40, 50))
    ids_NT[:, 0], ids_NT[::4, 20] = 0, 7
    norm_NT = rng.lognormal(3, 0.1, size=(40, 50)).astype(np.float32)
    norm_NT[:10, 0] *= 50
    norm_NT[ids_NT == 7] *= 2
    found = distribution(
        {hook: norm_NT.ravel() for hook in hooks},
        ids_NT.ravel(),
        np.tile(np.arange(50), 40),
        bos_id=0,
        decode=lambda kind: {0: "<|endoftext|>", 7: token}.get(kind, f" w{kind}"),
        split="train",
    )
    (run / "norms.json").write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
    return found


class Held:
    """The functions above, for tests that cannot import this file."""

    result = staticmethod(held_out)
    write = staticmethod(write_evaluation)
    norms = staticmethod(write_norms)


@pytest.fixture
def held() -> Held:
    return Held()
