"""Peak memory of real processes: as foretold, and the same for a short corpus and a long one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what is used")


def peak(*words: str) -> tuple[float, str]:
    """(bytes at the peak, what was said) of `unmix WORDS`."""
    command = [sys.executable, "-m", "unmix.cli", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return usage.ru_maxrss * 1024, said


def sweep(folder: Path, name: str, features: int, tokens: int) -> tuple[float, str]:
    """Three steps of a sweep on the embedded model."""
    recipe = ["--name", name, "--hook", "resid_post.0", "--features", str(features), "--l1", "1", "2", "--steps", "3"]
    return peak(
        "sweep", "--runs", str(folder), "--train-only", *recipe,
        "--training.batch_tokens", "1024", "--corpus.max_tokens", str(tokens),
    )  # fmt: skip


def test_a_sweep_needs_what_it_says_whatever_the_length_of_the_corpus(tmp_path):
    peaks = []
    for tokens in (100_000, 800_000):
        used, said = sweep(tmp_path, f"of-{tokens}", 16384, tokens)
        [(number, unit)] = re.findall(r"about ([\d.]+) (MB|GB) of memory", said)
        assert float(number) * {"MB": 1e6, "GB": 1e9}[unit] == pytest.approx(used, rel=0.25)
        peaks.append(used)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.2)


def test_an_evaluation_keeps_no_activations(tmp_path):
    sweep(tmp_path, "run", 512, 100_000)
    words = ["evaluate", str(tmp_path / "run"), "--ce-tokens", "2000", "--tokens"]
    few, many = (peak(*words, str(tokens))[0] for tokens in (40_000, 120_000))
    # by norm, a few numbers of each of the first 200,000 tokens are kept; an activation has 1,024 bytes
    assert many - few < 80_000 * 2 * 750


def test_a_harvest_needs_the_same_for_two_shards_and_for_six(tmp_path):
    words = ["harvest", "--hook", "resid_post.0", "--corpus.max_tokens", "400000"]
    peaks = [
        peak(*words, "--out", str(tmp_path / str(shards)), "--tokens", str(shards * 65_536))[0] for shards in (2, 6)
    ]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.2)
