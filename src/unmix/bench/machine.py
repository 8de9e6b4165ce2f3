"""Where and with what it ran, and the memory that it took."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numba
import torch

import unmix
from unmix.errors import UserError
from unmix.machine import cpu_name


def about() -> dict[str, Any]:
    """The date, the machine and the versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {
            "cpu": cpu_name(),
            "cores": cores,
            "torch_threads": torch.get_num_threads(),
            "numba_threads": numba.get_num_threads(),
        },
        "versions": {
            "unmix": unmix.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numba": numba.__version__,
        },
    }


def peak_memory() -> int:
    """Bytes of memory that this process had at its peak, libraries included; 0 where the system does not say."""
    try:  # the peak of this program alone: what getrusage gives begins with the peak of the one that started it
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def require_memory(needed: int, what: str) -> None:
    """Raises `UserError` if the machine has less than `needed` bytes."""
    try:
        has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if needed > has:
        raise UserError(
            f"{what} needs {needed / 1e9:,.1f} GB of memory, this machine has {has / 1e9:,.1f} GB; give less"
        )
