"""Dictionaries judged on held-out rows that come without a model: fidelity, and what is by norm. No cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmix.activations.mask import Mask, longer, outliers
from unmix.activations.rows import Rows, open_rows
from unmix.activations.token_ids import longest
from unmix.config import OUTLIER, MaskConfig
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.by_norm import BY_NORM_TOKENS, ByNorm
from unmix.evaluation.fidelity import CPU, Activations, Fidelity, redundancy
from unmix.evaluation.findings import findings
from unmix.evaluation.memory import pieces
from unmix.evaluation.subject import members_of, recipe_of, tightest, trained_mask

HeldOut = Callable[[], Iterator[Tensor]]
"""The held-out rows x_BD, some thousands at a time; the same at every call."""


def evaluate_rows(
    folder: Path,
    given: Rows | None,
    *,
    tokens: int,
    mask: Callable[[MaskConfig], MaskConfig] = lambda trained: trained,
) -> dict[str, Any]:
    """What `evaluation.json` holds of a run on rows, over `tokens` of those that were held out, or all there are.

    It is made on the processor, wherever the rows lie. Raises `UserError` for rows that are not there, and for a mask
    of special tokens, which are not known here, or one that leaves nothing.
    """
    recipe = recipe_of(folder)
    # training could not leave out special tokens either, whatever older recipes say
    asked = mask(tightest([trained_mask(recipe).model_copy(update={"special": False})]))
    if asked.special:
        raise UserError(
            f"--mask-special: {folder} was trained on activations without a tokenizer, so none is known to be special; "
            "leave it out (rows of activations.special_ids are left out already)"
        )
    source = open_rows(recipe, given, CPU)
    results = []
    members, checkpoints = members_of(folder)
    for hook, saes in members.items():

        def held_out(hook: str = hook) -> Iterator[Tensor]:
            return (arrays[hook].to(CPU) for arrays in source.held_out(tokens))

        result = of_hook(hook, saes, held_out, asked)
        ids_R = source.held_out_ids(tokens)
        if ids_R is not None:
            norm_R = torch.cat([x_BD.double().norm(dim=1) for x_BD in held_out()])
            far_R = longer(norm_R, result["outliers"]["longer_than"])
            result["outlier_tokens"] = longest(ids_R, far_R.cpu().numpy())
        results.append(result)
    return {
        "corpus": str(recipe.activations.rows),
        "model": recipe.model.name,
        "checkpoints": checkpoints,
        "hooks": results,
    }


def of_hook(hook: str, saes: dict[str, Dictionary], held_out: HeldOut, mask: MaskConfig) -> dict[str, Any]:
    """Every number of every SAE that needs no model. Raises `UserError` if the mask leaves nothing."""
    times = mask.norm_above or OUTLIER
    norm_R = torch.cat([x_BD.double().norm(dim=1) for x_BD in held_out()])
    median, far = norm_R.median().item(), outliers(norm_R, norm_R.median().item(), times)
    leaves = Mask(mask, (), median)
    plain = Activations(next(held_out()).shape[1])
    for x_BD in held_out():
        plain.add(x_BD[~longer(x_BD.norm(dim=1), far.longer_than)])
    x_sums, far_sums = Activations(len(plain.sum_D)), Activations(len(plain.sum_D))
    fidelities, on_outliers = ({name: Fidelity(sae) for name, sae in saes.items()} for _ in range(2))
    by_norm = {name: ByNorm(fidelities[name].norm_F, plain.mean_D) for name in saes}
    seen = 0
    with torch.no_grad():
        for x_RD in held_out():
            for at in pieces(len(x_RD), max(sae.features for sae in saes.values())):
                x_bD = x_RD[at]
                kept_b = leaves.keeps(torch.zeros(len(x_bD), dtype=torch.int64), x_bD)
                far_b = longer(x_bD.norm(dim=1), far.longer_than)
                x_sums.add(x_bD[kept_b])
                far_sums.add(x_bD[far_b])
                for name, sae in saes.items():
                    f_bF = sae.encode(x_bD)
                    x_hat_bD = sae.decode(f_bF, x_bD)
                    fidelities[name].add(x_bD[kept_b], f_bF[kept_b], x_hat_bD[kept_b])
                    on_outliers[name].add(x_bD[far_b], f_bF[far_b], x_hat_bD[far_b])
                    if seen < BY_NORM_TOKENS:
                        by_norm[name].add(x_bD, f_bF, x_hat_bD)
                seen += len(x_bD)
    if not x_sums.tokens:
        raise UserError(f"the mask leaves none of {seen:,} held-out activations to evaluate on ({mask})")
    pca, rows = x_sums.pca_explained_variance(), {}
    for name, sae in saes.items():
        found = fidelities[name].metrics(x_sums) | redundancy(sae)
        found["pca_explained_variance_at_l0"] = pca[min(len(pca) - 1, round(found["l0"]))].item()
        found["by_norm"] = by_norm[name].metrics()
        if far.tokens:
            apart = on_outliers[name].metrics(far_sums)
            found["outliers"] = {key: apart[key] for key in ("normalised_mse", "cosine", "norm_ratio", "l0")}
        rows[name] = found
    result = {
        "hook": hook,
        "split": "held_out",
        "mask": f"{mask} left out of fidelity" if str(mask) else "no activation left out",
        "outliers": far.facts(),
        "fidelity_tokens": x_sums.tokens,
        "mean_removed_fraction": x_sums.along_ones,
        "baselines": {"predict the mean": {"explained_variance": 0.0}},
        "saes": rows,
    }
    return {**result, "findings": findings(result)}
