"""The whole evaluation of the SAEs on one hook, over held-out documents; the model's passes are shared.

    a sample of the held-out sequences, or all     fidelity of every SAE, mean and covariance of x
    the first sequences of the sample              cross-entropy: untouched, zero, mean, identity, every SAE
    the first 200,000 tokens of the sample         the same by norm, with no token left out

The BOS at position 0 is left out of every number but those by norm and of outliers (it is one and the same activation
in every sequence). The mask leaves out more tokens, by default the outliers: they are no part of the headline numbers,
keep x when the rest is spliced, and have numbers of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from unmix.activations.mask import Mask, longer, outliers
from unmix.config import OUTLIER, MaskConfig
from unmix.corpus.tokens import Tokens, documents_of, sample, special_ids
from unmix.devices import at_rest
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.by_norm import BY_NORM_TOKENS, ByNorm
from unmix.evaluation.downstream import EVERYWHERE, Downstream, ablations
from unmix.evaluation.fidelity import Activations, Fidelity, redundancy
from unmix.evaluation.memory import HEAD_SEQUENCES, pieces, sequences_at_once
from unmix.evaluation.splice import Replacement
from unmix.lm.model import LanguageModel

SKIP = 1  # positions at the start of a sequence that no number counts
SURE = 2  # standard errors: what a ratio divides by has to be above so many


def evaluate(
    model: LanguageModel,
    tokens: Tokens,
    hook: str,
    saes: dict[str, Dictionary],
    *,
    fidelity_tokens: int,
    ce_tokens: int,
    mask: MaskConfig | None = None,
    batch_sequences: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Every number of every SAE, with the baselines beside them, as plain data (`evaluation.json`).

    `mask` is that of the defaults (`training.mask: auto`) if not given; `batch_sequences`, on which no number depends,
    is what `memory.sequences_at_once` gives. Raises `UserError` if the mask leaves nothing, if a dictionary is for
    activations of another width, or if sequences are too short to predict anything.
    """
    mask = MaskConfig() if mask is None else mask
    times = mask.norm_above or OUTLIER
    T = tokens.ids_NT.shape[1]
    order_N = sample(len(tokens.ids_NT))
    if T < SKIP + 2:
        raise UserError(f"sequences of {T} tokens hold no prediction after position 0; train on longer ones")
    sequences = min(len(tokens.ids_NT), max(1, fidelity_tokens // T))
    width = model.hook_widths([hook])[hook]
    for name, sae in saes.items():
        if sae.width != width:
            raise UserError(
                f"{name} is for activations of width {sae.width}, and {hook} of {model.name} has {width}; "
                "give the model and the hook that it was trained on (--model, --hook)"
            )
    if batch_sequences is None:
        batch_sequences = sequences_at_once(T, model.vocabulary)
    home = _home(model)
    saes = {name: sae if sae.W_dec.device == home else deepcopy(sae).to(home) for name, sae in saes.items()}
    x_sums = Activations(width, home)
    fidelities = {name: Fidelity(sae) for name, sae in saes.items()}
    on_outliers = {name: Fidelity(sae) for name, sae in saes.items()}
    outlier_sums = Activations(width, home)
    began, in_dictionaries = at_rest(home), 0.0
    with torch.no_grad():
        head_ids_NT = _ids(tokens, order_N[: min(HEAD_SEQUENCES, sequences)])
        model.check_contributions(head_ids_NT[:1], [hook])
        median, mean_D = _head(model, hook, head_ids_NT, batch_sequences, times)
        leaves = Mask(mask, special_ids(model.tokenizer, tokens), median)
        far = outliers(torch.zeros(0), median, times)
        by_norm = {name: ByNorm(fidelities[name].norm_F, mean_D) for name in saes}
        for start in range(0, sequences, batch_sequences):
            ids_NT = _ids(tokens, order_N[start : min(start + batch_sequences, sequences)])
            x_NTD = model.activations(ids_NT, [hook])[hook].to(home)
            ids_NT = ids_NT.to(home)
            counted_NT = leaves.keeps(ids_NT, x_NTD)
            counted_NT[:, :SKIP] = False
            # what is counted first, the rest behind it: encoded together, looked at apart
            n, x_BD = int(counted_NT.sum()), torch.cat([x_NTD[counted_NT], x_NTD[~counted_NT]])
            early_N1 = torch.arange(start, start + len(ids_NT), device=home)[:, None] < max(1, BY_NORM_TOKENS // T)
            early_NT = early_N1.expand(ids_NT.shape)
            early_B = torch.cat([early_NT[counted_NT], early_NT[~counted_NT]])
            x_sums.add(x_BD[:n])
            norm_B = x_BD.norm(dim=1)
            far_B = longer(norm_B, far.longer_than)
            far = far.plus(outliers(norm_B, median, times))
            outlier_sums.add(x_BD[far_B])
            before = at_rest(home)
            for name, sae in saes.items():
                _judge(sae, x_BD, n, far_B, early_B, fidelities[name], on_outliers[name], by_norm[name])
            in_dictionaries += at_rest(home) - before
            progress(f"fidelity: {min(start + batch_sequences, sequences):,} of {sequences:,} sequences")

    if not x_sums.tokens:
        raise UserError(f"the mask leaves none of {sequences * T:,} tokens to evaluate on ({_say(mask)})")
    replacements: dict[str, Replacement] = {**ablations(x_sums.mean_D), "identity": torch.clone}
    replacements |= {name: _reconstruction(sae) for name, sae in saes.items()}
    downstream = Downstream(model, hook, replacements, SKIP, leaves, saes if far.tokens else ())
    ce_sequences = min(sequences, max(2, ce_tokens // T))
    ends = {*range(batch_sequences, ce_sequences, batch_sequences), min(EVERYWHERE, ce_sequences), ce_sequences}
    document_NT = torch.from_numpy(documents_of(model.tokenizer, tokens, order_N[:ce_sequences]))
    start = 0
    for end in sorted(ends):  # no batch is on both sides of EVERYWHERE: no number may depend on its size
        downstream.add(_ids(tokens, order_N[start:end]), document_NT[start:end])
        start = end
        progress(f"cross-entropy: {end:,} of {ce_sequences:,} sequences")

    in_dictionaries += downstream.replacement_seconds
    in_model = at_rest(home) - began - in_dictionaries
    pca = x_sums.pca_explained_variance()
    effects = downstream.metrics()
    untouched, made = effects["ce_untouched"], effects["replacements"]
    rows = {}
    for name, sae in saes.items():
        found = fidelities[name].metrics(x_sums) | redundancy(sae) | made[name]
        for baseline in ("zero", "mean"):
            found[f"loss_recovered_{baseline}"] = _recovered(made[baseline], made[name])
        found["pca_explained_variance_at_l0"] = pca[min(len(pca) - 1, round(found["l0"]))].item()
        found["by_norm"] = by_norm[name].metrics()
        if far.tokens:
            found["outliers"] = {
                **_on_outliers(on_outliers[name], outlier_sums),
                "delta_ce_left": effects["beside"][name]["delta_ce"],
                **{f"{key}_everywhere": value for key, value in effects["everywhere"][name].items()},
            }
        rows[name] = found
    return {
        "hook": hook,
        "split": tokens.split,
        "mask": _say(mask),
        "outliers": far.facts(),
        "corpus_fingerprint": tokens.fingerprint,
        "model_fingerprint": model.fingerprint,
        "fidelity_tokens": x_sums.tokens,
        "mean_removed_fraction": x_sums.along_ones,
        "ce_tokens": effects["tokens"],
        "ce_sequences": ce_sequences,
        "ce_documents": effects["documents"],
        "ce_untouched": untouched,
        "seconds": {"model": round(in_model, 3), "dictionaries": round(in_dictionaries, 3)},
        "baselines": {
            "predict the mean": {"explained_variance": 0.0, **made["mean"]},
            "zero": {**made["zero"]},
            "identity": {"explained_variance": 1.0, **made["identity"]},
        },
        "saes": rows,
    }


def _home(model: LanguageModel) -> torch.device:
    """Where dictionaries are judged: with the model, unless sums in float64 cannot be kept there."""
    device: torch.device = model.model.device
    return torch.device("cpu") if device.type == "mps" else device


def _head(model: LanguageModel, hook: str, ids_NT: torch.Tensor, n: int, times: float) -> tuple[float, torch.Tensor]:
    """(the median norm of these sequences at the hook, the mean activation without outliers), n sequences a pass."""
    found = (model.activations(part, [hook])[hook].to(_home(model)) for part in torch.split(ids_NT, n))
    x_BD = torch.cat([x_NTD.flatten(0, 1) for x_NTD in found])
    norm_B = torch.cat([part.double().norm(dim=1) for part in torch.split(x_BD, 4096)])
    median = norm_B.median().item()
    return median, x_BD[~longer(norm_B, times * median)].mean(0)


def _judge(
    sae: Dictionary,
    x_BD: torch.Tensor,
    counted: int,
    far_B: torch.Tensor,
    early_B: torch.Tensor,
    headline: Fidelity,
    on_outliers: Fidelity,
    by_norm: ByNorm,
) -> None:
    """Count a batch of which the first `counted` tokens are in the headline numbers, `early_B` in those by norm."""
    for at in pieces(len(x_BD), sae.features):
        x_bD, far_b, early_b = x_BD[at], far_B[at], early_B[at]
        f_bF = sae.encode(x_bD)
        x_hat_bD = sae.decode(f_bF, x_bD)
        n = max(0, counted - at.start)
        headline.add(x_bD[:n], f_bF[:n], x_hat_bD[:n])
        on_outliers.add(x_bD[far_b], f_bF[far_b], x_hat_bD[far_b])
        if early_b.all():
            by_norm.add(x_bD, f_bF, x_hat_bD)
        elif early_b.any():
            by_norm.add(x_bD[early_b], f_bF[early_b], x_hat_bD[early_b])


def _reconstruction(sae: Dictionary) -> Replacement:
    """x̂ for x, as `sae(x)`, a few tokens at a time."""

    def replace(x_NTD: torch.Tensor) -> torch.Tensor:
        x_BD = x_NTD.flatten(0, 1).to(sae.W_dec.device)
        return torch.cat([sae(x_BD[at]) for at in pieces(len(x_BD), sae.features)]).view_as(x_NTD).to(x_NTD.device)

    return replace


def _recovered(ablated: dict[str, float], spliced: dict[str, float]) -> float | None:
    """Loss recovered; none where ablation costs nothing beyond its error, so that the ratio means nothing."""
    lost = ablated["delta_ce"]
    if not lost > SURE * ablated["delta_ce_standard_error"]:
        return None
    return (lost - spliced["delta_ce"]) / lost


def _on_outliers(sae: Fidelity, x: Activations) -> dict[str, float]:
    """What a dictionary does with the outliers, of which the headline numbers say nothing."""
    found = sae.metrics(x)
    return {key: found[key] for key in ("normalised_mse", "cosine", "norm_ratio", "l0")}


def _say(mask: MaskConfig) -> str:
    said = "position 0 (BOS) left out of every number but those by norm and of outliers"
    if not str(mask):
        return said
    return (
        f"{said}; {mask} left out of fidelity, and left as they are when the rest is spliced; predictions made from "
        "them are counted"
    )


def _ids(tokens: Tokens, rows_N: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(tokens.ids_NT[rows_N].astype(np.int64))
