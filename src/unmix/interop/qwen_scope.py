"""Qwen Scope: `SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer0.sae.pt`, after `unmix convert`.

    f = the k largest of max(z, 0),   z = x W_encᵀ + b_enc;   x̂ = f W_decᵀ + b_dec

The names are SAELens', the shapes are turned: W_enc [F, D], W_dec [D, F]. That is how they are read, whatever F and D:
with F = D nothing would complain. k stands only in the repository's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmix.dictionary.nonlinearities import TopK
from unmix.errors import UserError
from unmix.interop.normal import normal_form
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source
from unmix.interop.tensors import take, transposed

FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
_FILE = re.compile(r"layer[_.]?(\d+)\.sae\.(pt|safetensors)")


def is_here(path: Path, found: Mapping[str, Any]) -> bool:
    """Whether the tensors are one of theirs: the names alone would be those of others."""
    return set(FOUR) == found.keys() and bool(_FILE.fullmatch(path.name))


def read(source: Source, path: Path, found: Mapping[str, Any]) -> Reading:
    """Raises `UserError` where the name does not say k."""
    said = source.ends(r"SAE-Res-(Qwen[\w.-]+?)-W(\d+)K-L0_(\d+)")
    if not said:
        raise UserError(
            f"{path}: k stands only in the repository's name, SAE-Res-MODEL-W32K-L0_50; "
            "put the file straight into a folder of that name"
        )
    k, w = int(said[3]), take(path, found, FOUR, of="a Qwen Scope SAE")
    w["W_enc"], w["W_dec"] = transposed(w["W_enc"]), transposed(w["W_dec"])
    F = w["b_enc"].numel()
    if not 0 < k <= F:
        raise UserError(f"{path}: {said[0]} says k = {k} of {F} features")
    sae, folded = normal_form(path, w, TopK(k, weigh_by_norm=False))
    layer = _FILE.fullmatch(path.name)
    notes: tuple[str, ...] = ("W_enc and W_dec are turned: [F, D] and [D, F] in the file",)
    if int(said[2]) * 1024 != F:
        notes += (f"the name says {said[2]}K features, the weights have {F:,}",)
    return Reading(
        sae,
        Origin(
            format="Qwen Scope",
            architecture="topk",
            model=f"Qwen/{said[1]}",
            hook=f"resid_post.{layer[1]}" if layer else None,
            l0=float(k),
            folded=folded,
            notes=notes,
        ),
    )
