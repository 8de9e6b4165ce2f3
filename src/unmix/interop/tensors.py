"""Tensors by name from a file: safetensors, numpy's `.npz`, and, where the user asked for it, torch's `.pt`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from unmix.errors import UserError
from unmix.interop.keys import AGAIN

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All of them. Raises `UserError` if the file is damaged."""
    try:
        found: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged or cannot be read ({_brief(error)}); {AGAIN}") from None
    return found


def read_npz(path: Path) -> dict[str, Tensor]:
    """All of them; nothing is unpickled. Raises `UserError` if the file is damaged or holds something else."""
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise ValueError("it is no archive of arrays")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                return {name: _from_numpy(file[name]) for name in file.files}
    except (
        OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, MemoryError, OverflowError, AttributeError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise UserError(f"{path} is damaged or cannot be read ({_brief(error)}); {AGAIN}") from None


def _from_numpy(array: Any) -> Tensor:
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def take(
    path: Path,
    found: Mapping[str, Any],
    wanted: Iterable[str],
    *,
    optional: Iterable[str] = (),
    ignored: Iterable[str] = (),
    of: str,
) -> dict[str, Tensor]:
    """Those that are wanted, as finite float32. `of`: what has them, for the message.

    Raises `UserError` where one is missing, unknown, not finite or not floating-point.
    """
    wanted, optional = list(wanted), list(optional)
    if missing := [name for name in wanted if name not in found]:
        raise UserError(f"{path} lacks {', '.join(missing)}; it holds {listed(found)}")
    if extra := sorted(found.keys() - {*wanted, *optional, *ignored}):
        raise UserError(
            f"{path} holds {listed(extra)}, which {of} does not have: it is an SAE of another "
            "kind, or damaged; open it with the library that wrote it"
        )
    taken = {}
    for name in [*wanted, *(name for name in optional if name in found)]:
        tensor = found[name]
        if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.") if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UserError(f"{path}: {name} is {kind}; save it as float32")
        taken[name] = tensor.float()
        if bad := int((~taken[name].isfinite()).sum()):
            raise UserError(f"{path}: {bad:,} values of {name} are NaN or infinite; take another checkpoint")
    return taken


def scalar(path: Path, name: str, found: Mapping[str, Any]) -> float:
    """The only value of a tensor, in its own precision. Raises `UserError` if there is none, or more, or no number."""
    value = found.get(name)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise UserError(f"{path}: {name} is no finite number; {AGAIN}")
    return float(value)


def listed(names: Iterable[str]) -> str:
    """`W_dec, W_enc, b_dec`, cut short and on one line."""
    words = [name if name.isprintable() and len(name) <= 60 else repr(name[:60]) for name in sorted(map(str, names))]
    return ", ".join(words[:12]) + (", …" if len(words) > 12 else "") if words else "nothing"


def transposed(tensor: Tensor) -> Tensor:
    """[F, D] -> [D, F]; what has not two dimensions stays, and is refused for its shape."""
    return tensor.T if tensor.ndim == 2 else tensor
