"""How much of the held-out text is read, and which documents of it."""

import itertools
import re

import pytest
from tiny_models import WIDTH, tiny_model_folder
from tiny_run import make, write_texts

from unmix.cli import main
from unmix.corpus import hub, plan
from unmix.corpus.split import is_held_out
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.evaluation import command, opened
from unmix.evaluation.opened import open_subject
from unmix.training import run


def documents(tokens, lm):
    """Numbers of the documents whose first line is among the tokens, uncut by the start of a row."""
    return sorted({int(n) for n in re.findall(r"document (\d+)\n", lm.tokenizer.decode(tokens.ids_NT.ravel()))})


@pytest.fixture
def trained(overrides, tmp_path):
    """A run on 300 documents, of which about half are held out, and which these are."""
    texts = write_texts(tmp_path / "many", 300)
    held_out = [n for n in range(300) if is_held_out((texts / f"{n:03d}.txt").read_text(), 0.5)]

    def train(**more):
        recipe = make(
            overrides | {"corpus.source": str(texts), "corpus.held_out_fraction": 0.5},
            training__steps=2,
            training__l1=[1.0],
            **more,
        )
        run.sweep(recipe, tmp_path / "run")
        return tmp_path / "run"

    return train, held_out


def test_a_sample_of_the_held_out_documents_is_by_their_hash_and_not_the_first(trained, monkeypatch):
    monkeypatch.setattr(opened, "DOCUMENTS", 5)
    train, held_out = trained
    folder = train()
    _, lm, whole = open_subject(folder, lambda text: None)
    _, _, few = open_subject(folder, lambda text: None, read_at_most=whole.ids_NT.size // 10)
    assert few.split == "held_out"
    assert 0.3 < few.ids_NT.size / (whole.ids_NT.size / 10) < 3
    found = documents(few, lm)
    assert set(found) < set(held_out)
    assert max(found) > 200
    assert found != documents(whole, lm)[: len(found)]


def test_at_least_so_many_documents_are_read(trained, monkeypatch):
    monkeypatch.setattr(opened, "DOCUMENTS", 75)
    train, _ = trained
    _, _, few = open_subject(train(), lambda text: None, read_at_most=100)
    assert 50 < few.documents < 100


def test_of_a_bounded_corpus_the_first_are_read(trained):
    """The rest of it may be far too long to look through."""
    train, held_out = trained
    _, lm, few = open_subject(train(corpus__max_tokens=4000), lambda text: None, read_at_most=1000)
    assert few.ids_NT.size <= 1000
    found = documents(few, lm)
    assert found == held_out[: len(found)]


def test_what_is_wanted_bounds_a_corpus_that_is_far_longer_and_no_other(trained, monkeypatch):
    monkeypatch.setattr(opened, "DOCUMENTS", 5)
    monkeypatch.setattr(opened, "READ", 2)
    train, held_out = trained
    folder, said = train(), []
    _, lm, whole = open_subject(folder, said.append)
    assert open_subject(folder, said.append, wanted=10)[2].fingerprint == whole.fingerprint
    assert not any("is read no further" in line for line in said)
    monkeypatch.setattr(plan, "LONG", 1)
    monkeypatch.setattr(plan, "MANY", 0)
    _, _, few = open_subject(folder, said.append, wanted=whole.ids_NT.size // 20)
    assert any("is read no further than to about" in line for line in said)
    found = documents(few, lm)
    assert set(found) < set(held_out)
    assert max(found) > 200  # by their hash, and not the first


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """A dataset on the hub that never ends, the number of its documents that were read, and a dictionary."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    read = []

    def streamed(source, field, commit):
        for n in itertools.count():
            read.append(n)
            if n > 20_000:
                raise UserError("it is read to its end, which never comes")
            yield f"document {n}\n" + "for the world import return " * 20

    monkeypatch.setattr(hub, "streamed", streamed)
    monkeypatch.setattr(hub, "revision", lambda name, asked=None: hub.Revision("c" * 40, ""))
    monkeypatch.setattr(command, "DEBIAS_TOKENS", 500)
    sae = new_dictionary(WIDTH, 24, 1.0, 0)
    save_sae(sae, tmp_path / "sae", model="gpt2", hook="resid_post.1", context=16, more={})
    return read


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "SAE", "--tokens", "320", "--ce-tokens", "160"],
        ["evaluate", "SAE", "--tokens", "320", "--ce-tokens", "160", "--debias"],
        ["explore", "SAE", "--build", "--tokens", "320"],
    ],
)
def test_a_dataset_that_never_ends_is_read_no_further_than_is_needed(endless, words, tmp_path, capsys):
    given = [str(tmp_path / "sae") if word == "SAE" else word for word in words]
    status = main([*given, "--model", str(tiny_model_folder()), "--corpus", "datasets:owner/endless"])
    said = capsys.readouterr().err
    assert status == 0, said
    assert "of unknown length, is read no further than to about 6,400 tokens of a split, of which 320 are" in said
    assert 0 < len(endless) < 5000
