"""Where a run computes: the processor, or an accelerator that torch knows."""

from __future__ import annotations

import re
import time

import torch

from unmix.config.section import DEVICES
from unmix.errors import UserError


def resolve(name: str) -> torch.device:
    """The device of a recipe's `device`; `auto` is the first CUDA device, else the processor.

    Raises `UserError` if the machine, or this build of torch, has none of that kind or number, or it is no device.
    """
    if not re.fullmatch(DEVICES, name):
        raise UserError(f"device = {name} is not a device; give auto, cpu, cuda, cuda:1, mps or xpu")
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    there = _count(device.type)
    if device.type != "cpu" and (device.index or 0) >= there:
        raise UserError(f"device = {name}: {_missing(device.type, there)}; give --device cpu, or auto")
    return torch.device(device.type, device.index or 0) if device.type in ("cuda", "xpu") else device


def free(device: torch.device) -> int | None:
    """Bytes that are free on an accelerator; None where it does not tell, and for the processor.

    On mps, whose memory is the machine's: what tensors leave of as much as Metal recommends to use.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "xpu" and hasattr(torch.xpu, "mem_get_info"):
        try:
            return int(torch.xpu.mem_get_info(device)[0])
        except RuntimeError:  # Intel's integrated GPUs do not support the question (pytorch issue 159728)
            return None
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return None


def at_rest(device: torch.device) -> float:
    """The time at which a device has done what it was given; of the processor, now."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if kind == "xpu":
        return torch.xpu.device_count() if hasattr(torch, "xpu") else 0
    return 1


def _missing(kind: str, there: int) -> str:
    if there:
        return f"this machine has {there} of them, counted from 0"
    if kind == "cuda" and torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f"torch {torch.__version__} is built without CUDA (pytorch.org says how to get one that is)"
    return f"torch {torch.__version__} finds none on this machine"
