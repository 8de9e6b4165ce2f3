"""Several folders on the same tokens: own and published ones in one table and on one page."""

import json
import re
import shutil

import pytest
import torch
import yaml
from tiny_models import WIDTH
from tiny_run import make, write_texts

from unmix.cli import main
from unmix.corpus.documents import documents
from unmix.corpus.split import is_held_out
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.dictionary.nonlinearities import TopK
from unmix.errors import UserError
from unmix.evaluation.several import find_subjects
from unmix.evaluation.subject import UNKNOWN_SPLIT, recipe_of
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


@pytest.mark.pictures
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


def changed(own, name, **sections):
    """A copy of a run whose run.yaml says something else in these sections of the recipe."""
    folder = shutil.copytree(own, own.parent / name)
    manifest = yaml.safe_load((folder / "run.yaml").read_text())
    for section, keys in sections.items():
        manifest["recipe"][section] |= keys
    (folder / "run.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def test_no_run_is_judged_on_documents_that_it_was_trained_on(own, capsys, monkeypatch, tmp_path):
    """Each holds out a share of its own: the smallest is held out of all of them, whichever is named first."""
    monkeypatch.chdir(tmp_path)
    least = changed(own, "least", corpus={"held_out_fraction": 0.05})
    most = changed(own, "most", corpus={"held_out_fraction": 0.6})
    for folders in ([own, most, least], [least, own, most], [most, least, own]):
        subject, said = found(folders, model=None, corpus=None)
        assert subject.corpus.held_out_fraction == 0.05
        [line] = said
        assert line.startswith("corpus.held_out_fraction = 0.05, the smallest (")
        assert all(f"{folder.name}: " in line for folder in folders)
        judged = [d for d in documents(subject.corpus) if is_held_out(d.key, subject.corpus.held_out_fraction)]
        assert judged
        for folder in folders:
            trained = recipe_of(folder).corpus
            assert all(is_held_out(document.key, trained.held_out_fraction) for document in judged)
    assert main(["evaluate", str(most), str(own), *FEW]) == 0
    assert "corpus.held_out_fraction = 0.1, the smallest (most: 0.6; own: 0.1)" in capsys.readouterr().err
    told = json.loads((tmp_path / "comparison/evaluation.json").read_text())["hooks"][0]
    assert main(["evaluate", str(own), *FEW]) == 0
    alone = json.loads((own / "evaluation.json").read_text())["hooks"][0]
    assert told["corpus_fingerprint"] == alone["corpus_fingerprint"]


def test_in_what_else_runs_differ_is_said(own):
    other = changed(
        own,
        "other",
        corpus={"field": "body", "max_tokens": 5000, "roles": ["user", "assistant"]},
        model={"dtype": "bfloat16", "matmul": "auto"},
    )
    subject, said = found([own, other], model=None, corpus=None)
    assert said == [
        "model.dtype differs (own: float32; other: bfloat16); that of own is taken for all",
        "corpus.max_tokens differs (own: not given; other: 5000); that of own is taken for all",
        "corpus.field differs (own: text; other: body); that of own is taken for all",
        "corpus.roles differs (own: not given; other: user, assistant); that of own is taken for all",
    ]
    assert (subject.corpus.field, subject.model.dtype) == ("text", "float32")
    subject, said = found([other, own], model=None, corpus=None)
    assert "corpus.field differs (other: body; own: text); that of other is taken for all" in said
    assert (subject.corpus.field, subject.corpus.roles, subject.model.dtype) == (
        "body", ["user", "assistant"], "bfloat16",
    )  # fmt: skip
    assert found([own, changed(own, "same")], model=None, corpus=None)[1] == []


def test_a_model_whose_weights_have_changed_between_runs_is_said(own):
    other = changed(own, "other")
    manifest = yaml.safe_load((other / "run.yaml").read_text())
    before = manifest["model"]["fingerprint"]
    manifest["model"]["fingerprint"] = "0123456789abcdef"
    (other / "run.yaml").write_text(yaml.safe_dump(manifest))
    [line] = found([own, other], model=None, corpus=None)[1]
    assert line == (
        f"model.fingerprint differs (own: {before}; other: 0123456789abcdef); the model of that name is taken for all"
    )


def test_several_sources_are_compared_one_by_one(own, tmp_path):
    sources = [{"source": str(write_texts(tmp_path / name)), "field": "text"} for name in ("one", "two")]
    body = [sources[0], sources[1] | {"field": "body"}]
    folders = []
    for name, given in (("a", sources), ("b", body)):
        folder = changed(own, name)
        manifest = yaml.safe_load((folder / "run.yaml").read_text())
        manifest["recipe"]["corpus"] = {"sources": given}
        (folder / "run.yaml").write_text(yaml.safe_dump(manifest))
        folders.append(folder)
    [line] = found(folders, model=None, corpus=None)[1]
    assert line == (f"corpus.field of {sources[1]['source']} differs (a: text; b: body); that of a is taken for all")


def test_a_hook_for_nothing_but_runs_is_refused(own):
    """Each member has its own: the option would be ignored."""
    with pytest.raises(UserError, match=r"--hook resid_post\.1: all of these are runs"):
        found([own, changed(own, "other")], model=None, corpus=None, hook="resid_post.1")
