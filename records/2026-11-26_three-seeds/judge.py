"""Every dictionary over the same held-out tokens: a line each in evaluation.jsonl, those that are there are kept.

    python records/2026-11-26_three-seeds/judge.py RUNS PEERS [OUT] [--model --corpus --hook --ce, for other records]

RUNS holds run folders of unmix, PEERS what peers.py wrote; both are read with `unmix.load_sae`. A run is called
`seed-N`, or `lr-RATE` and `fixed-NAME`, and whatever else, of which the seed stands in its run.yaml.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from unmix.config import CorpusConfig, ModelConfig, load_resolved
from unmix.corpus.tokens import load_tokens
from unmix.evaluation.evaluate import evaluate
from unmix.interop.load import load_sae
from unmix.lm.model import load_language_model
from unmix.runlog import newest_checkpoints, read_manifest

FIDELITY, CE, T, AT_ONCE = 100_000, 20_000, 256, 18
READ = 2_000_000  # held-out tokens that are read, and those taken as a sample of, as a sweep's own evaluation does
KEPT = (
    "l0", "explained_variance", "delta_ce", "delta_ce_standard_error", "kl", "dead", "cosine",
    "max_cosine_mean", "loss_recovered_zero", "loss_recovered_mean",
)  # fmt: skip


def ours(runs: Path, *, moved: bool = False) -> dict[str, tuple[Path, dict[str, Any]]]:
    """name -> (folder, what it is); those trained on what centre.py wrote, which act on that, only if `moved`."""
    found = {}
    for run in sorted(path.parent for path in runs.glob("*/run.yaml")):
        if run.name.startswith("centred") and not moved:
            continue
        recipe = load_resolved(read_manifest(run / "run.yaml")["recipe"], run / "run.yaml")
        last = {row["member"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
        for member, folder in newest_checkpoints(run).items():
            row = last[member]
            sae, training = recipe.of_variant(row.get("variant", ""))
            if row["step"] != training.steps:
                continue
            about = {
                "by": "unmix", "run": run.name, "member": member, "architecture": sae.architecture,
                "asked": row.get("target_l0"), "seed": training.seed, "lr": training.lr,
                "coefficient": row.get("coefficient", row["l1"]),
            }  # fmt: skip
            found[f"{run.name}/{member}"] = folder, about
    return found


def theirs(peers: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The same of SAELens'."""
    log = peers / "runs.jsonl"
    lines = map(json.loads, log.read_text().splitlines()) if log.exists() else []
    return {
        f"SAELens/{row['folder']}": (
            peers / row["folder"],
            {
                "by": "SAELens", "run": "peers", "member": row["folder"], "architecture": row["architecture"],
                "asked": row["l0"], "seed": row["seed"], "lr": row["lr"], "coefficient": row["setting"],
                "window": row["window"],
            },
        )
        for row in lines
    }  # fmt: skip


def judge(runs: Path, peers: Path, out: Path, model: str, corpus: str, hook: str, ce: int) -> None:
    """Evaluate what has no line yet."""
    there = {json.loads(line)["name"] for line in out.read_text().splitlines()} if out.exists() else set()
    wanted = {name: what for name, what in {**ours(runs), **theirs(peers)}.items() if name not in there}
    if not wanted:
        return
    lm = load_language_model(ModelConfig(name=model))
    tokens = load_tokens(CorpusConfig(source=corpus, max_tokens=READ), lm.tokenizer, T, "held_out")
    names = list(wanted)
    for first in range(0, len(names), AT_ONCE):
        part = {name: load_sae(wanted[name][0]) for name in names[first : first + AT_ONCE]}
        with torch.no_grad():
            result = evaluate(lm, tokens, hook, part, fidelity_tokens=FIDELITY, ce_tokens=ce)
        with out.open("a") as file:
            for name, row in result["saes"].items():
                numbers = {key: row[key] for key in KEPT if row.get(key) is not None}
                file.write(json.dumps({"name": name, **wanted[name][1], **numbers}) + "\n")
        print(
            f"{first + len(part)} of {len(names)}; {result['fidelity_tokens']:,} tokens, {result['ce_tokens']:,} for "
            f"cross-entropy, untouched {result['ce_untouched']:.4f}, outliers {result['outliers']['tokens']}, "
            f"mean {result['baselines']['predict the mean']['delta_ce']:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("peers", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "evaluation.jsonl")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--corpus", default="stdlib")
    parser.add_argument("--hook", default="resid_post.3")
    parser.add_argument("--ce", type=int, default=CE, help="tokens for cross-entropy")
    judge(**vars(parser.parse_args()))
