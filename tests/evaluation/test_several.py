"""Several folders on the same tokens: own and published ones in one table and on one page."""

import json
import re

import pytest
import torch
from tiny_models import WIDTH
from tiny_run import make, write_texts

from unmix.cli import main
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.dictionary.nonlinearities import TopK
from unmix.errors import UserError
from unmix.evaluation.several import find_subjects
from unmix.evaluation.subject import UNKNOWN_SPLIT
from unmix.report.comparison import front
from unmix.training import run

FEW = ["--tokens", "300", "--ce-tokens", "100"]


def published(folder, seed=0, k=5, hook="resid_post.0", context=16):
    sae = new_dictionary(WIDTH, 24, 1.0, seed, TopK(k, weigh_by_norm=False))
    save_sae(sae, folder, model="gpt2", hook=hook, context=context, more={"l0": float(k)})
    return folder


@pytest.fixture
def own(overrides, tmp_path):
    run.sweep(make(overrides, training__l1=[1.0, 3.0], training__steps=20), tmp_path / "own")
    return tmp_path / "own"


def test_own_and_published_are_judged_on_the_same_tokens(own, overrides, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    others = [published(tmp_path / "a/sae"), published(tmp_path / "b/sae", seed=1, k=9)]
    words = [*map(str, [own, *others]), "--model", overrides["model.name"], "--corpus", overrides["corpus.source"]]
    assert main(["evaluate", *words, *FEW]) == 0
    out, err = capsys.readouterr()
    found = json.loads((tmp_path / "comparison/evaluation.json").read_text())
    [result] = found["hooks"]
    assert list(result["saes"]) == ["own: l1-1", "own: l1-3", "a/sae", "b/sae"]
    assert all(row["tokens"] == result["fidelity_tokens"] for row in result["saes"].values())
    assert all(f"\n{name} " in out for name in result["saes"])
    assert result["split"] == f"held_out (own); {UNKNOWN_SPLIT} (a/sae, b/sae)"
    assert found["published"]["b/sae"]["l0"] == 9.0
    assert list(found["published"]) == ["a/sae", "b/sae"]
    assert sum("explained variance" in line and "the file says" in line for line in err.splitlines()) == 2
    page = (tmp_path / "comparison/comparison.html").read_text()
    assert all(name in page for name in result["saes"])
    assert page.count('<tr class="front">') == len(front(result))
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert (tmp_path / "comparison/plots/pareto_0.png").stat().st_size > 1000
    assert not (own / "evaluation.json").exists()
    alone = ["evaluate", str(others[0]), "--model", overrides["model.name"], "--corpus", overrides["corpus.source"]]
    assert main([*alone, *FEW]) == 0
    [one] = json.loads((others[0] / "evaluation.json").read_text())["hooks"]
    assert one["saes"]["sae"]["explained_variance"] == result["saes"]["a/sae"]["explained_variance"]
    capsys.readouterr()
    assert main(["evaluate", *words, *FEW, "--debias"]) == 2
    assert "give one folder at a time" in capsys.readouterr().err
    assert main([*alone, "--out", "x"]) == 2
    assert "--out x is for several folders" in capsys.readouterr().err


def test_the_front_is_what_nothing_surpasses():
    points = {"a": (5, 0.5), "b": (5, 0.6), "c": (9, 0.6), "d": (10, 0.9), "e": (20, 0.8), "f": (1, 0.1)}
    saes = {name: {"l0": l0, "explained_variance": variance} for name, (l0, variance) in points.items()}
    assert front({"saes": saes}) == ["f", "b", "d"]


def found(folders, **given):
    said = []
    wanted = {"model": "m", "corpus": "c", "hook": None} | given
    return find_subjects(folders, said.append, **wanted), said


def test_names_masks_and_lengths_are_brought_together(tmp_path):
    folders = [published(tmp_path / "a", context=64), published(tmp_path / "b", context=32, hook="resid_post.1")]
    subject, said = found(folders)
    assert {at: list(saes) for at, saes in subject.saes.items()} == {"resid_post.0": ["a"], "resid_post.1": ["b"]}
    assert (subject.sequence_length, subject.split) == (32, UNKNOWN_SPLIT)
    assert said == ["sequences of 32 tokens, the shortest of 32, 64"]
    assert list(found(folders, hook="resid_post.2")[0].saes) == ["resid_post.2"]
    assert torch.equal(subject.saes["resid_post.0"]["a"].W_dec, new_dictionary(WIDTH, 24, 1.0, 0).W_dec)


def test_what_cannot_be_compared_is_one_line(own, overrides, tmp_path):
    other = tmp_path / "other"
    texts = str(write_texts(tmp_path / "more"))
    run.sweep(make(overrides | {"corpus.source": texts}, training__steps=5, training__l1=[1.0]), other)
    with pytest.raises(UserError, match=r"more than one corpus .* give --corpus SOURCE for all"):
        found([own, other], model=None, corpus=None)
    assert found([own, other], model=None)[0].model.name == overrides["model.name"]
    with pytest.raises(UserError, match="is given twice"):
        found([own, own / "../own"])
