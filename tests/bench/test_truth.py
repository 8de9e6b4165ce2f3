"""`unmix bench truth` through the command line, in a tiny world."""

import json
from dataclasses import replace

import pytest
import torch

from unmix import load_sae
from unmix.activations.synthetic import Samples
from unmix.activations.synthetic_world import WorldConfig, make_world
from unmix.bench import truth
from unmix.cli import main
from unmix.config import EVERY_TOKEN, SAEConfig, TrainingConfig
from unmix.dictionary.model import new_dictionary
from unmix.training.run import Watch

TINY = truth.Size(
    WorldConfig(features=60, width=16, roots=4, branching=2, depth=2, least_often=0.01, orthogonal_steps=3),
    features=36,
    l0=3,
    tokens=8000,
    batch_tokens=64,
    judged_tokens=2000,
    fitted_tokens=2000,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(truth.SIZES, "small", TINY)
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))


def found(capsys, *words):
    assert main(["bench", "truth", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_architectures_stand_beside_the_truth_and_chance(capsys):
    got = found(capsys, "--architecture", "topk", "matryoshka", "relu", "--l0", 3, 5, "--seed", 0, 2)
    assert got["bench"] == "truth"
    assert got["settings"]["tokens"] == 8000
    assert got["settings"]["judged_tokens"] == 1984  # whole batches
    assert got["settings"]["world"]["features"] == 60
    names = [(row["architecture"], row["l0_asked"], row["seed"]) for row in got["rows"]]
    asked = [(name, l0, seed) for seed in (0, 2) for name in ("topk", "matryoshka", "relu") for l0 in (3, 5)]
    baselines = [(name, None, 0) for name in (truth.READOUT, truth.RANDOM)]
    assert names == [*asked[:6], *baselines, *asked[6:]]
    rows = dict(zip(names, got["rows"], strict=True))
    for row in got["rows"]:
        assert 0 <= row["dead"] <= 1
        assert all(0 <= row[key] <= 1 + 1e-6 for key in ("f1", "precision", "recall", "mcc", "uniqueness"))
        assert row["tokens"] == 1984
    assert rows["topk", 3, 0]["l0"] == pytest.approx(3, abs=0.1)
    assert rows["topk", 3, 0]["f1"] != rows["topk", 3, 2]["f1"]
    best, least = rows[baselines[0]], rows[baselines[1]]
    assert best["mcc"] == pytest.approx(1)
    trained = rows["topk", 3, 0]
    assert least["f1"] < trained["f1"] < best["f1"]
    assert least["mcc"] < trained["mcc"] < best["mcc"]
    assert least["explained_variance"] < trained["explained_variance"]


def test_it_trains_on_as_many_tokens_as_it_says_and_judges_on_others(monkeypatch):
    seen, logged = [], []

    def judge(saes, directions, samples):
        kept = list(samples)
        seen.extend(kept)
        return {name: truth.Scores(*[0.0] * len(truth.Scores._fields)) for name in saes}

    monkeypatch.setattr(truth, "judge", judge)
    options = {"l0": None, "tokens": 3210, "judged_tokens": 300, "features": None, "lr": None, "out": None}
    watch = Watch(rows=lambda rows, steps: logged.extend(rows))
    found = truth.run("small", architectures=["topk"], seeds=[3], watch=watch, **options)
    assert logged[-1]["tokens"] == found["settings"]["tokens"] == 3200
    assert len(seen) == 4
    expected = Samples(make_world(TINY.world), batch_tokens=64, seed=3, split="held_out").truth(0)
    assert torch.equal(seen[0][0], expected[0])


def test_a_seed_is_that_of_the_start_too(capsys, tmp_path):
    out = tmp_path / "kept"
    found(capsys, "--architecture", "topk", "--tokens", 64, "--lr", 1e-12, "--seed", 0, 5, "--out", out)
    for seed in (0, 5):
        start = new_dictionary(16, 36, 1.0, seed).W_dec
        rows = load_sae(out / f"seed-{seed}" / "topk-l0-3").W_dec
        assert (rows / rows.norm(dim=1, keepdim=True)).detach() == pytest.approx(start.detach(), abs=1e-5)


def test_the_same_command_gives_the_same_scores(capsys):
    words = ("--architecture", "batchtopk", "--tokens", 3200, "--seed", 1)
    first, again = found(capsys, *words), found(capsys, *words)
    assert first["rows"] == again["rows"]


def test_a_member_is_the_same_alone_and_in_company(capsys):
    alone = found(capsys, "--architecture", "topk", "--tokens", 3200)
    among = found(capsys, "--architecture", "relu", "topk", "--tokens", 3200)
    assert alone["rows"][0] == among["rows"][1]


def test_dictionaries_and_lines_are_kept(capsys, tmp_path):
    out = tmp_path / "kept"
    got = found(capsys, "--architecture", "topk", "--tokens", 640, "--seed", 0, 1, "--out", out)
    lines = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    assert lines == got["rows"]
    for seed in (0, 1):
        assert load_sae(out / f"seed-{seed}" / "topk-l0-3").features == 36
    assert main(["bench", "truth", "--out", str(out)]) == 2
    assert "exists already; give a folder that is new or empty" in capsys.readouterr().err


def test_the_table(capsys):
    words = ["bench", "truth", "--architecture", "topk", "jumprelu", "--tokens", "640", "--features", "12"]
    assert main([*words, "--lr", "0.002", "--seed", "0", "1"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith("60 true features in 16 dimensions, ")
    assert "dictionaries of 12, trained on 640 tokens in batches of 64 at a learning rate of 0.002" in lines[0]
    assert lines[2].split()[:4] == ["L0", "asked", "got", "F1"]
    assert lines[3].split()[:2] == ["topk", "3"]
    assert "±" in lines[3]
    assert [line.partition("  ")[0] for line in lines[5:8]] == ["", truth.READOUT, truth.RANDOM]
    assert "mean ± standard deviation of 2 seeds; judged on 1,984 other tokens of the same world" in text


def test_the_published_size():
    """arXiv 2602.14687, and the SAELens page on it."""
    full = truth.SIZES["full"]
    assert full.world == WorldConfig()
    assert (full.world.features, full.world.width, full.features) == (16_384, 768, 4096)
    assert (full.l0, full.tokens, full.batch_tokens, full.judged_tokens) == (25, 200_000_000, 1024, 500_000)
    recipe = truth._recipe(full, ["relu"], [25], full.tokens // full.batch_tokens, None, None)
    assert recipe.training.lr == 3e-4
    usual = TrainingConfig(l0=[25], l1=[], steps=195_312, batch_tokens=1024, mask=EVERY_TOKEN, log_every=3906)
    assert recipe.training == usual  # nothing else departs from what a recipe has by default
    assert recipe.of_variant("relu")[0] == SAEConfig(features=4096)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--architecture", "foo"], "architecture = 'foo'"),
        (["--architecture", "topk", "topk"], "--architecture names topk twice"),
        (["--l0", "0"], "l0 = 0 is no number of active features"),
        (["--l0", "40"], "training.l0 = 40 is more than the 36 features"),
        (["--features", "61"], "--features 61: there are 60 true ones; give no more than that"),
        (["--tokens", "63"], "--tokens 63 is less than a batch of 64 tokens"),
        (["--judge", "0"], "--judge 0 is less than a batch"),
        (["--seed", "1", "1"], "--seed 1 1 names one twice"),
        (["--seed", "-1"], "--seed -1 is below 0"),
        (["--lr", "0"], "training.lr = 0"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, says):
    assert main(["bench", "truth", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1


def test_more_memory_than_there_is_is_said_before_anything_is_made(capsys, monkeypatch):
    wide = replace(TINY, world=replace(TINY.world, width=10**9))
    monkeypatch.setitem(truth.SIZES, "small", wide)
    assert main(["bench", "truth"]) == 2
    assert "bench truth --size small needs" in capsys.readouterr().err
