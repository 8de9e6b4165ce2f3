"""Ctrl-C once saves and leaves; twice leaves at once. Real processes, real signals, steps that take their time."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tiny_run import make

from unmix import config
from unmix.cli import main
from unmix.runlog import read_metrics
from unmix.verify import verify

SLOW_STEPS = """
import sys, time
from unmix.cli import main
from unmix.training.member import Member
update = Member.update
def slowly(self, batch, step, lr, l1):
    if step >= 20:
        print("in step", step, flush=True)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            time.sleep(0.01)
    return update(self, batch, step, lr, l1)
Member.update = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def started(overrides, tmp_path):
    """A sweep that has a checkpoint of step 15 and stands in step 20; how to start it again, unhindered."""
    path = tmp_path / "tiny.yaml"
    recipe = make(overrides, training__l1=[3.0], training__checkpoint_every=15, training__steps=30)
    path.write_text(yaml.safe_dump(config.dump(recipe)))
    words = ["sweep", str(path), "--train-only", "--runs", str(tmp_path / "runs")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STEPS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in step 20\n", process.communicate()[1]
    yield process, words, tmp_path / "runs" / "tiny"
    process.kill()
    process.communicate()


def checkpoints(folder):
    return sorted(path.name for path in (folder / "members/l1-3").iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_finishes_the_step_and_saves(started, number, status):
    process, words, folder = started
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert "stopping after this step; press Ctrl-C again to quit at once" in error
    assert "stopped at step 21, saved; the same command resumes it" in error
    assert checkpoints(folder) == ["step-000000015", "step-000000021"]
    assert main(words) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_leave_at_once_and_the_last_checkpoint_is_whole(started, number):
    process, words, folder = started
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().endswith("unmix: interrupted")
    assert "Traceback" not in error
    assert checkpoints(folder) == ["step-000000015"]  # the step was not finished
    assert main(words) == 0
    assert verify(folder).problems == []
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [7, 14, 21, 28, 30]


def test_the_lock_of_a_killed_process_is_not_left_behind(started, capsys):
    process, words, folder = started
    assert main(words) == 2
    assert "another process is training in" in capsys.readouterr().err
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert main(words) == 0
    assert verify(folder).problems == []
