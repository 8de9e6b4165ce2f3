"""How much of the held-out text is read, and which documents of it."""

import re

import pytest
from tiny_run import make, write_texts

from unmix.corpus.split import is_held_out
from unmix.evaluation import opened
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
