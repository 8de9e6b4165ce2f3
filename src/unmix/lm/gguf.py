"""Models in one GGUF file: weights, tokenizer and configuration, read by `transformers` and dequantised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
def without_bar() -> Iterator[None]:
    """Without the bar that `transformers` draws while it dequantises, which no setting of its own turns off."""
    from transformers import modeling_gguf_pytorch_utils

    reader: Any = modeling_gguf_pytorch_utils
    bar = reader.tqdm
    reader.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        reader.tqdm = bar


def quantisation(path: Path) -> str:
    """`211 tensors Q4_1, 61 F32`: how the weights are stored."""
    from gguf import GGUFReader

    counts = Counter(tensor.tensor_type.name for tensor in GGUFReader(path).tensors)
    (first, many), *others = counts.most_common()
    return ", ".join([f"{many} tensors {first}", *(f"{n} {kind}" for kind, n in others)])
