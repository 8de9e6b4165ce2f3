"""How many sequences go through the model at once, and the memory of real processes: as said before they begin."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_tokenizer
from tiny_run import write_texts
from transformers import GPT2Config, GPT2LMHeadModel

from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.evaluation.memory import BUDGET, MOST_SEQUENCES, PIECE, pieces, sequences_at_once


def test_the_default_batch_stays_within_the_budget():
    for T, vocabulary in [(1024, 50_257), (256, 256_000), (128, 1000), (16, 9)]:
        n = sequences_at_once(T, vocabulary)
        assert 1 <= n <= MOST_SEQUENCES
        assert 8 * n * T * vocabulary <= BUDGET
    assert sequences_at_once(8192, 256_000) == 1  # a single sequence may need more


def test_pieces_are_all_positions_once():
    for positions, vocabulary in [(300, 50_257), (7, 3), (5, PIECE)]:
        found = [list(range(positions))[at] for at in pieces(positions, vocabulary)]
        assert [position for piece in found for position in piece] == list(range(positions))
        assert all(len(piece) == 1 or 4 * len(piece) * vocabulary <= PIECE for piece in found)


# a process begins with the peak of the one that started it: a small one has to stand between the tests and the command
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code)
"""
VOCABULARY, WIDTH = 50_257, 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(a model with a vocabulary as large as GPT-2's, texts, where an SAE may be)."""
    folder = tmp_path_factory.mktemp("large")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
        )
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    write_texts(folder / "texts", 400)
    return folder


def evaluate(folders, features, T, *words):
    """(bytes at the peak, bytes that were said)."""
    name = f"sae-{features}-{T}"
    if not (folders / name).exists():
        save_sae(
            new_dictionary(WIDTH, features, 0.5, 0), folders / name, model="m", hook="resid_post.0", context=T, more={}
        )
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "unmix.cli", "evaluate", str(folders / name)]
    command += ["--model", str(folders / "model"), "--corpus", str(folders / "texts"), *words]
    done = subprocess.run(
        [*command, "--tokens", str(8 * T), "--ce-tokens", str(4 * T)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [(number, unit)] = re.findall(r"about ([\d.]+) (MB|GB) of memory", done.stderr)
    return float(done.stdout.splitlines()[-1]), float(number) * {"MB": 1e6, "GB": 1e9}[unit]


real = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what is used")


@real
@pytest.mark.parametrize(("features", "T", "words"), [(64, 512, []), (60_000, 512, []), (64, 512, ["--batch", "2"])])
def test_an_evaluation_needs_what_it_says(folders, monkeypatch, tmp_path, features, T, words):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    used, said = evaluate(folders, features, T, *words)
    assert said == pytest.approx(used, rel=0.35)
