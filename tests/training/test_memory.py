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


def sweep(folder: Path, name: str, features: int, steps: int, tokens: int) -> tuple[float, str]:
    """A short sweep on the embedded model's first block, in chunks of 8,192 activations of 1,024 bytes."""
    recipe = ["--name", name, "--hook", "resid_post.0", "--features", str(features), "--l1", "1", "2"]
    return peak(
        "sweep", "--runs", str(folder), "--train-only", *recipe, "--steps", str(steps),
        "--training.batch_tokens", "1024", "--corpus.max_tokens", str(tokens), "--activations.chunk_sequences", "32",
    )  # fmt: skip


def test_a_sweep_needs_what_it_says(tmp_path):
    used, said = sweep(tmp_path, "run", 16384, 3, 100_000)
    [(number, unit)] = re.findall(r"about ([\d.]+) (MB|GB) of memory", said)
    assert float(number) * {"MB": 1e6, "GB": 1e9}[unit] == pytest.approx(used, rel=0.25)


def test_a_long_sweep_of_a_long_corpus_needs_no_more_than_a_short_one(tmp_path):
    short, _ = sweep(tmp_path, "short", 512, 16, 100_000)
    long, _ = sweep(tmp_path, "long", 512, 200, 800_000)
    assert long - short < 184 * 1024 * 1024 / 2  # half of what its activations would take


def test_a_harvest_needs_the_same_for_two_shards_and_for_six(tmp_path):
    words = ["harvest", "--hook", "resid_post.0", "--corpus.max_tokens", "400000"]
    peaks = [
        peak(*words, "--out", str(tmp_path / str(shards)), "--tokens", str(shards * 65_536))[0] for shards in (2, 6)
    ]
    assert peaks[1] - peaks[0] < 4 * 65_536 * 1024 / 2


def test_an_evaluation_keeps_no_activations(tmp_path):
    sweep(tmp_path, "run", 512, 3, 500_000)
    words = ["evaluate", str(tmp_path / "run"), "--ce-tokens", "2000", "--tokens"]
    few, many = (peak(*words, str(tokens))[0] for tokens in (60_000, 400_000))
    assert many - few < 340_000 * 1024 / 2
