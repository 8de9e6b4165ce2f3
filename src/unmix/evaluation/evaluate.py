"""The whole evaluation of the SAEs on one hook, over held-out documents; the model's passes are shared.

    a sample of the held-out sequences, or all     fidelity of every SAE, mean and covariance of x
    the first sequences of the sample              cross-entropy: untouched, zero, mean, identity, every SAE
    the first 200,000 tokens of the sample         the same by norm, with no token left out

The BOS at position 0 is left out of every number but those by norm and of outliers (it is one and the same activation
in every sequence); of sequences without one (`Tokens.bos`), every position counts. The mask leaves out more tokens, by
default the outliers: they are no part of the headline numbers, keep x when the rest is spliced, and have numbers of
their own. Of chats, only what training counts is counted, here and everywhere (`corpus.roles`): the other tokens are
read and keep x, and no prediction made from them counts.

A transcoder reads x at one hook and gives y of another: then fidelity, the numbers by norm and cross-entropy are of y,
ŷ is put in the place of y, and the mask goes by x.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from unmix.activations.mask import Mask, longer, outliers
from unmix.activations.norms import mask_said
from unmix.config import OUTLIER, MaskConfig
from unmix.corpus.tokens import Tokens, documents_of, sample, special_ids
from unmix.devices import at_rest
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.by_norm import BY_NORM_TOKENS, ByNorm
from unmix.evaluation.downstream import EVERYWHERE, Downstream, Seen, ablations
from unmix.evaluation.fidelity import Activations, Fidelity, redundancy
from unmix.evaluation.memory import HEAD_SEQUENCES, pieces, sequences_at_once
from unmix.evaluation.splice import Replacement
from unmix.lm.model import LanguageModel

SURE = 2  # standard errors: what a ratio divides by has to be above so many


def evaluate(
    model: LanguageModel,
    tokens: Tokens,
    hook: str,
    saes: dict[str, Dictionary],
    *,
    hook_out: str | None = None,
    fidelity_tokens: int,
    ce_tokens: int,
    mask: MaskConfig | None = None,
    batch_sequences: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Every number of every SAE, with the baselines beside them, as plain data (`evaluation.json`).

    `hook_out`: where y is read, if the dictionaries are transcoders. `mask` is that of the defaults (`training.mask:
    auto`) if not given; `batch_sequences`, on which no number depends, is what `memory.sequences_at_once` gives.
    Raises `UserError` if mask and roles leave nothing, if a dictionary is for activations of another width, if
    sequences are too short to predict anything, or if x is not there yet where y is replaced.
    """
    mask = MaskConfig() if mask is None else mask
    times = mask.norm_above or OUTLIER
    T, skip = tokens.ids_NT.shape[1], tokens.skip
    order_N = sample(len(tokens.ids_NT))
    if skip + 2 > T:
        after = " after position 0" if skip else ""
        raise UserError(f"sequences of {T} tokens hold no prediction{after}; train on longer ones")
    sequences = min(len(tokens.ids_NT), max(1, fidelity_tokens // T))
    out = hook if hook_out is None else hook_out
    hooks = list(dict.fromkeys([hook, out]))
    widths = model.hook_widths(hooks)
    for name, sae in saes.items():
        for at, width in ((hook, sae.width), (out, sae.W_dec.shape[1])):
            if width != widths[at]:
                raise UserError(
                    f"{name} is for activations of width {width}, and {at} of {model.name} has {widths[at]}; "
                    "give the model and the hook that it was trained on (--model, --hook)"
                )
    if batch_sequences is None:
        batch_sequences = sequences_at_once(T, model.vocabulary)
    home = _home(model)
    saes = {name: sae if sae.W_dec.device == home else deepcopy(sae).to(home) for name, sae in saes.items()}
    y_sums = Activations(widths[out], home)
    fidelities = {name: Fidelity(sae) for name, sae in saes.items()}
    on_outliers = {name: Fidelity(sae) for name, sae in saes.items()}
    outlier_sums = Activations(widths[out], home)
    began, in_dictionaries = at_rest(home), 0.0
    with torch.no_grad():
        head_ids_NT = _ids(tokens, order_N[: min(HEAD_SEQUENCES, sequences)])
        model.check_contributions(head_ids_NT[:1], hooks)
        head_kept_NT = _kept(tokens, order_N[: len(head_ids_NT)], home)
        median, mean_E = _head(model, hook, out, head_ids_NT, head_kept_NT, batch_sequences, times)
        leaves = Mask(mask, special_ids(model.tokenizer, tokens), median)
        far = outliers(torch.zeros(0), median, times)
        no_mask = mask_said(bos=tokens.bos, counted=tokens.counted)
        by_norm = {name: ByNorm(fidelities[name].norm_F, mean_E, mask=no_mask) for name in saes}
        for start in range(0, sequences, batch_sequences):
            rows_N = order_N[start : min(start + batch_sequences, sequences)]
            ids_NT, kept_NT = _ids(tokens, rows_N), _kept(tokens, rows_N, home)
            x_NTD, y_NTE = _pair(model, hook, out, ids_NT)
            ids_NT = ids_NT.to(home)
            counted_NT = leaves.keeps(ids_NT, x_NTD) & kept_NT
            counted_NT[:, :skip] = False
            apart_NT = kept_NT & ~counted_NT
            # what is counted first, the rest behind it: encoded together, looked at apart
            n, x_BD = int(counted_NT.sum()), torch.cat([x_NTD[counted_NT], x_NTD[apart_NT]])
            y_BE = x_BD if out == hook else torch.cat([y_NTE[counted_NT], y_NTE[apart_NT]])
            early_N1 = torch.arange(start, start + len(ids_NT), device=home)[:, None] < max(1, BY_NORM_TOKENS // T)
            early_NT = early_N1.expand(ids_NT.shape)
            early_B = torch.cat([early_NT[counted_NT], early_NT[apart_NT]])
            y_sums.add(y_BE[:n])
            norm_B = x_BD.norm(dim=1)
            far_B = longer(norm_B, far.longer_than)
            far = far.plus(outliers(norm_B, median, times))
            outlier_sums.add(y_BE[far_B])
            before = at_rest(home)
            for name, sae in saes.items():
                _judge(sae, x_BD, y_BE, n, far_B, early_B, fidelities[name], on_outliers[name], by_norm[name])
            in_dictionaries += at_rest(home) - before
            progress(f"fidelity: {min(start + batch_sequences, sequences):,} of {sequences:,} sequences")

    if not y_sums.tokens:
        raise UserError(f"the mask leaves none of {sequences * T:,} tokens to evaluate on ({_say(mask, tokens)})")
    seen = None if out == hook else Seen(hook)
    replacements: dict[str, Replacement] = {**ablations(y_sums.mean_D), "identity": torch.clone}
    replacements |= {name: _reconstruction(sae, seen) for name, sae in saes.items()}
    downstream = Downstream(model, out, replacements, skip, leaves, saes if far.tokens else (), seen)
    ce_sequences = min(sequences, max(2, ce_tokens // T))
    ends = {*range(batch_sequences, ce_sequences, batch_sequences), min(EVERYWHERE, ce_sequences), ce_sequences}
    document_NT = torch.from_numpy(documents_of(model.tokenizer, tokens, order_N[:ce_sequences]))
    start = 0
    for end in sorted(ends):  # no batch is on both sides of EVERYWHERE: no number may depend on its size
        kept_NT = _kept(tokens, order_N[start:end], home)
        downstream.add(_ids(tokens, order_N[start:end]), document_NT[start:end], kept_NT)
        start = end
        progress(f"cross-entropy: {end:,} of {ce_sequences:,} sequences")

    if not downstream.tokens:
        raise UserError(
            f"no prediction in {ce_sequences * T:,} tokens is made from one that counts ({tokens.counted}); give more "
            "--ce-tokens, or a corpus with more of them"
        )
    in_dictionaries += downstream.replacement_seconds
    in_model = at_rest(home) - began - in_dictionaries
    pca = y_sums.pca_explained_variance()
    effects = downstream.metrics()
    untouched, made = effects["ce_untouched"], effects["replacements"]
    rows = {}
    for name, sae in saes.items():
        found = fidelities[name].metrics(y_sums) | redundancy(sae) | made[name]
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
        "hook": hook if hook_out is None else f"{hook} -> {out}",
        **({} if hook_out is None else {"hook_in": hook, "hook_out": out}),
        "split": tokens.split,
        "mask": _say(mask, tokens),
        "prepend_bos": tokens.bos,
        "outliers": far.facts(),
        "corpus_fingerprint": tokens.fingerprint,
        "model_fingerprint": model.fingerprint,
        "fidelity_tokens": y_sums.tokens,
        "mean_removed_fraction": y_sums.along_ones,
        "ce_tokens": effects["tokens"],
        "ce_sequences": ce_sequences,
        "sequence_length": T,
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


def _pair(model: LanguageModel, hook: str, out: str, ids_NT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_NTD, y_NTE): one and the same if the hooks are."""
    found = model.activations(ids_NT, list(dict.fromkeys([hook, out])))
    x_NTD = found[hook].to(_home(model))
    return x_NTD, x_NTD if out == hook else found[out].to(_home(model))


def _head(
    model: LanguageModel, hook: str, out: str, ids_NT: torch.Tensor, kept_NT: torch.Tensor, n: int, times: float
) -> tuple[float, torch.Tensor]:
    """(the median norm of x over the kept tokens, the mean y without outliers of x), n sequences a pass.

    Raises `UserError` if none is kept.
    """
    if not kept_NT.any():
        raise UserError(f"none of {kept_NT.numel():,} tokens counts (corpus.roles); give more --tokens, or other roles")
    found = [_pair(model, hook, out, part) for part in torch.split(ids_NT, n)]
    kept = torch.split(kept_NT, n)
    x_BD = torch.cat([x_NTD[kept_nT] for (x_NTD, _), kept_nT in zip(found, kept, strict=True)])
    y_BE = x_BD if out == hook else torch.cat([y[kept_nT] for (_, y), kept_nT in zip(found, kept, strict=True)])
    norm_B = torch.cat([part.double().norm(dim=1) for part in torch.split(x_BD, 4096)])
    median = norm_B.median().item()
    return median, y_BE[~longer(norm_B, times * median)].mean(0)


def _judge(
    sae: Dictionary,
    x_BD: torch.Tensor,
    y_BE: torch.Tensor,
    counted: int,
    far_B: torch.Tensor,
    early_B: torch.Tensor,
    headline: Fidelity,
    on_outliers: Fidelity,
    by_norm: ByNorm,
) -> None:
    """Count a batch of which the first `counted` tokens are in the headline numbers, `early_B` in those by norm."""
    for at in pieces(len(x_BD), sae.features):
        y_bE, far_b, early_b = y_BE[at], far_B[at], early_B[at]
        f_bF = sae.encode(x_BD[at])
        y_hat_bE = sae.decode(f_bF, x_BD[at])
        n = max(0, counted - at.start)
        headline.add(y_bE[:n], f_bF[:n], y_hat_bE[:n])
        on_outliers.add(y_bE[far_b], f_bF[far_b], y_hat_bE[far_b])
        if early_b.all():
            by_norm.add(y_bE, f_bF, y_hat_bE)
        elif early_b.any():
            by_norm.add(y_bE[early_b], f_bF[early_b], y_hat_bE[early_b])


def _reconstruction(sae: Dictionary, seen: Seen | None) -> Replacement:
    """ŷ for y, as `sae(x)`, a few tokens at a time; x is y, or what was seen of it in this pass."""

    def replace(y_NTE: torch.Tensor) -> torch.Tensor:
        x_NTD = y_NTE if seen is None else seen.x_NTD
        x_BD = x_NTD.flatten(0, 1).to(sae.W_dec.device)
        return torch.cat([sae(x_BD[at]) for at in pieces(len(x_BD), sae.features)]).view_as(y_NTE).to(y_NTE.device)

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


def _say(mask: MaskConfig, tokens: Tokens) -> str:
    said = "position 0 (BOS) left out of every number but those by norm and of outliers"
    if not tokens.bos:
        said = "no BOS: sequences begin with text, and position 0 counts like any other"
    if tokens.counted:
        said = f"as in training, only these tokens count: {tokens.counted}; the others keep x; {said}"
    if not str(mask):
        return said
    return (
        f"{said}; {mask} left out of fidelity, and left as they are when the rest is spliced; predictions made from "
        "them are counted"
    )


def _kept(tokens: Tokens, rows_N: np.ndarray, home: torch.device) -> torch.Tensor:
    """Which tokens of these sequences training counts: all of them, but for chats of which it does not."""
    if tokens.kept_NT is None:
        return torch.ones((len(rows_N), tokens.ids_NT.shape[1]), dtype=torch.bool, device=home)
    return torch.from_numpy(tokens.kept_NT[rows_N].astype(bool)).to(home)


def _ids(tokens: Tokens, rows_N: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(tokens.ids_NT[rows_N].astype(np.int64))
