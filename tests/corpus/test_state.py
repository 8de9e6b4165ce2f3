"""Whatever is done to the files of a source, cached tokens of before are not used; nothing is read to know that."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from unmix.corpus import hub
from unmix.corpus.state import state_of


def rewrite(path: Path) -> None:
    """Other bytes of the same size, and the old time put back."""
    times = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path: Path) -> None:
    """Another file of the same size and time under the old name."""
    other = path.with_name("other")
    other.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


CHANGES: list[Callable[[Path], object]] = [
    rewrite,
    replace,
    lambda path: path.write_text("longer than it was"),
    lambda path: path.rename(path.with_name("renamed.txt")),
    Path.unlink,
    lambda path: path.with_name("new.txt").write_text("text"),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("prefix", ["", "datasets:"])
def test_a_changed_folder(tmp_path: Path, prefix: str, change: Callable[[Path], object]) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "a.txt"
    file.write_text("some text")
    before = state_of(f"{prefix}{tmp_path}")
    assert state_of(f"{prefix}{tmp_path}") == before
    change(file)
    assert state_of(f"{prefix}{tmp_path}") != before


def test_a_changed_file_and_one_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    nothing = state_of(str(file))
    file.write_text("some text")
    before = state_of(str(file))
    rewrite(file)
    assert len({nothing, before, state_of(str(file))}) == 3


def test_what_is_hidden_does_not_count_as_it_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    before = state_of(str(tmp_path))
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_text("x")
    assert state_of(str(tmp_path)) == before


def test_no_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("some text")
    monkeypatch.setattr(Path, "open", None)
    state_of(str(tmp_path))
    state_of("stdlib")


def test_a_dataset_on_the_hub_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "ask_hub", lambda name, asked: "abc")
    first = state_of("datasets:owner/name:en")
    assert (first.commit, first.doubt) == ("abc", "")
    monkeypatch.setattr(hub, "ask_hub", lambda name, asked: "def")
    assert state_of("datasets:owner/name:en").key != first.key
