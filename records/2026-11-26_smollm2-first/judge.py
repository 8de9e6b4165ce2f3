"""Every dictionary of the record over the same held-out tokens: evaluation.json, table.md and pareto_HOOK.png.

    benchmarks/.venv/bin/python records/2026-11-26_smollm2-first/judge.py RUNS PEERS OUT

RUNS holds the run folders `f4096` and `f16384`, PEERS what peers.py wrote. Outliers are left out of the headline
numbers and keep x when a dictionary is spliced in, whoever trained it; what it does with them stands apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import sae_lens
import torch
from torch import Tensor, nn

from unmix.config import CorpusConfig, ModelConfig
from unmix.corpus.tokens import load_tokens
from unmix.dictionary.files import origin
from unmix.evaluation.evaluate import evaluate
from unmix.interop.load import load_sae
from unmix.lm.model import load_language_model

FIDELITY, CE, T = 100_000, 16_384, 256
HOOKS = ("resid_post.15", "resid_post.25")


class Peer(nn.Module):
    """A dictionary of SAELens with what an evaluation asks of ours."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.sae = sae_lens.SAE.load_from_disk(folder)
        self.W_enc, self.W_dec = self.sae.W_enc, self.sae.W_dec
        self.features = self.W_dec.shape[0]

    def encode(self, x: Tensor) -> Tensor:
        return self.sae.encode(x)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        return self.sae.decode(f)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)).to(x.dtype)


def dictionaries(runs: Path, peers: Path) -> dict[str, dict[str, Any]]:
    """hook -> name -> dictionary."""
    found: dict[str, dict[str, Any]] = {hook: {} for hook in HOOKS}
    for run in ("f4096", "f16384"):
        for member in sorted((runs / run / "members").glob("*")):
            newest = max(member.glob("step-?????????"))
            hook, _ = origin(newest)
            found[hook][f"{run} {member.name.removeprefix(f'{hook}-')}"] = load_sae(newest)
    for folder in sorted(peers.glob("*/cfg.json")):
        found[HOOKS[0]][f"SAELens {folder.parent.name}"] = Peer(folder.parent)
    return found


def main(runs: Path, peers: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    lm = load_language_model(ModelConfig(name="smollm2"))
    tokens = load_tokens(CorpusConfig(source="english/"), lm.tokenizer, T, "held_out")
    lines, results = [], []
    for hook, saes in dictionaries(runs, peers).items():
        with torch.no_grad():
            result = evaluate(lm, tokens, hook, saes, fidelity_tokens=FIDELITY, ce_tokens=CE, progress=print)
        for row in result["saes"].values():
            del row["by_norm"]
        results.append(result)
        lines += table(result)
        picture(result).savefig(out / f"pareto_{hook}.png", dpi=110)
    (out / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "table.md").write_text("\n".join(lines) + "\n")


def table(result: dict[str, Any]) -> list[str]:
    """A row a dictionary."""
    lines = [
        f"## {result['hook']}",
        "",
        f"Held out: fidelity over {result['fidelity_tokens']:,} tokens, cross-entropy over {result['ce_tokens']:,}; "
        f"untouched {result['ce_untouched']:.3f} nats. Outliers: {result['outliers']['tokens']:,} tokens, "
        f"{result['outliers']['share_of_tokens']:.2%}, with {result['outliers']['share_of_square']:.1%} of Σ‖x‖².",
        "",
        "| dictionary | L0 | EV | ΔCE, nats | KL | dead | on outliers: ‖e‖²/‖x‖² | L0 there | their share of Σ‖e‖² "
        "| ΔCE everywhere |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in sorted(result["saes"].items()):
        apart = row["outliers"]
        lines.append(
            f"| {name} | {row['l0']:.1f} | {row['explained_variance']:.3f} | {row['delta_ce']:.3f} ± "
            f"{row['delta_ce_standard_error']:.3f} | {row['kl']:.3f} | {row['dead']:.1%} | "
            f"{apart['normalised_mse']:.4f} | {apart['l0']:.0f} | {share(result, row):.1%} | "
            f"{apart['delta_ce_everywhere']:.2f} |"
        )
    for name, row in result["baselines"].items():
        lines.append(
            f"| {name} | | {row.get('explained_variance', '')} | {row['delta_ce']:.3f} | {row['kl']:.3f} | | | | | |"
        )
    return [*lines, ""]


def share(result: dict[str, Any], row: dict[str, Any]) -> float:
    """Of the squared error over all tokens, what is on outliers."""
    far, every = result["outliers"]["square"], result["outliers"]["of_square"]
    on_outliers, on_others = row["outliers"]["normalised_mse"] * far, row["normalised_mse"] * (every - far)
    return float(on_outliers / (on_outliers + on_others))


def picture(result: dict[str, Any]) -> Any:
    """Explained variance and cost in cross-entropy of ordinary tokens, against L0."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), constrained_layout=True)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for name, row in result["saes"].items():
        kind = name if name.startswith("SAELens") else name.rpartition("l1-")[0].strip("- ")
        kinds.setdefault(kind, []).append(row)
    for index, (kind, rows) in enumerate(sorted(kinds.items())):
        rows.sort(key=lambda row: row["l0"])
        for panel, key in zip(panels, ("explained_variance", "delta_ce"), strict=True):
            style = {"color": f"C{index}", "marker": "s" if kind.startswith("SAELens") else "o", "label": kind}
            panel.plot([row["l0"] for row in rows], [row[key] for row in rows], linewidth=1, **style)
    for panel, label in zip(panels, ("explained variance, ordinary tokens", "ΔCE, nats a token"), strict=True):
        panel.set(xscale="log", xlabel="active features per ordinary token (L0)", ylabel=label)
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=7)
    panels[1].set_yscale("log")
    figure.suptitle(f"SmolLM2-135M, {result['hook']}, about a million tokens", fontsize=11)
    return figure


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:4]))
