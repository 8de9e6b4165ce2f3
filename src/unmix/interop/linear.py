"""Two linear layers in one `.pt`, after `unmix convert`: Goodfire's SAEs, and those of qresearch for DeepSeek-R1.

    f = max(z, 0),   z = x encoder.weightᵀ + encoder.bias;   x̂ = f decoder.weightᵀ + decoder.bias

encoder.weight [F, D], decoder.weight [D, F]; nothing is subtracted or scaled. The layer stands in the name: `…-l19`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmix.dictionary.nonlinearities import Relu
from unmix.interop.normal import normal_form
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source
from unmix.interop.tensors import take, transposed

_ENDS = {"weight": "W", "bias": "b"}


def names(prefix: str) -> dict[str, str]:
    """Its names and ours."""
    return {
        f"{side}{prefix}.{end}": f"{letter}_{side[:3]}"
        for side in ("encoder", "decoder")
        for end, letter in _ENDS.items()
    }


KINDS = {"Goodfire": names("_linear"), "DeepSeek-R1 SAE": names("")}


def kind_of(found: Mapping[str, Any]) -> str | None:
    """Which of the two the tensors are, by their names."""
    return next((kind for kind, named in KINDS.items() if named.keys() == found.keys()), None)


def read(source: Source, path: Path, found: Mapping[str, Any]) -> Reading:
    """One of the two."""
    kind = kind_of(found) or ""
    named = KINDS[kind]
    w = {named[name]: tensor for name, tensor in take(path, found, named, of="a pair of linear layers").items()}
    w["W_enc"], w["W_dec"] = transposed(w["W_enc"]), transposed(w["W_dec"])
    sae, folded = normal_form(path, w, Relu(), called={ours: theirs for theirs, ours in named.items()})
    layer = source.in_path(r"-l(\d+)(?!\d)")
    model = source.in_path(r"((?:Meta-)?Llama-3[\w.-]*?|DeepSeek-R1[\w.-]*?)-SAE")
    return Reading(
        sae,
        Origin(
            format=kind,
            architecture="relu",
            model=model[1] if model else None,
            hook=f"resid_post.{layer[1]}" if layer else None,
            folded=folded,
            notes=("the model and the layer stand only in its name",),
        ),
    )
