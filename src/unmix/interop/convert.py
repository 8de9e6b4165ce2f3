"""From files or folders of any library to a folder of ours, of dictionary_learning, sparsify or circuit-tracer.

And an evaluation of ours to SAEBench's results.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmix.dictionary.files import save_sae
from unmix.disk import flush, writing
from unmix.errors import UserError
from unmix.hooknames import canonical, transformer_lens
from unmix.interop import circuit_tracer, dictionary_learning, sparsify
from unmix.interop.load import read
from unmix.interop.origin import Origin, Reading
from unmix.interop.saebench_results import EVALUATION, write_results
from unmix.runlog import read_json

LAYOUTS = ("unmix", "dictionary_learning", "sparsify", "circuit_tracer")
"""What can be written; the last of several dictionaries, by `convert_set`."""
_PLACE = re.compile(r"blocks\.(\d+)\.(.+)")
_IN_BLOCK = re.compile(r"(?!blocks\.)(?:\w+\.)*hook_\w+")
_LAYER = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")
_ADDED = "hook_mlp_out"  # what the MLP adds to the residual stream: where circuit-tracer puts ŷ
_MODULE = "mlp.hook_out"  # what it gives: the same, unless the block has a norm behind it or a factor
_CHANGED = re.compile(r"(?<![a-z])(gemma-?[23](?!b)|olmo-?[23]|exaone-?4|glm-?4|granite|bloom|mpt)", re.I)
"""Models in which it is not (`lm/hooks.py`)."""


def convert(src: Path, dst: Path, *, model: str | None = None, hook: str | None = None, to: str = "unmix") -> Reading:
    """Write `dst`: the dictionary of `src`, a `.pt` among others, in the normal form. `model`, `hook`: for theirs.
    `to`: one of `LAYOUTS` but circuit_tracer.

    Raises `UserError`, and writes nothing, if `src` is not read, or is ours already, or if there is something at `dst`.
    """
    require_free(dst)
    sae, found = read(src, pickles=True)
    if found.format == to == "unmix":
        raise UserError(f"{src} is a folder of unmix already; `unmix evaluate` and load_sae open it as it is")
    named = replace(found, model=model or found.model, hook=canonical(hook) if hook else found.hook)
    with made_whole(dst) as beside:
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
    return Reading(sae, named)


def convert_set(srcs: Sequence[Path], dst: Path, *, model: str | None = None, hook: str | None = None) -> list[Reading]:
    """Write `dst`, a set for circuit-tracer: the transcoders of layer 0, 1 … in order.

    `hook`: where x is read, a place in a block as TransformerLens names it (`mlp.hook_in`), if the files do not say.
    Raises `UserError` as `convert` and `circuit_tracer.write_set`, for an SAE, which is no transcoder, and where the
    files name other layers or places.
    """
    require_free(dst)
    found = [read(src, pickles=True) for src in srcs]
    for L, (src, (_, origin)) in enumerate(zip(srcs, found, strict=True)):
        _require_transcoder_of(L, src, origin)
    if (model := model or next((reading.origin.model for reading in found if reading.origin.model), None)) is None:
        raise UserError(f"{srcs[0]} names no model, which config.yaml has to; give --model NAME")
    if hook is not None and not _IN_BLOCK.fullmatch(hook):
        raise UserError(f"--hook {hook} is no place in a block by TransformerLens' name; give one such as mlp.hook_in")
    place_in = _one({_place(reading.origin.hook) for reading in found})
    if None not in (hook, place_in) and hook != place_in:
        raise UserError(
            f"{srcs[0]} says that x is read at {place_in}, and --hook says {hook}; leave --hook out, or, if the file "
            "is wrong, mend each with `unmix convert SRC DST --hook` first"
        )
    place_in = hook or place_in
    if place_in is None:
        said = found[0].origin.hook or "nothing"
        raise UserError(
            f"{srcs[0]} says {said} of where x is read, and circuit-tracer wants TransformerLens' name in a block; "
            "give --hook, such as mlp.hook_in or ln2.hook_normalized"
        )
    place_out = _one({_place_out(src, reading.origin, model) for src, reading in zip(srcs, found, strict=True)})
    with made_whole(dst) as beside:
        layers = [reading.dictionary for reading in found]
        circuit_tracer.write_set(
            layers, beside, model=model, hook_in=place_in, hook_out=place_out or _ADDED, scan=dst.name
        )
    return found


def _require_transcoder_of(L: int, src: Path, origin: Origin) -> None:
    """Raises `UserError` for an SAE, and where a hook names another layer, by any name that has a number in it."""
    if not origin.transcoder:
        raise UserError(
            f"{src} is an SAE ({origin.hook or 'hook not named'}), which gives its own x back; circuit-tracer puts "
            "transcoders in the place of MLPs: give transcoders"
        )
    for hook in (origin.hook, origin.hook_out):
        layer = _LAYER.search(hook or "")
        if layer is not None and int(layer[1]) != L:
            raise UserError(f"{src} is of layer {layer[1]}, and stands for layer {L}; give all from 0 on, in order")


def _place(hook: str | None) -> str | None:
    """What follows `blocks.L.` in TransformerLens' name; None where it has none."""
    named = _PLACE.fullmatch(transformer_lens(hook)) if hook else None
    return named[2] if named else None


def _place_out(src: Path, origin: Origin, model: str) -> str:
    """Where y is; what the MLP adds, if the file does not say, or says the MLP, which is the same in most models.

    Raises `UserError` in models where it is not, and for a place without such a name.
    """
    if origin.hook_out is None:
        return _ADDED
    place = _place(origin.hook_out)
    if place is None:
        raise UserError(
            f"{src} says that y is at {origin.hook_out}, and circuit-tracer wants TransformerLens' name in a block, "
            f"such as {_ADDED}; `unmix convert` it by itself, and name one as metadata.hook_name_out in its cfg.json"
        )
    if place == _MODULE and _CHANGED.search(model):
        raise UserError(
            f"{src} says that y is at {origin.hook_out}, the MLP itself, and in {model} the block changes that before "
            f"it adds it; circuit-tracer replaces what is added ({_ADDED}), so it cannot use this transcoder"
        )
    return _ADDED if place == _MODULE else place


def _one(places: Set[str | None]) -> str | None:
    """The only one; None where a file names none. Raises `UserError` for several."""
    if None in places:
        return None
    if len(places) > 1:
        raise UserError(
            f"the transcoders are of {', '.join(sorted(map(str, places)))}; circuit-tracer has one place for all layers"
        )
    return next(iter(places))


def convert_evaluation(src: Path, kept: Path, dst: Path) -> list[Path]:
    """Write `dst`: the evaluation.json in `kept`, of the dictionaries of `src`, as SAEBench's results.

    Raises `UserError` if there is none, or a dictionary that it speaks of is not read any more.
    """
    require_free(dst)
    path = kept / EVALUATION
    found = read_json(path)
    if found is None:
        raise UserError(f"there is no {path}; `unmix evaluate {src}` writes it")
    if not isinstance(found.get("hooks"), list) or not isinstance(found.get("checkpoints"), dict):
        raise UserError(f"{path} was not written by this version of unmix; `unmix evaluate {src}` writes it anew")
    names = [name for result in found["hooks"] for name in result["saes"]]
    with made_whole(dst) as beside:
        written = write_results(
            found,
            {name: _evaluated(src, found["checkpoints"], name) for name in names},
            int(path.stat().st_mtime * 1000),
            beside,
        )
    return [dst / one.relative_to(beside) for one in written]


def _evaluated(src: Path, checkpoints: Mapping[str, str], name: str) -> Path:
    """Where a dictionary of an evaluation lies: below `src`, or, of several, where it was evaluated from."""
    if name not in checkpoints:  # `unmix evaluate --debias` keeps them there
        return src / "debiased" / name.removesuffix(", debiased")
    within = src / checkpoints[name] if checkpoints[name] != "." else src
    return within if within.exists() else Path(checkpoints[name])


def require_free(dst: Path) -> None:
    """Raises `UserError` if there is something at `dst` but an empty folder."""
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        raise UserError(f"{dst} exists; give a folder that does not, or move it away")


@contextmanager
def made_whole(dst: Path) -> Iterator[Path]:
    """A folder beside it, which becomes it once all is written, or is gone."""
    with writing(dst):
        dst.absolute().parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{dst.name}.", dir=dst.absolute().parent))
    try:
        yield beside
        with writing(dst):
            beside.chmod(0o755)  # a temporary folder is its owner's alone
            beside.replace(dst)
            flush(dst.absolute().parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _facts(origin: Origin, src: Path, longest: float | None) -> dict[str, Any]:
    """What the metadata says beyond the usual: of the training, and of what was converted."""
    return origin.metadata(longest) | {
        "converted_from": {
            "format": origin.format,
            "version": origin.version,
            "architecture": origin.architecture,
            "name": src.absolute().name,
            "folded": list(origin.folded),
            "notes": list(origin.notes),
        }
    }
