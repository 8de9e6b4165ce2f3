"""A dataset by name is read at the commit that the hub has now; without the hub, what is cached is used and said."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_models import tiny_tokenizer

from unmix.config import CorpusConfig
from unmix.corpus import hub
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.errors import UserError

TOKENIZER = tiny_tokenizer()


class Hub:
    """A hub with one dataset, and the library that reads it."""

    def __init__(self) -> None:
        self.commits = {"abc": ["one text "] * 40, "def": ["another text "] * 40}
        self.newest = "abc"
        self.reachable = True
        self.read: list[Any] = []

    def ask(self, name: str, asked: str | None = None) -> str:
        if not self.reachable:
            raise ConnectionError("no route to host\nand more")
        return self.newest

    def load_dataset(self, name: str, config: str | None, *, revision: str | None = None, **more: Any) -> Any:
        self.read.append((name, revision))
        if not self.reachable:
            raise ConnectionError("no route to host\nand more")
        for number, text in enumerate(self.commits[revision or self.newest]):
            yield {"text": f"{text}{number}"}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = Hub()
    library = ModuleType("datasets")
    library.load_dataset = found.load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(hub, "ask_hub", found.ask)
    return found


def load(source: str = "datasets:owner/name", **more: Any) -> tuple[Tokens, list[str]]:
    said: list[str] = []
    config = CorpusConfig.model_validate({"source": source, **more})
    return load_tokens(config, TOKENIZER, 16, "train", say=said.append), said


def test_what_is_read_is_the_commit_that_the_key_names(there: Hub) -> None:
    first, _ = load()
    assert load()[0].fingerprint == first.fingerprint
    there.newest = "def"
    assert load()[0].fingerprint != first.fingerprint
    assert there.read == [("owner/name", "abc"), ("owner/name", "def")]


def test_without_the_hub_the_cached_tokens_are_used_and_that_is_said(there: Hub) -> None:
    first, said = load()
    assert said == []
    there.reachable = False
    again, said = load()
    assert again.fingerprint == first.fingerprint
    assert said == [
        "the hub cannot be asked for the revision of owner/name (no route to host); "
        "using the cached tokens of revision abc"
    ]
    with pytest.raises(UserError, match=r"cannot read corpus\.source = datasets:owner/other: no route to host$"):
        load("datasets:owner/other")


def test_what_is_read_without_knowing_its_revision_is_said_to_be(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ask_hub", lambda name, asked: 1 / 0)
    doubt = "the hub cannot be asked for the revision of owner/name (division by zero); "
    assert load()[1] == [doubt + "reading an unknown revision"]
    assert load()[1] == [doubt + "using the cached tokens of an unknown revision"]
    assert there.read == [("owner/name", None)]
    monkeypatch.setattr(hub, "ask_hub", there.ask)
    assert load()[1] == []
    assert there.read[1:] == [("owner/name", "abc")]


def test_no_more_is_streamed_than_is_wanted(there: Hub) -> None:
    drawn = []

    def endless(*args: Any, **more: Any) -> Any:
        for number in range(10**9):
            drawn.append(number)
            yield {"text": f"text {number}"}

    sys.modules["datasets"].load_dataset = endless  # type: ignore[attr-defined]
    assert load(max_tokens=64)[0].ids_NT.size == 64
    assert len(drawn) < 40


def test_a_folder_on_this_disk_is_read_and_no_hub_is_asked(there: Hub, tmp_path: Path) -> None:
    there.reachable = False
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text("as the library reads it")
    read: list[Any] = []
    texts = ["first "] * 40

    def load_dataset(*args: Any, **more: Any) -> Any:
        read.append((args, more))
        return [{"text": f"{text}{n}"} for n, text in enumerate(texts)]

    sys.modules["datasets"].load_dataset = load_dataset  # type: ignore[attr-defined]
    first, said = load("datasets:texts")
    assert said == []
    assert read == [(("texts", None), {"split": "train", "streaming": True})]
    texts[:] = ["other "] * 40
    (tmp_path / "texts" / "a.jsonl").write_text("as that library reads it")
    assert load("datasets:texts")[0].fingerprint != first.fingerprint


def test_a_revision_is_asked_for_and_its_commit_read(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(name: str, revision: str | None = None) -> str:
        asked.append(revision)
        return "abc" if revision == "v1" else there.newest

    monkeypatch.setattr(hub, "ask_hub", ask)
    there.newest = "def"
    tagged, newest = load(revision="v1")[0], load()[0]
    assert asked == ["v1", None]
    assert there.read == [("owner/name", "abc"), ("owner/name", "def")]
    assert (tagged.commits, newest.commits) == (("abc",), ("def",))
    # a tag is remembered apart from the newest, and a whole commit needs no hub
    monkeypatch.setattr(hub, "ask_hub", lambda name, asked: 1 / 0)
    assert load(revision="v1")[0].fingerprint == tagged.fingerprint
    commit = "0123456789" * 4
    there.commits[commit] = ["a third text "] * 40
    assert load(revision=commit)[1] == []
    assert there.read[-1] == ("owner/name", commit)


def test_a_dataset_of_several_configurations_says_how_to_name_one(there: Hub) -> None:
    def load_dataset(*args: Any, **more: Any) -> Any:
        raise ValueError(
            "Config name is missing.\nPlease pick one among the available configs: ['en', 'de']\nExample of usage:\n"
        )

    sys.modules["datasets"].load_dataset = load_dataset  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match=r"several configurations; write datasets:owner/name:CONFIG for one of: 'en', 'de'$"
    ):
        load()


def test_token_ids_and_chats_come_from_there_too(there: Hub) -> None:
    rows = [{"input_ids": [5, 6, 7 + n, n], "messages": [{"role": "user", "content": "hi"}]} for n in range(100)]
    sys.modules["datasets"].load_dataset = lambda *args, **more: rows  # type: ignore[attr-defined]
    got, _ = load(field="input_ids", packed=False)
    assert got.given
    assert got.ids_NT[0, 1:3].tolist() == [5, 6]
    with pytest.raises(UserError, match=r"datasets:owner/name holds chats, .* no chat template"):
        load(field="messages")


def test_a_cache_that_can_only_be_read_is_read(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only serves to remember a revision ends no run."""
    first, _ = load()
    there.newest = "def"
    second, _ = load()

    def refuse(path: Path) -> Any:
        raise UserError("cannot write there")

    monkeypatch.setattr(hub, "written_whole", refuse)
    again, said = load()
    assert (again.fingerprint, said) == (second.fingerprint, []), "nothing new is to be remembered"
    there.newest = "abc"
    again, said = load()
    assert again.fingerprint == first.fingerprint
    assert said == [
        "the revision of owner/name is not remembered (cannot write there); using the cached tokens of revision abc"
    ]
