"""Dictionaries judged on held-out rows that come without a model: fidelity, and what is by norm. No cross-entropy.

Where the rows have targets y of their own, the dictionaries are transcoders: then fidelity and the numbers by norm are
of y, and mask and outliers go by x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmix.activations.mask import Mask, longer, outliers
from unmix.activations.norms import EVERY_ROW
from unmix.activations.rows import Rows, open_rows
from unmix.activations.stream import Pair
from unmix.activations.token_ids import longest
from unmix.config import OUTLIER, MaskConfig, RunConfig
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.by_norm import BY_NORM_TOKENS, ByNorm
from unmix.evaluation.fidelity import CPU, Activations, Fidelity, redundancy
from unmix.evaluation.findings import findings
from unmix.evaluation.memory import pieces
from unmix.evaluation.subject import members_of, recipe_of, tightest, trained_mask
from unmix.runlog import read_manifest

HeldOut = Callable[[], Iterator[Pair]]
"""The held-out rows x_BD and y_BE, some thousands at a time; the same at every call."""


def evaluate_rows(
    folder: Path,
    given: Rows | None,
    *,
    tokens: int,
    mask: Callable[[MaskConfig], MaskConfig] = lambda trained: trained,
) -> dict[str, Any]:
    """What `evaluation.json` holds of a run on rows, over `tokens` of those that were held out, or all there are.

    It is made on the processor, wherever the rows lie. Raises `UserError` for rows that are not there, or are not those
    that were trained on, and for a mask of special tokens, which are not known here, or one that leaves nothing.
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
    _require_same(source, recipe, folder)
    results = []
    members, checkpoints = members_of(folder)
    for hook, saes in members.items():

        def held_out(hook: str = hook) -> Iterator[Pair]:
            return pairs(source, hook, tokens)

        result = of_hook(hook, saes, held_out, asked)
        ids_R = source.held_out_ids(tokens)
        if ids_R is not None:
            norm_R = _norms(held_out)
            far_R = longer(norm_R, result["outliers"]["longer_than"])
            result["outlier_tokens"] = longest(ids_R, far_R.cpu().numpy())
        results.append(result)
    return {
        "corpus": str(recipe.activations.rows),
        **({"targets": recipe.activations.targets} if recipe.activations.targets else {}),
        "model": recipe.model.name,
        "checkpoints": checkpoints,
        "hooks": results,
    }


def _require_same(source: Rows, recipe: RunConfig, folder: Path) -> None:
    """Raises `UserError` for other rows than the run's: which of them were held out, only those tell."""
    then = read_manifest(folder / "run.yaml")["corpus"]["fingerprint"]
    if source.fingerprint != then:
        where = recipe.activations.rows
        raise UserError(
            f"the activations ({where}) are not those that {folder} was trained on (fingerprint {source.fingerprint}, "
            f"was {then}), so none is known to be held out; bring the old ones back, or train on these under another "
            "name"
        )


def pairs(source: Rows, hook: str, tokens: int) -> Iterator[Pair]:
    """The held-out rows of a hook, on the processor; y is x where it has no targets."""
    if hook not in source.target_widths:
        for arrays in source.held_out(tokens):
            x_BD = arrays[hook].to(CPU)
            yield Pair(x_BD, x_BD)
        return
    for arrays, targets in zip(source.held_out(tokens), source.held_out_targets(tokens), strict=True):
        yield Pair(arrays[hook].to(CPU), targets[hook].to(CPU))


def _norms(held_out: HeldOut) -> Tensor:
    """||x|| of every row."""
    return torch.cat([x_BD.double().norm(dim=1) for x_BD, _ in held_out()])


def of_hook(hook: str, saes: dict[str, Dictionary], held_out: HeldOut, mask: MaskConfig) -> dict[str, Any]:
    """Every number of every SAE that needs no model. Raises `UserError` if the mask leaves nothing."""
    times = mask.norm_above or OUTLIER
    norm_R = _norms(held_out)
    median, far = norm_R.median().item(), outliers(norm_R, norm_R.median().item(), times)
    leaves = Mask(mask, (), median)
    first = next(held_out())
    E = first.y_BE.shape[1]
    plain, y_sums, far_sums = Activations(E), Activations(E), Activations(E)
    for x_BD, y_BE in held_out():
        plain.add(y_BE[~longer(x_BD.norm(dim=1), far.longer_than)])
    fidelities, on_outliers = ({name: Fidelity(sae) for name, sae in saes.items()} for _ in range(2))
    by_norm = {name: ByNorm(fidelities[name].norm_F, plain.mean_D, mask=EVERY_ROW) for name in saes}
    seen = 0
    with torch.no_grad():
        for x_RD, y_RE in held_out():
            for at in pieces(len(x_RD), max(sae.features for sae in saes.values())):
                x_bD, y_bE = x_RD[at], y_RE[at]
                kept_b = leaves.keeps(torch.zeros(len(x_bD), dtype=torch.int64), x_bD)
                far_b = longer(x_bD.norm(dim=1), far.longer_than)
                y_sums.add(y_bE[kept_b])
                far_sums.add(y_bE[far_b])
                for name, sae in saes.items():
                    f_bF = sae.encode(x_bD)
                    y_hat_bE = sae.decode(f_bF, x_bD)
                    fidelities[name].add(y_bE[kept_b], f_bF[kept_b], y_hat_bE[kept_b])
                    on_outliers[name].add(y_bE[far_b], f_bF[far_b], y_hat_bE[far_b])
                    if seen < BY_NORM_TOKENS:
                        by_norm[name].add(y_bE, f_bF, y_hat_bE)
                seen += len(x_bD)
    if not y_sums.tokens:
        raise UserError(f"the mask leaves none of {seen:,} held-out activations to evaluate on ({mask})")
    pca, rows = y_sums.pca_explained_variance(), {}
    for name, sae in saes.items():
        found = fidelities[name].metrics(y_sums) | redundancy(sae)
        found["pca_explained_variance_at_l0"] = pca[min(len(pca) - 1, round(found["l0"]))].item()
        found["by_norm"] = by_norm[name].metrics()
        if far.tokens:
            apart = on_outliers[name].metrics(far_sums)
            found["outliers"] = {key: apart[key] for key in ("normalised_mse", "cosine", "norm_ratio", "l0")}
        rows[name] = found
    result = {
        "hook": hook,
        **({} if first.same else {"target_width": E}),
        "split": "held_out",
        "mask": f"{mask} left out of fidelity" if str(mask) else "no activation left out",
        "outliers": far.facts(),
        "fidelity_tokens": y_sums.tokens,
        "mean_removed_fraction": y_sums.along_ones,
        "baselines": {"predict the mean": {"explained_variance": 0.0}},
        "saes": rows,
    }
    return {**result, "findings": findings(result)}
