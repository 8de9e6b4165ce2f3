"""Other programs on the processors are seen, and threads that wait are told to sleep beside them."""

import json
import os
import subprocess
import sys

import pytest

from unmix import neighbours
from unmix.neighbours import Neighbours

STAT = """cpu  100 0 0 900 0 0 0 0 0 0
cpu0 {0} 0 {1} 300 7 0 0 0 0 0
cpu1 5 5 5 {2} 0 0 0 0 0 0
cpu9 999 0 0 0 0 0 0 0 0 0
intr 12345
"""


@pytest.fixture
def stat(tmp_path, monkeypatch):
    """Where the ticks of two processors stand; a second has 100."""
    monkeypatch.setattr(neighbours, "processors", lambda: {0, 1})
    monkeypatch.setattr(neighbours.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(neighbours.time, "process_time", lambda: now[0])
    for name in neighbours.WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    now, path = [0.0], tmp_path / "stat"

    def at(first: int, second_idle: int, own: float) -> None:
        now[0] = own
        path.write_text(STAT.format(first, 20, second_idle))

    return path, at


def test_what_others_take_is_of_the_processors_that_this_process_may_use(stat):
    path, at = stat
    at(1000, 5000, own=3.0)
    found = Neighbours(path)
    # ten seconds: the one works for all of them, four for this process, and the other not at all
    at(2000, 6000, own=7.0)
    assert found.busy() == pytest.approx(0.6)
    at(2000, 8000, own=7.0)
    assert found.busy() == 0


def test_where_the_system_does_not_say_it_is_the_load(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours.os, "getloadavg", lambda: (1.5, 9, 9))
    assert Neighbours(tmp_path / "none").busy() == 1.5


def test_a_run_says_once_that_its_threads_would_be_faster_asleep(stat, monkeypatch):
    path, at = stat
    at(0, 0, own=0.0)
    found = Neighbours(path)
    at(600, 600, own=6.0)
    assert found.remark() == ""  # what worked was this process
    at(1000, 1000, own=6.0)
    assert found.remark() == ""  # four seconds are few
    at(1600, 1600, own=6.0)
    assert found.remark().startswith("warning: other programs keep 1.0 of 2 processors busy")
    at(9600, 9600, own=6.0)
    assert found.remark() == ""


def test_nothing_is_said_to_those_who_sleep(stat, monkeypatch):
    path, at = stat
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    at(0, 0, own=0.0)
    found = Neighbours(path)
    at(2000, 2000, own=0.0)
    assert found.remark() == ""


TOLD = """
import json, os, sys
from unmix import neighbours
from unmix.cli import main
neighbours.processors, neighbours.Neighbours.busy = lambda: {0, 1, 2, 3}, lambda self: {others}
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
