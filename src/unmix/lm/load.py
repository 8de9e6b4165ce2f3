"""Load a causal language model with `transformers`, and refuse what would be another model than the one that was saved.

Weights come from safetensors or GGUF only, and no code that came with a model is run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.lm import folder, gguf

_BUFFERS = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$|position_ids$")
"""Masks and positions that older versions of `transformers` saved among the weights: they are computed today."""


class Loaded(NamedTuple):
    """What was read."""

    model: Any
    """A `transformers` causal LM, in eval mode, no gradient."""
    tokenizer: Any
    fingerprint: str
    """16 hex digits of SHA-256 over config.json and the weights."""
    note: str
    """What its user should know of how it was read; empty if there is nothing."""


def load(config: ModelConfig) -> Loaded:
    """The model that `config.name` names. Raises as `load_language_model` does."""
    path = folder.find(config.name)
    place, how = _pretrained(config.name, path)
    with gguf.read_once() if "gguf_file" in how else nullcontext():
        return _load(config, path, place, how)


def _load(config: ModelConfig, path: Path | None, place: str, how: dict[str, Any]) -> Loaded:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = config.name
    if path is not None and path.is_file():
        notes = [f"{path.name} holds {gguf.quantisation(path)}: dequantised to {config.dtype}"]
        method = ""
    else:
        found = _configuration(name, path)
        method = _quantisation(found)
        notes = _notes(name, path, found)
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=getattr(torch, config.dtype),
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, and refused there
                **how,
            )
            how.pop("use_safetensors", None)
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **how)
    except Exception as error:  # hub, network, files and architectures each raise their own kinds
        raise _refused(name, path, error, method) from None
    model, report = loaded
    notes += _check_report(name, model, report)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made from nothing but the architecture's name
        raise UserError(f"model.name = {name} has no tokenizer; put its tokenizer.json beside the weights")
    model.eval().requires_grad_(False)
    _fast_gelu(model)
    return Loaded(model, tokenizer, _fingerprint(model, path), "; ".join(notes))


def count_layers(config: ModelConfig) -> int:
    """Blocks of the model that `config.name` names, from its configuration alone. Raises as `load_language_model`."""
    return int(_configuration(config.name, folder.find(config.name)).get_text_config().num_hidden_layers)


@contextmanager
def quiet() -> Iterator[None]:
    """Without `transformers`' own bars and notes; its settings are put back."""
    from transformers.utils import logging

    settings: Any = logging  # untyped
    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()


def _pretrained(name: str, path: Path | None) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is called with."""
    if path is None or path.is_dir():
        return name if path is None else str(path), {"use_safetensors": True}
    gguf.require_readers(path)
    return str(path.parent), {"gguf_file": path.name}


def _configuration(name: str, path: Path | None) -> Any:
    """Its configuration. Raises `UserError` if it cannot be had, or is of another kind of model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    place, how = _pretrained(name, path)
    how.pop("use_safetensors", None)
    try:
        with quiet():
            adapter = path is None and find_adapter_config_file(name)
            found = None if adapter else AutoConfig.from_pretrained(place, trust_remote_code=False, **how)
    except Exception as error:  # as in `load`
        raise _refused(name, path, error) from None
    if found is None:
        raise UserError(f"model.name = {name} is an adapter, or holds one; {folder.merge_remedy(name)}")
    if type(found) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(found, "is_encoder_decoder", False):
        raise UserError(
            f"model.name = {name}: this kind of model ({found.model_type}) is not supported: "
            "unmix reads causal language models, such as gpt2, llama or qwen3"
        )
    return found


def _quantisation(found: Any) -> str:
    """How the weights are quantised (`gptq`, `bitsandbytes` …); empty if they are not."""
    declared = getattr(found, "quantization_config", None)
    if not declared:
        return ""
    fields = declared if isinstance(declared, dict) else vars(declared)
    method = fields.get("quant_method", "an unnamed method")
    return str(getattr(method, "value", method))


def _notes(name: str, path: Path | None, found: Any) -> list[str]:
    """What a configuration and a folder hold that is passed over, or changes what is read."""
    notes = []
    if method := _quantisation(found):
        notes.append(f"{name} is quantised ({method}): the activations are those of the quantised model")
    if code := (getattr(found, "auto_map", None) or {}).get("AutoModelForCausalLM"):
        notes.append(
            f"{name} comes with code of its own ({code}), which is not run: "
            f"it is read as the {found.model_type} of transformers"
        )
    if path is not None and (passed := folder.unread(name, path)):
        notes.append(f"not read: {', '.join(passed)}")
    return notes


def _refused(name: str, path: Path | None, error: Exception, method: str = "") -> UserError:
    """The error of another library as one line, with a remedy of ours."""
    said = str(error)
    if "trust_remote_code" in said:
        return UserError(
            f"model.name = {name} needs custom code, which unmix does not run; "
            "choose a model whose architecture is part of transformers"
        )
    if "gated repo" in said:
        return UserError(f"model.name = {name} is gated: accept its terms on the hub, run `hf auth login`, try again")
    if method:
        return UserError(
            f"cannot load model.name = {name}, which is quantised ({method}); install what that needs, or give the "
            f"unquantised model: {_line(error)}"
        )
    if "above report" in said:  # `transformers` logs a table, which we do not show
        return UserError(
            f"cannot load model.name = {name}: its weights do not fit the architecture in its config.json; "
            "save it again with save_pretrained"
        )
    remedy = "check the name and the network, or give a folder" if path is None else f"check {path}"
    return UserError(f"cannot load model.name = {name}; {remedy}: {_line(error)}")


def _check_report(name: str, model: Any, report: dict[str, Any]) -> list[str]:
    """Notes on weights that belong to no part of the model. Raises `UserError` if some do not fit, are absent, or
    belong to a part of it that has no place for them: `transformers` fills or drops these, and only logs it."""
    again = "correct config.json, or save the model again with save_pretrained"
    if report["mismatched_keys"]:
        first = sorted(report["mismatched_keys"])[0]  # before transformers 5 a name, without the shapes
        key, held = (first, "of another shape") if isinstance(first, str) else (first[0], _shape(first[1]))
        wanted = _shape(model.state_dict()[key].shape)
        raise UserError(f"model.name = {name}: {key} is {held} in the weights and {wanted} by config.json; {again}")
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"model.name = {name} lacks {len(missing)} weights of its architecture, such as {missing[0]}; {again}"
        )
    surplus = sorted(key for key in report["unexpected_keys"] if not _BUFFERS.search(key))
    if lora := [key for key in surplus if "lora" in key.lower()]:
        raise UserError(
            f"model.name = {name} holds {len(lora)} weights of an adapter, such as {lora[0]}, which would not be read; "
            "merge it with peft's merge_and_unload, and give what save_pretrained then writes"
        )
    if inside := [key for key in surplus if _within(model, key)]:
        raise UserError(
            f"model.name = {name} holds {len(inside)} weights that {type(model).__name__} has no place for, such as "
            f"{inside[0]}: it would not be the model that was saved; {again}"
        )
    return [f"{len(surplus)} weights outside the language model are not read, such as {surplus[0]}"] if surplus else []


def _within(model: Any, key: str) -> bool:
    """Whether a weight belongs to the list of blocks (to one of them, or one more), or to another module that has
    weights of its own."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    parts = key.split(".")[:-1]
    around = [modules[path] for n in range(len(parts), 0, -1) if (path := ".".join(parts[:n])) in modules]
    if not around:
        return False
    weighs = next(around[0].parameters(recurse=False), None) is not None
    return weighs or any(isinstance(module, nn.ModuleList) for module in around)


def _shape(shape: Any) -> str:
    return " × ".join(str(n) for n in shape)


def _fast_gelu(model: Any) -> None:
    """GPT-2's approximate GELU as one pass: the same function, written there as eight."""
    from transformers.activations import NewGELUActivation

    for module in model.modules():
        if isinstance(module, NewGELUActivation):
            vars(module)["forward"] = partial(nn.functional.gelu, approximate="tanh")


def _fingerprint(model: Any, path: Path | None) -> str:
    digest = hashlib.sha256()
    if path is not None:
        for file_path in [path] if path.is_file() else [path / "config.json", *sorted(path.glob("*.safetensors"))]:
            with file_path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    else:
        digest.update(model.config.to_json_string().encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
