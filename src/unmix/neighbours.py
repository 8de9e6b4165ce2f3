"""Other programs on the processors, and how this one's threads wait for each other.

A step is hundreds of short pieces that all threads take part in. With a processor for each, a thread is best left
spinning between them. Where threads have to share, one that spins uses up the time that the one it waits for needs
(docs/speed.md has figures). Which they do is decided by OpenMP when torch is loaded, and not changed after that.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Any of them says how threads wait."""
STAT = Path("/proc/stat")
LOOK = 0.1  # seconds
AT_LEAST = 5.0  # seconds, over which a remark is made


def processors() -> set[int]:
    """Those that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


class Neighbours:
    """Looks at what the processors do."""

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._said = False
        self._before = self._look()

    def busy(self) -> float:
        """How many of these processors' worth of work other programs did since the last call.

        Where the system does not count the time of each processor (not Linux): how many processes wanted one over the
        last minute, this one's among them; 0 where it does not say that either.
        """
        before, self._before = self._before, self._look()
        if before is None or self._before is None:
            return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        worked, had, own = (after - then for after, then in zip(self._before, before, strict=True))
        return max(0.0, worked - own) / max(had, 0.01)

    def remark(self) -> str:
        """That the threads would be faster asleep, once; nothing where they sleep, or have the processors."""
        if self._said or set(WAITING) & set(os.environ) or self._before is None:
            return ""
        now = self._look()
        if now is None or now[1] - self._before[1] < AT_LEAST:
            return ""
        others = self.busy()
        self._said = crowded(others)
        return (
            f"warning: {_kept_busy(others)}, and threads that spin while they wait are slow beside them; stop here "
            "(Ctrl-C) and give the same command again, and they sleep (from Python: OMP_WAIT_POLICY=PASSIVE, before "
            "torch is imported)"
            if self._said
            else ""
        )

    def _look(self) -> tuple[float, float, float] | None:
        """Seconds that these processors have worked, all together; that each had; and that this process took."""
        try:
            lines = [line.split() for line in self._stat.read_text().splitlines() if line.startswith("cpu")]
        except OSError:
            return None
        own = processors()
        ticks = [list(map(int, line[1:9])) for line in lines if line[0] != "cpu" and int(line[0][3:]) in own]
        if not ticks:
            return None
        idle, iowait, a_second = 3, 4, os.sysconf("SC_CLK_TCK")  # proc(5)
        worked = sum(sum(of) - of[idle] - of[iowait] for of in ticks)
        return worked / a_second, sum(map(sum, ticks)) / len(ticks) / a_second, time.process_time()


def crowded(others: float) -> bool:
    """Whether other programs that keep so many processors busy leave too few for this one's threads."""
    there = len(processors())
    try:
        threads = min(there, int(os.environ.get("OMP_NUM_THREADS", there)))
    except ValueError:  # a list, of nested levels
        threads = there
    return threads > 1 and others + threads > there + 0.5


def yield_where_busy() -> None:
    """Have threads that wait sleep, if others leave too few processors for them; a tenth of a second tells.

    Nothing is done once torch is loaded, or if the user has decided.
    """
    if "torch" in sys.modules or set(WAITING) & set(os.environ):
        return
    neighbours = Neighbours()
    time.sleep(LOOK)
    others = neighbours.busy()
    if crowded(others):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        print(
            f"{_kept_busy(others)}: threads that wait will sleep (OMP_WAIT_POLICY=PASSIVE), which is faster than "
            "spinning where processors are shared",
            file=sys.stderr,
            flush=True,
        )


def _kept_busy(others: float) -> str:
    there = len(processors())
    return f"other programs keep {min(others, there):.1f} of {there} processors busy"
