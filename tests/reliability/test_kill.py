"""The short mode of the harness; and that its comparison sees what it is there to see."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("kill.py")
KILLS, STEPS = 5, "30"


@pytest.mark.slow
def test_runs_that_were_killed_end_with_the_bits_of_those_that_were_not():
    done = subprocess.run(
        [sys.executable, str(HARNESS), "--kills", str(KILLS), "--seed", "1", "--steps", STEPS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert found["kills"] == sum(found["of"].values()) == KILLS
    assert len(found["of"]) == 4  # every kind had its turn
    assert found["of"]["stream-portable"] + found["of"]["store-portable"] > 0


@pytest.fixture
def homes(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name / "run" / "members" / "m"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(100))
        (tmp_path / name / "run" / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": step, "seconds": hash(name)}) + "\n" for step in range(3))
        )
    return tmp_path / "a", tmp_path / "b"


def test_the_comparison_sees_a_bit_a_line_and_a_file(homes):
    spec = importlib.util.spec_from_file_location("kill", HARNESS)
    kill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill)
    a, b = homes
    assert kill.differences(a, b) == []  # the clock does not count
    (b / "run/members/m/weights").write_bytes(bytes(99) + b"\x01")
    assert kill.differences(a, b) == ["run/members/m/weights differs"]
    path = b / "run/metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[-1])
    (b / "run/left.new").touch()
    assert kill.differences(a, b) == [
        "run/left.new is only in b", "run/members/m/weights differs", "run/metrics.jsonl differs"
    ]  # fmt: skip
