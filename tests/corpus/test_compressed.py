"""What is compressed is read as if it were unpacked; what is cut or damaged is never taken for a shorter file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unmix.config import CorpusConfig
from unmix.corpus.compressed import opened
from unmix.corpus.documents import documents
from unmix.errors import UserError


def zst(raw: bytes) -> bytes:
    """With a checksum, as the zstd program writes it."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.compress(raw, options={zstd.CompressionParameter.checksum_flag: 1})
    zstandard = pytest.importorskip("zstandard")
    packed: bytes = zstandard.ZstdCompressor(write_checksum=True).compress(raw)
    return packed


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zst,
}
TEXTS = [f"text {n} {n * n}\nof two lines" for n in range(3000)]
FILES = {
    "a.jsonl": "\n".join(json.dumps({"text": text}) for text in TEXTS).encode(),
    "a.json": json.dumps([{"text": text} for text in TEXTS]).encode(),
    "a.csv": b"text\n" + "\n".join(f'"{text}"' for text in TEXTS).encode(),
    "a.txt": "\n".join(TEXTS).encode(),
}


def texts(path: Path) -> list[object]:
    return [document.content for document in documents(CorpusConfig(source=str(path)))]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("name", FILES)
def test_it_gives_what_the_plain_file_gives(tmp_path: Path, name: str, suffix: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    (tmp_path / f"{name}{suffix}").write_bytes(PACK[suffix](FILES[name]))
    assert texts(tmp_path / f"{name}{suffix}") == texts(tmp_path / name)


@pytest.mark.parametrize("suffix", PACK)
def test_one_that_is_cut_or_damaged_is_named_in_one_line(tmp_path: Path, suffix: str) -> None:
    packed = PACK[suffix](FILES["a.jsonl"])
    middle = bytearray(packed)
    middle[len(packed) // 3 : len(packed) // 3 + 40] = b"\xff" * 40
    path = tmp_path / f"a.jsonl{suffix}"
    for content in [packed[: len(packed) // 2], packed[:-3], packed[:1], b"", b"no such format", bytes(middle)]:
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=rf"a\.jsonl\{suffix} is (damaged or cut short \(.+\)|empty); fetch it"
        ) as error:
            texts(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", PACK)
def test_several_archives_behind_one_another_are_one_file(tmp_path: Path, suffix: str) -> None:
    parts = [b"one\n" * 100_000, b"two\n", b"three\n" * 50_000]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"".join(PACK[suffix](part) for part in parts))
    with opened(path) as file:
        assert file.read() == b"".join(parts)


def test_a_folder_of_them(tmp_path: Path) -> None:
    for n, (suffix, pack) in enumerate(PACK.items()):
        (tmp_path / f"{n}.jsonl{suffix}").write_bytes(pack(b'{"text": "%d"}\n' % n))
    assert texts(tmp_path) == ["0", "1", "2", "3"]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the standard library reads .zst")
def test_without_the_library_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match=r"a\.jsonl\.zst needs zstandard: pip install 'unmix\[corpora\]'$"):
        texts(tmp_path / "a.jsonl.zst")
