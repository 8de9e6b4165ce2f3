"""The whole evaluation of the SAEs on one hook, over held-out documents; the model's passes are shared.

    all held-out tokens (or as many as asked for)     fidelity of every SAE, mean and covariance of x
    the first sequences of them                       cross-entropy: untouched, zero, mean, identity, every SAE

The BOS at position 0 is left out of every number (it is one and the same activation in every sequence); it is
spliced like the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from unmix.corpus.tokens import Tokens
from unmix.evaluation.downstream import Downstream, ablations
from unmix.evaluation.fidelity import Activations, Fidelity, redundancy
from unmix.evaluation.splice import Replacement
from unmix.lm.model import LanguageModel
from unmix.sae.model import SAE

SKIP = 1  # positions at the start of a sequence that no number counts


def evaluate(
    model: LanguageModel,
    tokens: Tokens,
    hook: str,
    saes: dict[str, SAE],
    *,
    fidelity_tokens: int,
    ce_tokens: int,
    batch_sequences: int = 16,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Every number of every SAE, with the baselines beside them, as plain data (`evaluation.json`)."""
    T = tokens.ids_NT.shape[1]
    sequences = min(len(tokens.ids_NT), max(1, fidelity_tokens // T))
    x_sums = Activations(model.hook_widths([hook])[hook])
    fidelities = {name: Fidelity(sae) for name, sae in saes.items()}
    began, in_dictionaries = time.perf_counter(), 0.0
    with torch.no_grad():
        for start in range(0, sequences, batch_sequences):
            ids_NT = _ids(tokens, start, min(start + batch_sequences, sequences))
            x_BD = model.activations(ids_NT, [hook])[hook][:, SKIP:].flatten(0, 1)
            x_sums.add(x_BD)
            before = time.perf_counter()
            for name, sae in saes.items():
                f_BF = sae.encode(x_BD)
                fidelities[name].add(x_BD, f_BF, sae.decode(f_BF))
            in_dictionaries += time.perf_counter() - before
            progress(f"fidelity: {min(start + batch_sequences, sequences):,} of {sequences:,} sequences")

    replacements: dict[str, Replacement] = {**ablations(x_sums.mean_D), "identity": torch.clone, **saes}
    downstream = Downstream(model, hook, replacements, SKIP)
    ce_sequences = min(sequences, max(2, ce_tokens // T))
    for start in range(0, ce_sequences, batch_sequences):
        downstream.add(_ids(tokens, start, min(start + batch_sequences, ce_sequences)))
        progress(f"cross-entropy: {min(start + batch_sequences, ce_sequences):,} of {ce_sequences:,} sequences")

    in_dictionaries += downstream.replacement_seconds
    in_model = time.perf_counter() - began - in_dictionaries
    pca = x_sums.pca_explained_variance()
    effects = downstream.metrics()
    untouched, made = effects["ce_untouched"], effects["replacements"]
    rows = {}
    for name, sae in saes.items():
        found = fidelities[name].metrics(x_sums) | redundancy(sae) | made[name]
        for baseline in ("zero", "mean"):
            lost = made[baseline]["ce"] - untouched
            found[f"loss_recovered_{baseline}"] = (made[baseline]["ce"] - made[name]["ce"]) / lost
        found["pca_explained_variance_at_l0"] = pca[min(len(pca) - 1, round(found["l0"]))].item()
        rows[name] = found
    return {
        "hook": hook,
        "split": tokens.split,
        "mask": "position 0 (BOS) left out of every number",
        "corpus_fingerprint": tokens.fingerprint,
        "model_fingerprint": model.fingerprint,
        "fidelity_tokens": x_sums.tokens,
        "ce_tokens": effects["tokens"],
        "ce_sequences": ce_sequences,
        "ce_untouched": untouched,
        "seconds": {"model": round(in_model, 3), "dictionaries": round(in_dictionaries, 3)},
        "baselines": {
            "predict the mean": {"explained_variance": 0.0, **made["mean"]},
            "zero": {**made["zero"]},
            "identity": {"explained_variance": 1.0, **made["identity"]},
        },
        "saes": rows,
    }


def _ids(tokens: Tokens, start: int, end: int) -> torch.Tensor:
    return torch.from_numpy(tokens.ids_NT[start:end].astype(np.int64))
