"""What the system says of this machine and this process, and how the process keeps its memory."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
import time
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


def processors() -> set[int]:
    """Those that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def taken_by_others(seconds: float = 0.1, stat: Path = Path("/proc/stat")) -> float:
    """How many of these processors' worth of work goes on while this process sleeps for so long.

    Where the system does not count the time of each processor (not Linux): how many processes wanted one over the last
    minute, this one's own among them; 0 where it does not say that either.
    """
    before = _busy(stat)
    if before is None:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    time.sleep(seconds)
    after = _busy(stat) or before
    return sum(after[0][n] - busy for n, busy in before[0].items()) / max(1.0, after[1] - before[1])


def _busy(stat: Path) -> tuple[dict[int, int], float] | None:
    """Ticks that each of these processors has worked, and that each had."""
    try:
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return None
    own = processors()
    ticks = {int(line[0][3:]): [int(n) for n in line[1:9]] for line in lines if line[0] != "cpu"}
    ticks = {n: of for n, of in ticks.items() if n in own}
    if not ticks:
        return None
    idle, iowait = 3, 4  # proc(5)
    busy = {n: sum(of) - of[idle] - of[iowait] for n, of in ticks.items()}
    return busy, sum(map(sum, ticks.values())) / len(ticks)


def yield_where_busy() -> None:
    """Have threads that wait for each other sleep, and not spin, if other programs leave too few processors for them.

    A step is hundreds of short pieces that all threads take part in. With a processor each it is fastest to spin in
    between; where threads have to share, one that spins takes the time that the other needs (docs/speed.md has
    figures). It is decided by OpenMP when torch is loaded; nothing is done after that, or if the user has decided.
    """
    if "torch" in sys.modules or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        return
    there = len(processors())
    try:
        threads = min(there, int(os.environ.get("OMP_NUM_THREADS", there)))
    except ValueError:  # a list, of nested levels
        threads = there
    others = taken_by_others()
    if threads > 1 and others + threads > there + 0.5:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        print(
            f"other programs keep {min(others, there):.1f} of {there} processors busy: threads that wait will sleep "
            "(OMP_WAIT_POLICY=PASSIVE), which is faster than spinning where processors are shared",
            file=sys.stderr,
            flush=True,
        )
