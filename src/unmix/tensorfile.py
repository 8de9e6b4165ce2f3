"""Tensors on disk, in safetensors: written whole, renamed into place, never pickled."""

from __future__ import annotations

import os
import re
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from unmix.disk import replacing


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write, flush, rename: a reader sees the old file or the new one. Raises `UserError` if it cannot be written."""
    with replacing(path) as new:
        try:
            safetensors.torch.save_file({name: t.detach().contiguous() for name, t in tensors.items()}, new, metadata)
        except safetensors.SafetensorError as error:
            raise _what_the_system_said(error) from None


def _what_the_system_said(error: Exception) -> OSError:
    """The library passes it on as text: `I/O error: No space left on device (os error 28)`."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
