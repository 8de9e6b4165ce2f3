"""Compressed files, unpacked while they are read: .gz, .bz2, .xz, .zst.

What is read from one that is damaged or cut raises `OSError` or `EOFError`, whatever packed it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from unmix.errors import UserError

_BLOCK = 2**17
_WINDOW = 2**31
"""The largest window that zstd has (`zstd --long=31`); the library refuses more than 2^27 unless it is told."""


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked if its suffix says that it is compressed. Raises `UserError` without a library."""
    unpack = UNPACK.get(path.suffix.lower())
    return path.open("rb") if unpack is None else cast(BinaryIO, io.BufferedReader(_Unpacked(unpack(path)), _BLOCK))


def _zst(path: Path) -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.open(path)
    try:
        import zstandard
    except ImportError:
        raise UserError(f"reading {path} needs zstandard: pip install 'unmix[corpora]'") from None
    return _Frames(path.open("rb"), lambda: zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj())


UNPACK: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zst,
}


class _Unpacked(io.RawIOBase):
    """The same bytes, with every way of being damaged as an `OSError`."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except (OSError, EOFError):
            raise
        except Exception as error:
            if isinstance(error, zlib.error | lzma.LZMAError) or type(error).__name__ == "ZstdError":
                raise OSError(str(error)) from None
            raise
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Frames:
    """Frame after frame of a .zst; unlike `zstandard.stream_reader`, it does not take a cut file for a shorter one."""

    def __init__(self, file: BinaryIO, new: Callable[[], Any]) -> None:
        self._file, self._new = file, new
        self._frame: Any = None
        self._packed = b""
        self._ready = io.BytesIO()

    def read(self, size: int) -> bytes:
        while not (data := self._ready.read(size)):
            self._packed = self._packed or self._file.read(_BLOCK)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends in the middle of a frame")
                break
            if self._frame is None:
                self._frame = self._new()
            self._ready = io.BytesIO(self._frame.decompress(self._packed))
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        return data

    def close(self) -> None:
        self._file.close()
