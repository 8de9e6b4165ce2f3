"""Write the embedded model's card from the facts of its training and a look at its residual norms.

    python scripts/embedded_lm_card.py --work .work/lm --out src/unmix/lm/embedded

Norms are measured on the held-out files, packed as in training; token kinds are ranked by their mean norm over the
median norm of the layer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from unmix.config import ModelConfig
from unmix.lm.model import load_language_model

SEQUENCES = 200


def outliers(folder: Path, work: Path) -> list[dict]:
    """Per place in the residual stream: quantiles of ||x||, and the token kinds with the largest mean norm."""
    model = load_language_model(ModelConfig(name=str(folder)))
    ids = np.fromfile(work / "held_out.bin", dtype=np.uint16).astype(np.int64)
    T = model.context
    rows = [np.concatenate([[0], ids[i * (T - 1) : (i + 1) * (T - 1)]]) for i in range(SEQUENCES)]
    ids_NT = torch.from_numpy(np.stack(rows))
    hooks = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.layers))]
    parts = [model.activations(chunk, hooks) for chunk in ids_NT.split(8)]
    found = []
    flat, position = ids_NT.flatten(), torch.arange(T).repeat(SEQUENCES)
    for hook in hooks:
        norm = torch.cat([p[hook].norm(dim=-1) for p in parts]).flatten()
        median = norm.median().item()
        total = torch.zeros(model.vocabulary).index_add_(0, flat, norm)
        count = torch.zeros(model.vocabulary).index_add_(0, flat, torch.ones_like(norm))
        inner = (flat == 0) & (position > 0)
        mean = torch.where(count >= 20, total / count.clamp_min(1), 0)
        top = mean.topk(4).indices.tolist()
        found.append(
            {
                "hook": hook,
                "median": median,
                "q99": norm.quantile(0.99).item() if norm.numel() < 1e7 else float("nan"),
                "max": norm.max().item(),
                "mean": norm.mean().item(),
                "bos": norm[position == 0].mean().item() / median,
                "eot": norm[inner].mean().item() / median if inner.any() else float("nan"),
                "top": [(model.tokenizer.decode([i]), mean[i].item() / median, int(count[i])) for i in top],
                "above_twice": (norm > 2 * median).double().mean().item(),
            }
        )
    return found


def card(facts: dict, norms: list[dict]) -> str:
    """The card in Markdown."""
    s = facts["splits"]
    lines = [
        "---",
        "license: mit",
        "language: code",
        "library_name: transformers",
        "---",
        "",
        "# The embedded model",
        "",
        "A small causal language model of Python source in GPT-2 architecture: 6 layers x 256, 4 heads, context 512, "
        f"byte-level BPE of 4,096 tokens, {facts['parameters']:,} parameters, stored in float16. It is here so that "
        "every part of unmix can be tried on a real model with nothing to download.",
        "",
        "## Data",
        "",
        f"- Trained on {s['stdlib']['documents']:,} files of the standard library of Python {facts['python']} "
        f"({s['stdlib']['bytes'] / 1e6:.1f} MB, {s['stdlib']['tokens']:,} tokens) and {s['packages']['documents']:,} files of "
        f"permissively licensed packages ({s['packages']['bytes'] / 1e6:.1f} MB, {s['packages']['tokens']:,} tokens).",
        f"- Held out: {s['held_out']['documents']} files of the standard library ({s['held_out']['bytes'] / 1e6:.1f} MB, "
        f"{s['held_out']['tokens']:,} tokens), chosen by a hash of their path (`unmix.corpus.split`), seen by neither "
        "the tokenizer nor the model. Package files that share five consecutive lines in 2 % of their places with a "
        f"held-out file were left out. {facts['held_out_files_with_twins']} of the held-out files share a fifth of their "
        "five-line runs with some training file: families of like files, such as the codecs, are part of the library.",
        f"- Packages: {', '.join(facts['packages'])}.",
        "",
        "## Training",
        "",
        f"{facts['steps']:,} steps of 8,192 tokens, {facts['tokens'] / 1e6:.1f} M tokens, {facts['seconds'] / 60:.0f} minutes on "
        "2 CPU cores shared with other work, bfloat16 autocast. Muon (0.02) for the matrices inside the blocks, AdamW (4e-3) for the rest; constant, then linear to 0 "
        "over the last 65 %. Sequences of 256 tokens, of 512 in the second half; each begins with `<|endoftext|>`, which "
        "also ends each document. No dropout, no weight decay beyond 0.01 in Muon, nothing that shapes the norms. "
        "`scripts/train_embedded_lm.py` repeats it.",
        "",
        "| step | tokens | training loss (nats/token, one batch) | held-out bits per byte (one sequence in 15) |",
        "|--:|--:|--:|--:|",
        *(
            f"| {r['step']:,} | {r['tokens'] / 1e6:.1f} M | {r['loss']:.3f} | {r['held_out_bits_per_byte']:.3f} |"
            for r in facts["curve"]
        ),
        "",
        "Held-out sequences have 512 tokens: before step 1,220, where sequences of that length begin, half of their "
        "positions were untrained, and the figures say little.",
        "",
        "## Held-out bits per byte",
        "",
        "All held-out files, each token predicted once, in sequences that begin with `<|endoftext|>`; float16 weights, "
        "float32 arithmetic.",
        "",
        "| model | bits per byte |",
        "|---|--:|",
        f"| **this model** | **{facts['bits_per_byte']:.3f}** |",
        f"| `xz -9e` of the held-out files in one stream | {facts['xz_bits_per_byte']:.3f} |",
        f"| `bzip2 -9`, the same | {facts['bz2_bits_per_byte']:.3f} |",
        f"| interpolated 4-gram of the same tokens (Witten-Bell), same training data | {facts['ngram_bits_per_byte']:.3f} |",
        "",
        "`xz` sees the held-out files themselves, 3 MB of them, as it goes; the model sees at most 511 tokens.",
        "",
        "## Norms",
        "",
        f"||x|| over {SEQUENCES * 512:,} held-out tokens. *BOS*: the `<|endoftext|>` at position 0; *inner*: those between "
        "documents. All over the median of the layer.",
        "",
        "| hook | median | 99 % | max | BOS / median | inner / median | tokens above 2 x median | largest by token |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for n in norms:
        top = ", ".join(f"`{json.dumps(t)[1:-1].replace('|', '&#124;')}` {r:.2f}" for t, r, _ in n["top"])
        lines.append(
            f"| {n['hook']} | {n['median']:.1f} | {n['q99']:.1f} | {n['max']:.1f} | {n['bos']:.2f} | {n['eot']:.2f} | "
            f"{n['above_twice']:.2%} | {top} |"
        )
    lines += [
        "",
        "## Limits",
        "",
        "It writes plausible Python and nothing else, and it has no use outside of trying things out.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    facts = json.loads((args.work / "facts.json").read_text())
    norms = outliers(args.out, args.work)
    (args.work / "norms.json").write_text(json.dumps(norms, indent=1))
    (args.out / "README.md").write_text(card(facts, norms))
    print((args.out / "README.md").read_text())
