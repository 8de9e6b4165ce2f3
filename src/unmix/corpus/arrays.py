"""Token ids in files of numbers: `.npy` (one stream, or rows) and raw `.bin` (one stream). Memory-mapped.

A .bin has no header, so that its number format has to be given (`corpus.ids_dtype`); but for llm.c's, which begin with
256 int32: 20240520 (ids are uint16) or 20240801 (uint32), a version, how many ids follow, and zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmix.config.corpus import SourceConfig
from unmix.corpus.content import Ids
from unmix.corpus.unfit import Unfit
from unmix.errors import UserError

_LLM_C = {20240520: "<u2", 20240801: "<u4"}
_HEADER = 256  # int32


def npy(path: Path, config: SourceConfig) -> Iterator[Ids]:
    """A one-dimensional array as one stream, a two-dimensional one row by row.

    Raises `Unfit` if it holds no integers, `UserError` if it has another shape or is damaged.
    """
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise UserError(
            f"{path} is not a readable .npy of numbers ({str(error).splitlines()[0]}); write it anew"
        ) from None
    if not np.issubdtype(found.dtype, np.integer):
        raise Unfit(f"{path} holds {found.dtype}, and token ids are integers; give token ids, or texts", ".npy")
    yield from _stream_or_rows(found, path)


def raw(path: Path, config: SourceConfig) -> Iterator[Ids]:
    """All ids as one stream. Raises `Unfit` if nothing says in which number format, `UserError` if it does not fit."""
    header = np.fromfile(path, dtype="<i4", count=3)
    known = _LLM_C.get(int(header[0])) if len(header) == 3 else None
    if known is None and config.ids_dtype is None:
        raise Unfit(
            f"{path} holds numbers without a header; if they are token ids, say in which format "
            "(--corpus.ids_dtype uint16, uint32, int32 or int64)",
            ".bin",
        )
    dtype, skipped = (
        (np.dtype(config.ids_dtype).newbyteorder("<"), 0) if known is None else (np.dtype(known), 4 * _HEADER)
    )
    size = path.stat().st_size - skipped
    if size % dtype.itemsize or size < 0:
        raise UserError(
            f"{path} has {size:,} bytes, which are no whole {dtype.name} ids; give another corpus.ids_dtype"
        )
    if known is not None and size // dtype.itemsize < int(header[2]):
        raise UserError(f"{path} is cut short: {size // dtype.itemsize:,} of {int(header[2]):,} ids; fetch it again")
    if size:
        yield Ids(np.memmap(path, dtype=dtype, mode="r", offset=skipped), str(path), stream=True)


def _stream_or_rows(found: NDArray[Any], path: Path) -> Iterator[Ids]:
    if found.ndim == 1 and len(found):
        yield Ids(found, str(path), stream=True)
    elif found.ndim == 2:
        for number, row in enumerate(found, 1):
            yield Ids(row, f"{path}, row {number}")
    elif found.ndim != 1:
        raise UserError(f"{path} has the shape {list(found.shape)}; token ids are one stream [n] or rows [n, length]")
