"""A corpus of several sources is read from a run folder as it was given, whichever keys stand where."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmix import config
from unmix.config import CorpusConfig
from unmix.config.corpus import as_written_now, of_earlier
from unmix.errors import UserError

HUB = "datasets:owner/name"
KEYS: dict[str, Any] = {
    "field": st.sampled_from(["text", "content", "messages"]),
    "roles": st.sampled_from([[], ["assistant"]]),
    "template_tokens": st.sampled_from([None, True, False]),
    "template": st.sampled_from([None, Path("a.jinja")]),
    "packed": st.sampled_from([None, True, False]),
    "ids_dtype": st.sampled_from([None, "uint16"]),
}
REVISION: dict[str, Any] = {"revision": st.sampled_from([None, "abc"])}


def some(keys: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


@given(some(KEYS | REVISION), some(KEYS), some(KEYS | REVISION))
def test_what_is_written_is_read_the_same(corpus: dict[str, Any], one: dict[str, Any], other: dict[str, Any]):
    sources = [{"source": "a.jsonl", "weight": 3.0, **one}, {"source": HUB, **other}]
    recipe = config.load(None, {"corpus": {**corpus, "sources": sources}})
    again = config.load_resolved(config.dump(recipe), Path("run.yaml"))
    assert again.corpus.parts == recipe.corpus.parts
    assert again.corpus.counted == recipe.corpus.counted
    assert config.dump(again) == config.dump(recipe)


def test_the_field_of_the_corpus_is_that_of_each_source():
    given = {"corpus.source": ["a.jsonl=0.7", "b.jsonl=0.3"], "corpus.field": "content"}
    again = config.load_resolved(config.dump(config.load(None, given)), Path("run.yaml"))
    assert [part.field for _, part in again.corpus.parts] == ["content", "content"]


def test_what_a_source_says_itself_holds_against_the_corpus():
    sources = [{"source": "a", "roles": [], "template_tokens": None}, {"source": "b"}]
    recipe = config.load(None, {"corpus": {"roles": ["assistant"], "template_tokens": False, "sources": sources}})
    again = config.load_resolved(config.dump(recipe), Path("run.yaml"))
    assert [part.roles for _, part in again.corpus.parts] == [[], ["assistant"]]
    assert [part.template_tokens for _, part in again.corpus.parts] == [None, False]


EARLIER = {
    "field": "content", "held_out_fraction": 0.1, "max_tokens": None, "roles": ["assistant"],
    "sources": [{"source": "a", "field": "text", "weight": 1.0}, {"source": "b", "field": "body", "weight": 1.0}],
}  # fmt: skip
"""As an earlier version wrote a corpus whose first source gave no field."""


def test_a_recipe_that_an_earlier_version_wrote_is_read_as_it_was_meant():
    corpus = config.load_resolved({"corpus": EARLIER}, Path("run.yaml")).corpus
    assert [(part.field, part.roles) for _, part in corpus.parts] == [
        ("content", ["assistant"]), ("body", ["assistant"])
    ]  # fmt: skip
    assert as_written_now(EARLIER) == corpus.model_dump(mode="json")
    plain = {"field": "text", "sources": [{"source": "a", "field": "text"}, {"source": "b", "field": "body"}]}
    assert of_earlier(plain) == plain


def test_the_same_source_is_told_apart_by_the_field_that_is_read():
    both = {"field": "content", "sources": [{"source": "a"}, {"source": "a", "field": "text"}]}
    assert [part.field for _, part in CorpusConfig.model_validate(both).parts] == ["content", "text"]
    same = {"field": "content", "sources": [{"source": "a"}, {"source": "a", "field": "content"}]}
    with pytest.raises(ValueError, match="a stands twice in sources"):
        CorpusConfig.model_validate(same)


def test_keys_are_changed_in_every_source():
    several = CorpusConfig.model_validate([{"source": "a", "field": "x"}, {"source": "b"}])
    changed = several.changed({"field": "content", "max_tokens": 99})
    assert [(part.source, part.field) for _, part in changed.parts] == [("a", "content"), ("b", "content")]
    assert changed.max_tokens == 99
    assert CorpusConfig(source="a").changed({"roles": ["assistant"]}).roles == ["assistant"]
    with pytest.raises(UserError, match=r"unknown key corpus\.feild; did you mean field\?"):
        CorpusConfig(source="a").changed({"feild": "x"})


def test_another_source_is_read_by_the_field_of_all_of_them():
    several = CorpusConfig.model_validate({"field": "content", "sources": [{"source": "a"}, {"source": "b"}]})
    written = CorpusConfig.model_validate(several.model_dump())
    assert several.at("c").field == written.at("c").field == "content"
