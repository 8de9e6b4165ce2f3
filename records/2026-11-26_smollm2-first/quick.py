"""L0, explained variance and ΔCE of every member of a run, over 32 held-out rows: how the defaults were tried.

python records/2026-11-26_smollm2-first/quick.py runs/NAME english/
"""

import sys
from pathlib import Path

import numpy as np
import torch

from unmix.config import CorpusConfig, ModelConfig
from unmix.corpus.tokens import load_tokens, sample
from unmix.dictionary.files import origin
from unmix.evaluation.splice import splice
from unmix.interop.load import load_sae
from unmix.lm.model import load_language_model

ROWS, T = 32, 256


def main(run: Path, corpus: str) -> None:
    lm = load_language_model(ModelConfig(name="smollm2"))
    tokens = load_tokens(CorpusConfig(source=corpus), lm.tokenizer, T, "held_out")
    ids_NT = torch.from_numpy(tokens.ids_NT[sample(len(tokens.ids_NT))[:ROWS]].astype(np.int64))

    def cross_entropy() -> torch.Tensor:
        """Of predictions after position 0, (N, T - 2)."""
        logits = torch.cat([lm.logits(part)[:, 1:-1] for part in ids_NT.split(8)])
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids_NT[:, 2:], reduction="none")

    untouched = cross_entropy()
    for member in sorted((run / "members").glob("*")):
        folder = max(member.glob("step-?????????"))
        (hook, _), sae = origin(folder), load_sae(folder)
        x_NTD = torch.cat([lm.activations(part, [hook])[hook] for part in ids_NT.split(8)])
        x_BD = x_NTD[:, 1:][~sae.leaves(x_NTD[:, 1:])]
        with torch.no_grad():
            f_BF = sae.encode(x_BD)
            unexplained = (sae.decode(f_BF, x_BD) - x_BD).square().sum() / (x_BD - x_BD.mean(0)).square().sum()
            with splice(lm.model, hook, sae):
                cost_N = (cross_entropy() - untouched).mean(1)
        error = cost_N.std() / ROWS**0.5
        print(
            f"{member.name:<16} L0 {(f_BF > 0).sum(1).float().mean():.1f}  EV {1 - unexplained:.4f}  "
            f"ΔCE {cost_N.mean():.4f} ± {error:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
