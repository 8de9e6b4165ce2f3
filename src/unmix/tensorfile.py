"""Tensors on disk, in safetensors: written whole, renamed into place, never pickled."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors.torch
from torch import Tensor


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write beside the target, flush to disk, rename: a reader sees the old file or the new one."""
    new = path.with_name(path.name + ".new")
    safetensors.torch.save_file({name: t.detach().contiguous() for name, t in tensors.items()}, new, metadata)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)
