"""Two linear layers in one `.pt`, after `unmix convert`: Goodfire's SAEs, and those of qresearch for DeepSeek-R1.

    f = max(z, 0),   z = x encoder.weightᵀ + encoder.bias;   x̂ = f decoder.weightᵀ + decoder.bias

encoder.weight [F, D], decoder.weight [D, F]; nothing is subtracted or scaled. The model and the layer stand in the
file's name, `DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt`. Goodfire's tensors have names of their own; qresearch's are
those of any two linear layers, with any nonlinearity between, so that only the published name says that it is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmix.dictionary.nonlinearities import Relu
from unmix.errors import UserError
from unmix.interop.normal import normal_form
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import Source
from unmix.interop.tensors import take, transposed

_ENDS = {"weight": "W", "bias": "b"}
_NAME = re.compile(r"([\w.-]+)-SAE-l(\d+)\.pth?")
_MODELS = {"Goodfire": "Llama-3", "DeepSeek-R1 SAE": "DeepSeek-R1"}
"""What the names of their models begin with."""


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
    """One of the two. Raises `UserError` where neither the tensors' names nor the file's say which."""
    kind = kind_of(found) or ""
    named = KINDS[kind]
    said = _NAME.fullmatch(path.name)
    said = said if said and _MODELS[kind] in said[1] else None
    if said is None and kind == "DeepSeek-R1 SAE":
        raise UserError(
            f"{path} holds two linear layers, and does not say what stands between them; if it is one of qresearch's "
            "SAEs for DeepSeek-R1, give it its published name, DeepSeek-R1-…-SAE-l19.pt, else open it with the program "
            "that wrote it"
        )
    w = {named[name]: tensor for name, tensor in take(path, found, named, of="a pair of linear layers").items()}
    w["W_enc"], w["W_dec"] = transposed(w["W_enc"]), transposed(w["W_dec"])
    sae, folded = normal_form(path, w, Relu(), called={ours: theirs for theirs, ours in named.items()})
    return Reading(
        sae,
        Origin(
            format=kind,
            architecture="relu",
            model=said[1] if said else None,
            hook=f"resid_post.{said[2]}" if said else None,
            folded=folded,
            notes=("the model and the layer stand only in its name",),
        ),
    )
