import json
import os
import platform
import subprocess
import sys

import pytest

from unmix import machine

FAULTS = """
import resource
import numpy as np
from unmix.machine import keep_freed_memory

if {kept}:
    keep_freed_memory()
for round in range(12):
    if round == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(50_000_000, np.uint8) for _ in range(3)]  # above 32 MB, which glibc always gives back by itself
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
HELD = """
import gc
from unmix.machine import held, keep_freed_memory, resident

keep_freed_memory()
gc.disable()
blocks = [bytes(range(256)) * 256 for _ in range(3000)]  # 64 KB each
blocks.append(blocks)  # a cycle: only the garbage collector frees it
del blocks
print(resident() - held())
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library decides for itself")


@glibc
def test_freed_memory_is_used_again_and_not_mapped_anew():
    def faults(kept: bool) -> int:
        code = FAULTS.format(kept=kept)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert faults(kept=True) < 100
    assert faults(kept=False) > 500  # huge pages, of which there are 24 to a block, count once


@glibc
def test_what_is_held_leaves_out_what_was_freed():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150e6  # of 197 MB


STAT = """cpu  100 0 0 900 0 0 0 0 0 0
cpu0 {0} 0 {1} 300 7 0 0 0 0 0
cpu1 5 5 5 {2} 0 0 0 0 0 0
cpu9 999 0 0 0 0 0 0 0 0 0
intr 12345
"""


def test_what_others_take_is_of_the_processors_that_this_process_may_use(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text(STAT.format(10, 20, 500))
    monkeypatch.setattr(machine, "processors", lambda: {0, 1})
    # ten ticks pass, in which the one works for all of them and the other for none
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: stat.write_text(STAT.format(14, 26, 510)) and None)
    assert machine.taken_by_others(stat=stat) == 1.0


def test_where_the_system_does_not_say_it_is_the_load(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1.5, 9, 9))
    assert machine.taken_by_others(stat=tmp_path / "none") == 1.5


TOLD = """
import json, os, sys
from unmix import machine
from unmix.cli import main
machine.processors, machine.taken_by_others = lambda: {0, 1, 2, 3}, lambda: {others}
{before}
try:
    main({words})
except SystemExit:
    pass
print(json.dumps(os.environ.get("OMP_WAIT_POLICY")))
"""


def policy(others: float, words=("sweep", "no-such-recipe"), before="", **more: str) -> tuple[str | None, str]:
    """What a process has decided on at its end, and what it said."""
    code = TOLD.replace("{others}", str(others)).replace("{words}", str(list(words))).replace("{before}", before)
    spare = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"}
    own = {key: value for key, value in os.environ.items() if key not in spare}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**own, **more}, timeout=120
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_threads_sleep_where_others_leave_too_few_processors():
    found, said = policy(1.5)
    assert found == "PASSIVE"
    assert said.startswith("other programs keep 1.5 of 4 processors busy")


@pytest.mark.parametrize(
    ("others", "more"),
    [
        (0.3, {}),  # a processor for each thread
        (2.0, {"OMP_NUM_THREADS": "2"}),
        (4.0, {"OMP_NUM_THREADS": "1"}),
        (4.0, {"GOMP_SPINCOUNT": "5"}),  # the user has decided
        (4.0, {"before": "import torch"}),  # too late
        (4.0, {"words": ("choose", "no-such-run")}),  # computes nothing
    ],
)
def test_else_nothing_is_changed(others, more):
    found, said = policy(others, **more)
    assert found is None
    assert "processors" not in said


def test_the_policy_is_set_before_torch_is_loaded():
    """Else OpenMP never sees it."""
    code = "import sys; from unmix.cli import main; main(['--version']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
