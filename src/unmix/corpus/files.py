"""What a file is, by its name: records, text, token ids, or neither; and which file it was that could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from unmix.config.corpus import SourceConfig
from unmix.corpus.arrays import npy, raw
from unmix.corpus.compressed import UNPACK
from unmix.corpus.content import Content, Ids
from unmix.corpus.json_files import json_file, json_lines
from unmix.corpus.tables import arrow, comma_separated, parquet, tab_separated
from unmix.corpus.unfit import Unfit
from unmix.errors import UserError

RECORDS: dict[str, Callable[[Path, str], Iterator[Content]]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_file,
    ".csv": comma_separated,
    ".tsv": tab_separated,
    ".parquet": parquet,
    ".arrow": arrow,
}
ARRAYS: dict[str, Callable[[Path, SourceConfig], Iterator[Ids]]] = {".npy": npy, ".bin": raw}
READ = "text files, .jsonl, .json, .csv, .tsv (each also as .gz, .bz2, .xz or .zst), .parquet, .arrow, or ids in .npy"
_NEVER_EMPTY = (".parquet", ".arrow", ".npy", *UNPACK)
_BINARY = (".parquet", ".arrow", ".npy", ".bin")


def _each(suffixes: str, remedy: str) -> dict[str, str]:
    return dict.fromkeys(suffixes.split(), remedy)


NEITHER = {
    **_each(".lz4 .lzma", "is compressed in a way that is not unpacked; unpack it first, or pack it as .zst or .gz"),
    **_each(".zip .tar .tgz .tbz .txz .7z .rar .whl .jar .deb .rpm", "is an archive; unpack it and give the folder"),
    **_each(
        ".pkl .pickle .pt .pth .ckpt .joblib .dill",
        "may hold a pickle, which is never read; write its texts to a .jsonl file",
    ),
    **_each(".npz .h5 .hdf5 .mat .safetensors .gguf .onnx .msgpack", "holds data that is no text"),
    **_each(".avro .orc .feather .db .sqlite .sqlite3 .xls .xlsx .ods", "is not read; convert it to .csv or .parquet"),
    **_each(".pdf .doc .docx .odt .rtf .ppt .pptx .epub .mobi .ps .ipynb", "is not read; convert it to text"),
    **_each(".png .jpg .jpeg .gif .bmp .tif .tiff .webp .ico .svg .heic", "is an image"),
    **_each(".wav .mp3 .flac .ogg .m4a .mp4 .mkv .avi .mov .webm", "is sound or video"),
    **_each(".so .dll .dylib .exe .pyc .pyd .class .wasm .ttf .otf .woff .woff2 .eot", "is a binary"),
}
"""Suffixes of files that are neither records nor text, though some of them would decode as text."""


def read(path: Path, config: SourceConfig, text: Callable[[Path], Iterator[str]]) -> Iterator[Content]:
    """The documents of one file: `config.field` of its records, its ids, or what `text` makes of a file without either.

    Raises `Unfit` for a file that holds no documents, and `UserError`, naming the file, for one that is damaged.
    """
    suffix = inner = path.suffix.lower()
    if suffix in UNPACK:
        inner = Path(path.stem).suffix.lower()
        if inner in _BINARY:
            raise Unfit(f"{path} is read only when it is unpacked; unpack it first", inner + suffix)
    if inner in NEITHER:
        kind = inner if inner == suffix else inner + suffix
        raise Unfit(f"{path} {NEITHER[inner]}; documents are read from {READ}", kind)
    try:
        if path.stat().st_size == 0:
            said = f"{path} is empty; fetch it again, or remove it"
            raise UserError(said) if suffix in _NEVER_EMPTY else Unfit(said, "empty")
        if inner in ARRAYS:
            yield from ARRAYS[inner](path, config)
        else:
            yield from RECORDS[inner](path, config.field) if inner in RECORDS else text(path)
    except PermissionError:
        raise Unfit(f"{path} cannot be read: permission denied; make it readable", "unreadable") from None
    except (OSError, EOFError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged or cut short ({why}); fetch it again, or remove it") from None
