"""A `.pt` file by torch's restricted reader: tensors and plain containers, and nothing that runs.

torch's reader for `weights_only` builds no object but those on a list of its own. A program can add to that list, so it
is emptied for the reading; and what came out is looked through: any type but those named here is refused.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmix.errors import UserError

PLAIN = frozenset(
    {Tensor, nn.Parameter, dict, OrderedDict, list, tuple, str, int, float, bool, bytes, type(None)}
    | {torch.dtype, torch.Size, torch.device}
)
"""What may be in one: exactly these types."""
_DEEPEST = 20


def read_pickle(path: Path) -> dict[str, Any]:
    """Tensors and plain values by name, on the CPU.

    Raises `UserError` if it holds anything else, is damaged or is no dictionary. Nothing in it is run.
    """
    added = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old forms of storage, which are read
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a damaged file leads it to
        raise UserError(_why(path, error)) from None
    finally:
        torch.serialization.add_safe_globals(added)
    _require_plain(path, found, 0)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path} holds no tensors by name; give the file with the SAE's state_dict")
    return dict(found)


def _why(path: Path, error: Exception) -> str:
    cause = " ".join(str(error).split())
    if "weights only" in cause.lower() or "weights_only" in cause:
        named = cause.partition("GLOBAL ")[2].partition(" ")[0]
        called = f" ({named})" if named.isprintable() and 0 < len(named) < 80 else ""
        return (
            f"{path} holds something else than tensors and plain values{called}, or is damaged; it is not opened: "
            "have whoever wrote it save the state_dict alone, or a safetensors file"
        )
    return f"{path} is damaged or cannot be read ({cause[:160] or type(error).__name__}); copy or download it again"


def _require_plain(path: Path, value: Any, depth: int) -> None:
    if type(value) not in PLAIN:
        kind = type(value).__name__
        raise UserError(f"{path} holds a {kind}, which is no tensor and no plain value; it is not opened")
    if depth > _DEEPEST:
        raise UserError(f"{path} is nested more than {_DEEPEST} deep; it is not opened")
    inside = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
    if isinstance(inside, list | tuple):
        for one in inside:
            _require_plain(path, one, depth + 1)
