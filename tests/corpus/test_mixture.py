"""Several sources are drawn from by their weights, the same way each time; the split stays one by document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tiny_models import tiny_tokenizer

from unmix import config as recipes
from unmix.config import CorpusConfig
from unmix.corpus.split import is_held_out
from unmix.corpus.tokens import Tokens, documents_of, load_tokens
from unmix.errors import UserError

T = 16
TOKENIZER = tiny_tokenizer()


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    for name, word in (("a", "alpha"), ("b", "beta")):
        rows = [{"text": f"{word} {n} " * 3, "body": f"body of {word} {n}"} for n in range(400)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")


def load(corpus: Any, split: Any = "train") -> tuple[Tokens, list[str]]:
    said: list[str] = []
    return load_tokens(CorpusConfig.model_validate(corpus), TOKENIZER, T, split, say=said.append), said


def in_documents(tokens: Tokens) -> list[str]:
    """The text of each document, put together from the rows."""
    numbers = documents_of(TOKENIZER, tokens, np.arange(len(tokens.ids_NT)))[:, 1:].ravel()
    ids = tokens.ids_NT[:, 1:].ravel()
    assert sorted(set(numbers.tolist())) == list(range(numbers.max() + 1))
    return [TOKENIZER.decode(ids[numbers == number]) for number in range(numbers.max() + 1)]


@pytest.mark.parametrize(("first", "second"), [(0.7, 0.3), (1, 1), (9, 1)])
def test_the_tokens_have_the_shares_that_the_weights_ask_for(two: tuple[str, str], first: float, second: float) -> None:
    sources = [{"source": two[0], "weight": first}, {"source": two[1], "weight": second}]
    got, said = load({"sources": sources, "max_tokens": 300 * T})
    a, b = got.sources
    assert (a.source, b.source) == two
    assert a.tokens + b.tokens == got.ids_NT.size
    assert a.tokens / (a.tokens + b.tokens) == pytest.approx(first / (first + second), abs=1 / 300)
    assert got.documents == a.documents + b.documents
    assert said == list(got.remarks)
    assert said[0].startswith(f"{two[0]}: {a.documents:,} documents, {a.tokens:,} tokens, ")
    text = TOKENIZER.decode(got.ids_NT.ravel())
    assert text.count("alpha") > 0 < text.count("beta")


def test_the_shares_hold_at_every_length(two: tuple[str, str]) -> None:
    sources = [{"source": two[0], "weight": 3}, {"source": two[1]}]
    whole, _ = load({"sources": sources, "max_tokens": 300 * T})
    for n in (20, 100):
        part, _ = load({"sources": sources, "max_tokens": n * T})
        assert np.array_equal(part.ids_NT, whole.ids_NT[:n])
        assert part.sources[0].tokens / sum(s.tokens for s in part.sources) == pytest.approx(0.75, abs=1 / n)


def test_where_one_ends_all_end_and_that_is_said(two: tuple[str, str]) -> None:
    got, said = load({"sources": [{"source": two[0], "weight": 0.9}, {"source": two[1], "weight": 0.1}]})
    assert said[0].startswith(f"{two[0]} ends after {got.sources[0].tokens:,} tokens, and the corpus with it")
    assert got.sources[0].documents > 340 > 60 > got.sources[1].documents
    assert load({"sources": [{"source": two[0], "weight": 0.9}, {"source": two[1], "weight": 0.1}]})[1] == said


def test_the_split_is_by_document_in_each(two: tuple[str, str]) -> None:
    corpus = {"sources": [{"source": two[0]}, {"source": two[1]}], "held_out_fraction": 0.3}
    for split in ("train", "held_out"):
        texts = in_documents(load(corpus, split)[0])
        whole = [text.removesuffix("<|endoftext|>") for text in texts if text.endswith("<|endoftext|>")]
        assert len(whole) > 50
        assert all(is_held_out(text, 0.3) == (split == "held_out") for text in whole)


def test_each_source_has_its_own_field_or_that_of_the_corpus(two: tuple[str, str]) -> None:
    corpus = {"field": "body", "sources": [{"source": two[0]}, {"source": two[1], "field": "text"}]}
    text = TOKENIZER.decode(load({**corpus, "max_tokens": 40 * T})[0].ids_NT.ravel())
    assert "body of alpha" in text
    assert "body of beta" not in text


def test_a_recipe_may_give_a_list(two: tuple[str, str], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"corpus:\n- {{source: {two[0]}, weight: 0.7}}\n- {{source: {two[1]}, weight: 0.3}}\n")
    read = recipes.load(recipe)
    assert read.corpus.source == f"0.7 {two[0]} + 0.3 {two[1]}"
    assert [share for share, _ in read.corpus.parts] == pytest.approx([0.7, 0.3])
    again = recipes.RunConfig.model_validate(recipes.dump(read))
    assert again == read
    assert recipes.dump(again) == recipes.dump(read)
    bounded = recipes.load(recipe, {"corpus.max_tokens": 1000})
    assert (bounded.corpus.max_tokens, bounded.corpus.sources) == (1000, read.corpus.sources)
    assert recipes.load(recipe, {"corpus.source": "stdlib"}).corpus == CorpusConfig()
    typed = recipes.load(None, {"corpus.source": [f"{two[0]}=0.7", f"{two[1]}=0.3"]})
    assert typed.corpus == read.corpus


def test_one_source_is_written_as_it_always_was() -> None:
    assert CorpusConfig().model_dump() == {
        "source": "stdlib", "field": "text", "held_out_fraction": 0.1, "max_tokens": None,
    }  # fmt: skip
    assert CorpusConfig.model_validate({"source": ["a=b=0.5"]}).source == "a=b=0.5"


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        (
            [{"source": "a"}, {"source": "b", "wieght": 2}],
            r"unknown key corpus\.sources\.1\.wieght; did you mean weight\?",
        ),
        ([{"source": "a"}], "sources holds one source; name it as corpus.source"),
        ([{"source": "a"}, {"source": "a", "weight": 2}], "a stands twice in sources"),
        ([{"source": "a"}, {"source": "b", "weight": 0}], r"corpus\.sources\.1\.weight = 0"),
        ([{"source": "a"}, {"weight": 1}], r"corpus\.sources\.1\.source"),
        ({"source": "c", "sources": [{"source": "a"}, {"source": "b"}]}, "source = c stands beside sources"),
        ({"source": "a.txt", "revision": "main"}, "revision = main is for a dataset on the hub"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path, corpus: Any, said: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"corpus": corpus}))
    with pytest.raises(UserError, match=said) as error:
        recipes.load(recipe)
    assert "\n" not in str(error.value)


def test_pinned_revisions() -> None:
    one = CorpusConfig(source="datasets:x/y")
    assert one.pinned(["datasets:x/y"], ["abc"]).revision == "abc"
    assert one.pinned(["datasets:other"], ["abc"]) == one
    assert CorpusConfig(source="datasets:x/y", revision="v1").pinned(["datasets:x/y"], ["abc"]).revision == "v1"
    two = CorpusConfig.model_validate([{"source": "datasets:x/y"}, {"source": "b"}])
    assert [p.revision for _, p in two.pinned(["datasets:x/y", "b"], ["abc", None]).parts] == ["abc", None]
    with pytest.raises(ValidationError):
        CorpusConfig(source="b", revision="abc")


def test_evaluating_elsewhere_keeps_the_split_and_drops_what_is_of_the_source() -> None:
    two = CorpusConfig.model_validate({"sources": [{"source": "a"}, {"source": "b"}], "held_out_fraction": 0.2})
    assert two.at("c.txt") == CorpusConfig(source="c.txt", held_out_fraction=0.2)
    chats = CorpusConfig(source="a", field="messages", roles=["user"])
    assert chats.at("b") == CorpusConfig(source="b", field="messages")


def test_every_token_is_of_the_document_it_came_from(two: tuple[str, str]) -> None:
    got, _ = load({"sources": [{"source": two[0], "weight": 2}, {"source": two[1]}], "max_tokens": 90 * T})
    texts = in_documents(got)
    whole = {f"{word} {n} " * 3 + "<|endoftext|>" for word in ("alpha", "beta") for n in range(400)}
    assert sum(text in whole for text in texts) >= len(texts) - 2 > 50  # the last of each may be cut
