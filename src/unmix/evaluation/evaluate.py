"""The whole evaluation of the SAEs on one hook, over held-out documents; the model's passes are shared.

    all held-out tokens (or as many as asked for)     fidelity of every SAE, mean and covariance of x
    the first sequences of them                       cross-entropy: untouched, zero, mean, identity, every SAE

    the first 200,000 of them                         the same by norm, with no token left out

The BOS at position 0 is left out of every number but those by norm (it is one and the same activation in every
sequence); it is spliced like the rest. A mask leaves out more tokens, and those keep x when the rest is spliced.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from unmix.activations.mask import Mask
from unmix.config import MaskConfig
from unmix.corpus.tokens import Tokens, special_ids
from unmix.errors import UserError
from unmix.evaluation.by_norm import ByNorm
from unmix.evaluation.downstream import Downstream, ablations
from unmix.evaluation.fidelity import Activations, Fidelity, redundancy
from unmix.evaluation.splice import Replacement
from unmix.lm.model import LanguageModel
from unmix.sae.model import SAE

SKIP = 1  # positions at the start of a sequence that no number counts
HEAD_SEQUENCES = 64  # measured first: the median norm for the mask, the mean that variance by norm is taken around
BY_NORM_TOKENS = 200_000


def evaluate(
    model: LanguageModel,
    tokens: Tokens,
    hook: str,
    saes: dict[str, SAE],
    *,
    fidelity_tokens: int,
    ce_tokens: int,
    mask: MaskConfig | None = None,
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
        head_BD = model.activations(_ids(tokens, 0, min(HEAD_SEQUENCES, sequences)), [hook])[hook].flatten(0, 1)
        median = head_BD.double().norm(dim=1).median().item()
        leaves = Mask(mask or MaskConfig(), special_ids(model.tokenizer, tokens), median)
        by_norm = {name: ByNorm(fidelities[name].norm_F, head_BD.mean(0)) for name in saes}
        for start in range(0, sequences, batch_sequences):
            ids_NT = _ids(tokens, start, min(start + batch_sequences, sequences))
            x_NTD = model.activations(ids_NT, [hook])[hook]
            counted_NT = leaves.keeps(ids_NT, x_NTD)
            counted_NT[:, :SKIP] = False
            # what is counted first, the rest behind it: encoded together, looked at apart
            n, x_BD = int(counted_NT.sum()), torch.cat([x_NTD[counted_NT], x_NTD[~counted_NT]])
            early_N1 = torch.arange(start, start + len(ids_NT))[:, None] < max(1, BY_NORM_TOKENS // T)
            early_NT = early_N1.expand(ids_NT.shape)
            early_B = torch.cat([early_NT[counted_NT], early_NT[~counted_NT]])
            x_sums.add(x_BD[:n])
            before = time.perf_counter()
            for name, sae in saes.items():
                f_BF = sae.encode(x_BD)
                x_hat_BD = sae.decode(f_BF, x_BD)
                fidelities[name].add(x_BD[:n], f_BF[:n], x_hat_BD[:n])
                if early_B.all():
                    by_norm[name].add(x_BD, f_BF, x_hat_BD)
                elif early_B.any():
                    by_norm[name].add(x_BD[early_B], f_BF[early_B], x_hat_BD[early_B])
            in_dictionaries += time.perf_counter() - before
            progress(f"fidelity: {min(start + batch_sequences, sequences):,} of {sequences:,} sequences")

    if not x_sums.tokens:
        raise UserError(
            f"the mask leaves none of {sequences * T:,} tokens to evaluate on ({_say(mask or MaskConfig())})"
        )
    replacements: dict[str, Replacement] = {**ablations(x_sums.mean_D), "identity": torch.clone, **saes}
    downstream = Downstream(model, hook, replacements, SKIP, leaves)
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
            found[f"loss_recovered_{baseline}"] = (made[baseline]["ce"] - made[name]["ce"]) / lost if lost else math.nan
        found["pca_explained_variance_at_l0"] = pca[min(len(pca) - 1, round(found["l0"]))].item()
        found["by_norm"] = by_norm[name].metrics()
        rows[name] = found
    return {
        "hook": hook,
        "split": tokens.split,
        "mask": _say(mask or MaskConfig()),
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


def _say(mask: MaskConfig) -> str:
    said = ["position 0 (BOS)"] + ["special tokens"] * mask.special
    if mask.norm_above is not None:
        said.append(f"tokens longer than {mask.norm_above:g} times the median")
    if len(said) == 1:
        return f"{said[0]} left out of every number but those by norm"
    masked = " and ".join(said[1:])
    return (
        f"{said[0]} left out of every number but those by norm; {masked} left out of fidelity, and left as they are "
        "when the rest is spliced; predictions made from them are counted"
    )


def _ids(tokens: Tokens, start: int, end: int) -> torch.Tensor:
    return torch.from_numpy(tokens.ids_NT[start:end].astype(np.int64))
