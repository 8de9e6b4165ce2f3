"""Peak memory of real processes: as estimated, and the same for a short corpus and a long one."""

import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what is used")


# a process begins with the peak of the one that started it: a small one has to stand between the tests and the command
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code)
"""


def peak(*words: str) -> tuple[float, str]:
    """(bytes at the peak, what was said) of `unmix WORDS`."""
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "unmix.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1]), done.stderr


def sweep(folder: Path, name: str, features: int, steps: int, tokens: int, *more: str) -> tuple[float, str]:
    """A short sweep on the embedded model's first block, in chunks of 8,192 activations of 1,024 bytes."""
    recipe = ["--name", name, "--hook", "resid_post.0", "--features", str(features), "--l1", "1", "2", *more]
    return peak(
        "sweep", "--runs", str(folder), "--train-only", *recipe, "--steps", str(steps),
        "--training.batch_tokens", "1024", "--corpus.max_tokens", str(tokens), "--activations.chunk_sequences", "32",
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "gated"])
def test_a_sweep_needs_what_it_says(tmp_path, architecture):
    used, said = sweep(tmp_path, "run", 16384, 3, 100_000, "--architecture", architecture)
    [(number, unit)] = re.findall(r"about ([\d.]+) (MB|GB) of memory", said)
    assert float(number) * {"MB": 1e6, "GB": 1e9}[unit] == pytest.approx(used, rel=0.3)  # what is said is rounded


def test_a_long_sweep_of_a_long_corpus_needs_no_more_than_a_short_one(tmp_path):
    short, _ = sweep(tmp_path, "short", 512, 16, 100_000)
    long, _ = sweep(tmp_path, "long", 512, 200, 800_000)
    assert long - short < 184 * 1024 * 1024 / 2  # half of what its activations would take


def test_a_harvest_needs_the_same_for_four_shards_and_for_fourteen(tmp_path):
    words = ["harvest", "--hook", "resid_post.0", "--corpus.max_tokens", "400000"]
    peaks = [
        peak(*words, "--out", str(tmp_path / str(shards)), "--tokens", str(shards * 65_536))[0] for shards in (4, 14)
    ]
    assert peaks[1] - peaks[0] < 10 * 65_536 * 512 / 2  # half of what ten shards hold, in bf16


def test_an_evaluation_keeps_no_activations(tmp_path):
    sweep(tmp_path, "run", 512, 3, 300_000)
    words = ["evaluate", str(tmp_path / "run"), "--ce-tokens", "2000", "--tokens"]
    few, many = (peak(*words, str(tokens))[0] for tokens in (20_000, 120_000))
    assert many - few < 100_000 * 1024 / 2


TINY_STEPS = """
import sys, threading, time
from pathlib import Path
import numpy, unmix

steps, used = int(sys.argv[1]), []

def look():
    while True:
        used.append(int(Path("/proc/self/statm").read_text().split()[1]))
        time.sleep(0.25)

rows_RD = numpy.random.default_rng(0).normal(size=(20_000, 8)).astype("float32")
training = {"batch_tokens": 16, "log_every": 1000, "checkpoint_every": steps}
threading.Thread(target=look, daemon=True).start()
unmix.sweep(activations=rows_RD, name="run", features=16, l1=1.0, steps=steps, quiet=True, evaluate=False,
            runs=sys.argv[2], training=training)
print(used[len(used) // 2], max(used[len(used) // 2:]), len(used))
"""


@pytest.mark.slow
def test_tiny_steps_without_number_need_no_more_memory(tmp_path):
    command = [sys.executable, "-c", TINY_STEPS, "20000", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    half_way, most, looks = map(int, done.stdout.split())
    assert looks > 20
    # 1 kB for each step of the second half: a tensor of 512 bytes kept at each took 1.6, and what settles 0.2 to 0.6
    assert (most - half_way) * mmap.PAGESIZE < 10_000 * 1024
