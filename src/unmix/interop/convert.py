"""From a file or folder of any library to a folder of ours, of dictionary_learning or of sparsify."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmix.dictionary.files import save_sae
from unmix.disk import flush, writing
from unmix.errors import UserError
from unmix.hooknames import canonical
from unmix.interop import dictionary_learning, sparsify
from unmix.interop.load import read
from unmix.interop.origin import Origin, Reading

LAYOUTS = ("unmix", "dictionary_learning", "sparsify")
"""What can be written."""


def convert(src: Path, dst: Path, *, model: str | None = None, hook: str | None = None, to: str = "unmix") -> Reading:
    """Write `dst`: the dictionary of `src`, a `.pt` among others, in the normal form. `model`, `hook`: for theirs.
    `to`: one of `LAYOUTS`.

    Raises `UserError`, and writes nothing, if `src` is not read, or is ours already, or if there is something at `dst`.
    """
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        raise UserError(f"{dst} exists; give a folder that does not, or move it away")
    sae, found = read(src, pickles=True)
    if found.format == to == "unmix":
        raise UserError(f"{src} is a folder of unmix already; `unmix evaluate` and load_sae open it as it is")
    named = replace(found, model=model or found.model, hook=canonical(hook) if hook else found.hook)
    with writing(dst):
        dst.absolute().parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{dst.name}.", dir=dst.absolute().parent))
    try:
        if to == "dictionary_learning":
            dictionary_learning.write(sae, named, beside)
        elif to == "sparsify":
            sparsify.write(sae, named, beside)
        else:
            save_sae(
                sae,
                beside,
                model=named.model,
                hook=named.hook,
                context=named.context,
                more=_facts(named, src, sae.longest),
                hook_out=named.hook_out,
                transcoder=named.transcoder,
            )
        with writing(dst):
            beside.chmod(0o755)  # a temporary folder is its owner's alone
            beside.replace(dst)
            flush(dst.absolute().parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Reading(sae, named)


def _facts(origin: Origin, src: Path, longest: float | None) -> dict[str, Any]:
    """What the metadata says beyond the usual: of the training, and of what was converted."""
    facts: dict[str, Any] = {}
    if origin.prepend_bos is not None:
        facts["prepend_bos"] = origin.prepend_bos
    if origin.without_special:
        facts["exclude_special_tokens"] = True
    if origin.processed:
        facts["model_from_pretrained_kwargs"] = dict.fromkeys(origin.processed, True)
    if longest is not None:
        facts["mask"] = {"longer_than": longest}
    claims = {"l0": origin.l0, "explained_variance": origin.explained_variance}
    return (
        facts
        | {name: value for name, value in claims.items() if value is not None}
        | {
            "converted_from": {
                "format": origin.format,
                "version": origin.version,
                "architecture": origin.architecture,
                "name": src.absolute().name,
                "folded": list(origin.folded),
                "notes": list(origin.notes),
            }
        }
    )
