"""What the system says of this machine and this process, and how the process keeps its memory."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


def cpu_name() -> str:
    """What the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def resident() -> int:
    """Bytes of memory this process has now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def held() -> int:
    """Bytes that the process has; what was freed before, by a training for instance, goes back to the system first."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return resident()


def keep_freed_memory() -> None:
    """Have the C library keep memory that was freed, for what is allocated next.

    A batch, or what a layer of the language model makes, is megabytes. By default glibc may give such a block back to
    the system when it is freed; then each page of the next one has to be cleared and mapped again, which may take
    longer than filling it. Which it does depends on the order of allocations, so it differs from process to process.
    With another C library nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # there is none; Windows: there is no such library
        return
    for which in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        mallopt(which, 2**30)
