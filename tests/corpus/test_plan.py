"""Before a run: how much is read, the first row as it will be seen, and a warning of another tokenizer's ids."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tiny_models import tiny_tokenizer

from unmix.config import CorpusConfig
from unmix.corpus.plan import FOREIGN, LEAST, bos_stand_in, bounded, doubt_of_ids, facts_of_corpus, plan
from unmix.corpus.tokens import SourceFacts, Tokens

TOKENIZER = tiny_tokenizer()
T = 100
IDS = np.array([[0, *TOKENIZER("def of(self)")["input_ids"]]] * 10, np.uint16)


def tokens(**more: object) -> Tokens:
    return Tokens(IDS, "train", 7, 100, "f", 0, **more)  # type: ignore[arg-type]


def test_the_lines() -> None:
    said, first = plan(tokens(), TOKENIZER, 3 * IDS.size)
    assert said == (
        f"plan: 7 documents, {IDS.size} tokens for training; {3 * IDS.size} activations are read, 3 epochs; "
        "every row begins with '<|endoftext|>'"
    )
    assert first.startswith("the first row: '<|endoftext|>' 'def' ")
    assert first.count("<|endoftext|>") == 1


def test_tokens_that_are_left_out_stand_in_brackets() -> None:
    kept = np.zeros(IDS.shape, bool)
    kept[:, 1] = True
    said, first = plan(tokens(kept_NT=kept), TOKENIZER, 20)
    assert f"(10 of them, {10 / IDS.size:.1%}, become activations); 20 activations are read, 2 epochs" in said
    assert first.startswith("the first row: ('<|endoftext|>') 'def' (")


def test_only_given_ids_are_doubted() -> None:
    bound = FOREIGN * math.log(4096)
    assert doubt_of_ids(tokens(), 99.0, 4096) == ""
    assert doubt_of_ids(tokens(given=True), bound - 0.01, 4096) == ""
    assert "these token ids are probably another tokenizer's" in doubt_of_ids(tokens(given=True), bound + 0.01, 4096)


def test_the_facts_of_a_plain_corpus_are_none() -> None:
    assert facts_of_corpus(tokens()) == {}
    more = tokens(given=True, commits=("abc",), sources=(SourceFacts("a", 1.0, 1, 2, None),))
    assert facts_of_corpus(more) == {
        "revision": "abc",
        "token_ids": True,
        "sources": [{"source": "a", "share": 1.0, "documents": 1, "tokens": 2, "revision": None}],
    }


def test_of_a_dataset_of_the_hub_no_more_is_read_than_the_run_needs() -> None:
    assert bounded(CorpusConfig(), 3_000_000, T) == (CorpusConfig(), "")
    own = CorpusConfig(source="datasets:owner/name", max_tokens=5000)
    assert bounded(own, 3_000_000, T) == (own, "")
    several = CorpusConfig.model_validate([{"source": "stdlib"}, {"source": "datasets:owner/name"}])
    corpus, said = bounded(several, 3_000_000, T)
    assert corpus == several.model_copy(update={"max_tokens": 3_000_000})
    assert said == (
        "datasets:owner/name, of unknown length, is read no further than to 3,000,000 tokens of a split, as this run "
        "reads 3,000,000 activations; a larger --corpus.max_tokens reads more"
    )
    assert bounded(several, 60, T)[0].max_tokens == LEAST


def test_nor_of_a_folder_that_is_far_larger(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    with (tmp_path / "part" / "much.txt").open("wb") as file:
        file.truncate(300_000_000)  # nothing is written
    given = CorpusConfig(source=str(tmp_path))
    corpus, said = bounded(given, 2_000_000, T)
    assert corpus.max_tokens == 2_000_000
    assert said.startswith(f"{tmp_path}, 0.3 GB, is read no further than to 2,000,000 tokens of a split")
    assert bounded(given, 20_000_000, T) == (given, "")  # it needs about that much
    small = given.model_copy(update={"source": str(tmp_path / "nothing.txt")})
    assert bounded(small, 1, T) == (small, "")


def test_chats_that_leave_out_tokens_are_read_to_their_end_and_it_is_said() -> None:
    chats = CorpusConfig(source="datasets:owner/chats", roles=["assistant"])
    corpus, said = bounded(chats, 1000, T)
    assert corpus == chats
    assert said == (
        "datasets:owner/chats, of unknown length, is read to its end; this run reads 1,000 activations: "
        "--corpus.max_tokens N ends it sooner"
    )


def test_what_stands_in_for_a_bos_is_said() -> None:
    assert bos_stand_in(TOKENIZER, tokens()) is None
    without = tiny_tokenizer()
    without.bos_token = None
    assert bos_stand_in(without, tokens()) == "<|endoftext|>"
    said = plan(tokens(), without, IDS.size)[0]
    assert said.endswith("every row begins with '<|endoftext|>', which stands in for a BOS: the tokenizer has none")
    of_turns = tiny_tokenizer()
    of_turns.add_special_tokens({"bos_token": "<|im_start|>"})
    assert bos_stand_in(of_turns, tokens()) == "<|endoftext|>"
    assert "the tokenizer's own, '<|im_start|>', marks turns of a chat" in plan(tokens(), of_turns, IDS.size)[0]


def test_the_bound_is_in_whole_sequences() -> None:
    """A bound between two of them would end the corpus before what the run reads, and it would repeat."""
    corpus = CorpusConfig(source="datasets:owner/name")
    most = bounded(corpus, 3_000_001, 256)[0].max_tokens
    assert most is not None
    assert most // 256 * 256 == most >= 3_000_001
