"""Where a model's weights are on this machine: the embedded model, one that was fetched, a folder, a GGUF file.

`transformers` passes over whatever in a folder it does not look for. An adapter, a second set of weights or a shard
that its index does not name would go unread in silence; here they are refused, or named.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from unmix.disk import at_home
from unmix.errors import UserError
from unmix.lm import fetch

EMBEDDED = Path(__file__).parent / "embedded"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"(shard-\d+-)?model-\d+-of-\d+\.safetensors")
_ADAPTER = re.compile(r"adapter_config\.json|(.+[._-])?(adapters?|lora)([._-].+)?\.(safetensors|bin|pt|pth)", re.I)
_PICKLED = (".bin", ".pt", ".pth")


def find(name: str) -> Path | None:
    """The folder or GGUF file that the name means, checked; none if it is a name on the hub.

    Raises `UserError`: nothing there, no model, an adapter, weights that are pickled, cut, or there twice.
    """
    path = EMBEDDED if name == "embedded" else at_home(Path(name))
    if name in fetch.MODELS and not path.exists():
        return fetch.fetched(name)
    if not path.exists():
        if name == "embedded":
            raise UserError("this copy of unmix has no embedded model; set model.name to a folder or a hub name")
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix == ".gguf":
            raise UserError(f"model.name = {name}: no such {'file' if path.suffix == '.gguf' else 'folder'}")
        return None
    if path.is_file():
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            raise UserError(f"model.name = {name} is a file but not GGUF; give a model folder, or a .gguf file")
        return path
    _refuse_adapter(name, path)
    if not (path / "config.json").is_file():
        if alone := sorted(path.glob("*.gguf")):
            raise UserError(f"model.name = {name} is a folder of GGUF files; name one of them: {alone[0]}")
        raise UserError(f"model.name = {name} is not a model folder: it has no config.json")
    for file_path in weights(name, path):
        _check_whole(name, file_path)
    return path


def unread(name: str, folder: Path) -> list[str]:
    """Weights in a folder that are not read, such as `consolidated.safetensors` or `pytorch_model.bin`."""
    read = {path.name for path in weights(name, folder)}
    suffixes = (".safetensors", ".gguf", *_PICKLED)
    return sorted(file.name for file in folder.iterdir() if file.suffix in suffixes and file.name not in read)


def weights(name: str, folder: Path) -> list[Path]:
    """The files that the weights are read from. Raises `UserError` if there are none, or two sets of them."""
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if not there:
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
        what = f"only pickled weights ({pickled[0]}), which are not read" if pickled else "no weights"
        raise UserError(f"model.name = {name} has {what}; give it *.safetensors, as save_pretrained writes them")
    shards = [file for file in there if _SHARD.fullmatch(file)]
    if named := _read(name, folder / "config.json").get("transformers_weights"):
        sets = [str(named)]
    else:
        sets = [file for file in (WHOLE, INDEX) if (folder / file).is_file()]
        if sets != [INDEX]:
            sets += shards[:1]
    if len(sets) > 1:
        raise UserError(
            f"model.name = {name} has two sets of weights, {sets[0]} and {sets[1]}; move one of them to another folder"
        )
    if not sets:
        raise UserError(f"model.name = {name} has weights in {there[0]}, but they are read from {WHOLE}; rename it")
    if sets[0] in shards:
        if sets[0].startswith("shard-"):  # of torch.distributed, which needs no index
            return [folder / file for file in shards]
        raise UserError(
            f"model.name = {name} has shards of weights such as {sets[0]}, but no {INDEX}; "
            "copy it too, or save the model again with save_pretrained"
        )
    if not sets[0].endswith(".index.json"):
        return [folder / sets[0]]
    files = sorted(set(_read(name, folder / sets[0]).get("weight_map", {}).values()))
    if absent := [file for file in files if not (folder / file).is_file()]:
        raise UserError(
            f"model.name = {name} lacks {len(absent)} of {len(files)} shards of its weights, such as {absent[0]}; "
            f"copy it too, it is in {sets[0]}"
        )
    return [folder / file for file in files]


def merge_remedy(name: str) -> str:
    """How a model is made of an adapter and its base."""
    return (
        f"merge it with peft, AutoPeftModelForCausalLM.from_pretrained({name!r}).merge_and_unload()"
        ".save_pretrained(FOLDER), save the base model's tokenizer into FOLDER too, and give FOLDER"
    )


def _refuse_adapter(name: str, folder: Path) -> None:
    """Raises `UserError` if the folder holds an adapter, alone or beside a model."""
    found = sorted(file.name for file in folder.iterdir() if _ADAPTER.fullmatch(file.name))
    if not found:
        return
    if (folder / "config.json").is_file():
        raise UserError(
            f"model.name = {name} has an adapter beside its weights ({', '.join(found)}), which would not be read; "
            "for the base model move it to another folder, for the adapted one merge them with peft's "
            "merge_and_unload and give what save_pretrained then writes"
        )
    base = ""
    if "adapter_config.json" in found:
        base = _read(name, folder / "adapter_config.json").get("base_model_name_or_path") or ""
    raise UserError(f"model.name = {name} is an adapter{base and f' of {base}'}, not a model; {merge_remedy(name)}")


def _check_whole(name: str, path: Path) -> None:
    """Raises `UserError` if a file of weights is cut or damaged; its header is read, no tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"cannot load model.name = {name}: {path.name} is cut or damaged ({error}); copy or download it again"
        ) from None


def _read(name: str, path: Path) -> dict[str, Any]:
    """An object in JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"cannot load model.name = {name}: {path.name} is not JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise UserError(f"cannot load model.name = {name}: {path.name} holds no JSON object; copy it again")
    return found
