"""A dictionary from a file or folder of any library that is known here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unmix.devices import resolve
from unmix.dictionary.files import CONFIG, WEIGHTS
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.hooknames import canonical
from unmix.interop import (
    bussmann,
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    linear,
    openai,
    openmoss,
    qwen_scope,
    releases,
    saelens,
    sparsify,
)
from unmix.interop.hub import folder_of, place_on_the_hub
from unmix.interop.origin import Origin, Reading
from unmix.interop.source import PICKLED, Source
from unmix.interop.tensors import FLOATS, listed
from unmix.runlog import newest_checkpoints, read_choices


class Format(NamedTuple):
    """How a library's files are recognised by their names, and read."""

    what: str
    """For people: `an SAE of Gemma Scope (params.npz)`."""
    is_here: Callable[[Source], bool]
    read: Callable[[Source], Reading]


FORMATS = (
    Format("an SAE of SAELens or unmix", saelens.is_here, saelens.read),
    Format("an SAE of sparsify (cfg.json and sae.safetensors)", sparsify.is_here, sparsify.read),
    Format("an SAE of Llama Scope (hyperparams.json)", openmoss.is_llama_scope, openmoss.read_llama_scope),
    Format("an SAE of Language-Model-SAEs (OpenMOSS)", openmoss.is_openmoss, openmoss.read_openmoss),
    Format("an SAE of Gemma Scope (params.npz)", gemma_scope.is_first, gemma_scope.read_first),
    Format("an SAE of Gemma Scope 2 (params.safetensors)", gemma_scope.is_second, gemma_scope.read_second),
    Format("an SAE of dictionary_learning (ae.pt)", dictionary_learning.is_here, dictionary_learning.read),
    Format("an SAE of Bart Bussmann's BatchTopK (sae.pt)", bussmann.is_here, bussmann.read),
    Format("transcoders for circuit-tracer (config.yaml)", circuit_tracer.is_here, circuit_tracer.read),
)
"""In the order in which they are looked for."""
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}


def load_sae(
    path: str | Path,
    subfolder: str | None = None,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Dictionary:
    """The dictionary there, in the normal form, without gradients: raw x [..., D] in, raw ŷ [..., E] out.

    It is on the CPU and in float32 unless `device` and `dtype` say otherwise (`"cuda"`, `"bfloat16"`). `cfg` has what
    its files say of it, and of a run what that measured.

    A run (its choice, newest checkpoint), a member, a checkpoint; a folder of another library, or one file of a set;
    or `OWNER/REPO` on the hub with the folder in it, or a release of SAELens with an id (`hub.folder_of`). With
    `hook_z` the last dimension is that of all heads side by side, [..., heads · width of a head].

    Raises `UserError` if it is not one that this version reads; nothing that changes the function is passed over. And
    if there is no such device or dtype, or its weights are too large for it.
    """
    to, kind = None if device is None else resolve(str(device)), _dtype(dtype)
    found = _read_here(newest(folder_of(path, subfolder, revision)), False)
    if kind is not None:
        _require_room(found.dictionary, kind)
    sae = found.dictionary.requires_grad_(False).to(device=to, dtype=kind)
    sae.cfg = found.origin
    return sae


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Raises `UserError` for one that weights cannot be in."""
    if dtype is None:
        return None
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UserError(f"dtype = {dtype!s:.60} is none that a dictionary can be in; give one of {', '.join(DTYPES)}")
    return found


def _require_room(sae: Dictionary, dtype: torch.dtype) -> None:
    """Raises `UserError` if a weight would become infinite; an infinite threshold means what a large one does: off."""
    most = torch.finfo(dtype).max
    for name, weight in sae.weights.items():
        if name != "threshold" and (largest := weight.abs().max().item()) > most:
            raise UserError(
                f"{name} goes up to {largest:.3g}, which dtype = {str(dtype).removeprefix('torch.')} cannot hold; "
                "give bfloat16 or float32"
            )


def newest(folder: Path) -> Path:
    """Of a run the newest checkpoint of its choice, of a member its newest; any other folder as it is.

    Raises `UserError` for a run that has not chosen one member.
    """
    if (folder / "run.yaml").exists():
        there = newest_checkpoints(folder)
        chosen = [str(choice["member"]) for choice in read_choices(folder) if choice.get("member")]
        if len(chosen) != 1:
            why = "chose several" if chosen else "has no choice"
            some = folder / "members" / (chosen or [*there, "NAME"])[0]
            raise UserError(f"{folder} {why}; give a member, such as {some}")
        name = f"{chosen[0]}-extended" if f"{chosen[0]}-extended" in there else chosen[0]
        if name not in there:
            raise UserError(f"{folder} has no checkpoint of its choice, {name}; train it with `unmix sweep`")
        return there[name]
    if folder.is_dir() and not (folder / CONFIG).exists():
        steps = sorted(path.parent for path in folder.glob(f"step-?????????/{CONFIG}"))
        return steps[-1] if steps else folder
    return folder


def read(path: str | Path, *, pickles: bool = False) -> Reading:
    """The dictionary, and what its files say of it. `pickles`: `.pt` files are read too, and nothing in them is run.

    Raises `UserError` as `load_sae`.
    """
    return _read_here(folder_of(path, pickles=pickles), pickles)


def _read_here(path: Path, pickles: bool) -> Reading:
    sae, origin = _read_files(path, pickles)
    place = place_on_the_hub(path)
    return Reading(sae, origin if place is None else _by_the_table(origin, releases.said_of(*place)))


def _by_the_table(origin: Origin, said: dict[str, Any]) -> Origin:
    """With what SAELens' table says of the training, which comes before what the files say, as in SAELens."""
    kwargs = said.get("model_from_pretrained_kwargs") or {}
    return replace(
        origin,
        model=said.get("model_name", origin.model),
        hook=canonical(said["hook_name"]) if "hook_name" in said else origin.hook,
        processed=tuple(key for key in saelens.PROCESSED if kwargs.get(key, key in origin.processed)),
    )


def _read_files(path: Path, pickles: bool) -> Reading:
    source = _source(path, pickles)
    for form in FORMATS:
        if form.is_here(source):
            # what is usual here needs no more than the paths in its messages
            return form.read(source) if form is FORMATS[0] else _read(form.what, form.read, source)
    pickled = sorted(name for name in source.names if name.endswith(PICKLED)) if source.file is None else []
    if source.file is not None and source.file.endswith(PICKLED):
        return _read_pickled(source, source.file)
    if len(pickled) == 1:
        return _read_pickled(source, pickled[0])
    raise UserError(_unknown(source, pickled))


def recognise(path: str | Path) -> str | None:
    """What the files there are by their names, `an SAE of Gemma Scope (params.npz)`. None: nothing that is known."""
    path = Path(path)
    if not path.exists():
        return None
    source = _source(path, False)
    found = next((form.what for form in FORMATS if form.is_here(source)), None)
    pickles = [source.file] if source.file is not None else sorted(source.names)
    return found or next((f"a pickle ({name})" for name in pickles if name.endswith(PICKLED)), None)


def _read(what: str, reader: Callable[[Source], Reading], source: Source) -> Reading:
    try:
        return reader(source)
    except UserError as error:
        raise UserError(f"it looks like {what}: {error}") from None


def _read_pickled(source: Source, name: str) -> Reading:
    """A lone `.pt`: what it is, its tensors say."""
    path, found = source.folder / name, source.tensors(name)
    if openai.is_here(found):
        return _read("an SAE of OpenAI's sparse_autoencoder", lambda s: openai.read(s, path, found), source)
    if qwen_scope.is_here(path, found):
        return _read("an SAE of Qwen Scope", lambda s: qwen_scope.read(s, path, found), source)
    if kind := linear.kind_of(found):
        return _read(f"an SAE of {kind}", lambda s: linear.read(s, path, found), source)
    beside = "" if "config.json" in source.names else "; dictionary_learning's ae.pt needs its config.json beside it"
    raise UserError(f"{path} holds {listed(found)}, which is no layout that this version knows{beside}")


def _source(path: Path, pickles: bool) -> Source:
    wanted = f"the folder that holds {CONFIG} and {WEIGHTS}"
    if not path.exists():
        raise UserError(f"there is no folder {path}; give {wanted}, or OWNER/REPO/FOLDER for one on the hub")
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    try:
        names = frozenset(one.name for one in folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder} ({error.strerror}); make it readable") from None
    return Source(folder, names, file, pickles)


def _in(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing if it may not be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def one_inside(folder: Path) -> Path | None:
    """The first dictionary below a folder that is none, nearest first, three levels down at most."""
    level = [folder] if folder.is_dir() else []
    for _ in range(3):
        level = [inside for above in level for inside in _in(above) if inside.is_dir()]
        for inside in level:
            within = Source(inside, frozenset(one.name for one in _in(inside)))
            if any(form.is_here(within) for form in FORMATS):
                return inside
    return None


def _unknown(source: Source, pickled: list[str]) -> str:
    """What stands there instead of a dictionary, and what to give."""
    folder, names = source.folder, source.names
    wanted = f"the folder that holds {CONFIG} and {WEIGHTS}"
    if one := next(filter(circuit_tracer.is_layer, sorted(names) if source.file is None else [source.file]), None):
        return (
            f"{folder / one} is called as a transcoder for circuit-tracer, and no {circuit_tracer.CONFIG} lies beside "
            "it; write one with model_name, model_kind: transcoder_set, feature_input_hook and feature_output_hook"
        )
    if source.file is not None:
        return f"{folder / source.file} is a file; give {wanted}"
    if "conf.yaml" in names and "latest_ckpt.safetensors" in names:
        return f"{folder} holds a temporal SAE, which reads a whole sequence; a dictionary reads one token"
    if pickled:
        return f"{folder} holds {len(pickled)} pickles; give one of them, such as {folder / pickled[0]}"
    missing = [name for name in (CONFIG, WEIGHTS) if name not in names]
    lacks = f"{folder} is no SAELens folder: it has no {' and no '.join(missing)}"
    if "run.yaml" in names:
        return f"{lacks}; it is an unmix run: give one of its checkpoints, members/NAME/step-000001000"
    if inside := one_inside(folder):
        return f"{lacks}; give a folder inside it that is one, such as {inside}"
    some = ", ".join(sorted(names)[:6]) + (", …" if len(names) > 6 else "")
    return f"{lacks}; give one that has them (this one holds {some or 'nothing'})"
