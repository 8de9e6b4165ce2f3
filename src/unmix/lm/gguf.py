"""Models in one GGUF file: weights, tokenizer and configuration, read by `transformers` and dequantised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unmix.errors import UserError

_WANTED = ("gguf", "accelerate")


def require_readers(path: Path) -> None:
    """Raises `UserError`, with the remedy, if a package that reading GGUF takes is absent."""
    if missing := [name for name in _WANTED if find_spec(name) is None]:
        raise UserError(f"reading {path.name} needs {' and '.join(missing)}: pip install 'unmix[gguf]'")


@contextmanager
def read_once() -> Iterator[None]:
    """The file is parsed once, however often `transformers` asks for it (its configuration, tokenizer, names and
    weights), each table of names is made once, and no bar is drawn, which no setting of its own turns off."""
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reader

    library: Any = gguf
    parsed = lru_cache(library.GGUFReader)
    with (
        _in_place_of(library, "GGUFReader", lambda path, *more: parsed(str(path), *more)),
        _in_place_of(library, "get_tensor_name_map", lru_cache(library.get_tensor_name_map)),
        _in_place_of(reader, "tqdm", lambda tensors, **_: tensors),
    ):
        yield


@contextmanager
def _in_place_of(owner: Any, name: str, other: Any) -> Iterator[None]:
    own = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, own)


def quantisation(path: Path) -> str:
    """`211 tensors Q4_1, 61 F32`: how the weights are stored.

    Raises `UserError` if the file is cut, or is not a whole model: an adapter, one of several parts, the projector of
    a vision model.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        kind = _value(reader.fields, "general.type", "model")
        parts = int(_value(reader.fields, "split.count", 1))
    except Exception as error:  # a reader of bytes fails in as many ways as bytes can be wrong
        raise UserError(f"cannot load model.name = {path}: it is cut or damaged ({error}); copy it again") from None
    if parts > 1:
        raise UserError(
            f"model.name = {path} is one of {parts} parts of a model; join them with "
            "`llama-gguf-split --merge FIRST_PART WHOLE.gguf`, and give WHOLE.gguf"
        )
    if kind == "adapter":
        raise UserError(
            f"model.name = {path} is an adapter, not a model; merge it with `llama-export-lora -m BASE.gguf "
            "--lora ADAPTER.gguf -o MERGED.gguf`, and give MERGED.gguf"
        )
    if kind != "model":
        raise UserError(f"model.name = {path} is not a language model but of type {kind}; give the model's own file")
    counts = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    if not counts:
        raise UserError(f"model.name = {path} holds no weights; give a model")
    (first, many), *others = counts.most_common()
    return ", ".join([f"{many} tensors {first}", *(f"{n} {kind}" for kind, n in others)])


def _value(fields: dict[str, Any], key: str, default: Any) -> Any:
    return fields[key].contents() if key in fields else default
