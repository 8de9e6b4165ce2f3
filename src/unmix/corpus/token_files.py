"""Token sequences on disk: `KEY.bin`, ids_NT row by row, little-endian uint16 (uint32 if the largest id needs it);
`KEY.kept`, a byte for each of them, 1 where it becomes an activation, only where some do not; `KEY.json`, written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmix.cache import written_whole
from unmix.corpus.packing import Rows, narrow

FORMAT = "unmix-tokens-v1"
_BLOCK = 2**20


class Stored(NamedTuple):
    """What is on disk."""

    ids_NT: np.memmap[Any, np.dtype[Any]]
    kept_NT: np.memmap[Any, np.dtype[Any]] | None
    about: dict[str, Any]
    """The description."""


def write(
    stem: Path,
    rows: Iterator[Rows],
    *,
    width: int,
    T: int,
    masked: bool,
    progress: Callable[[int], None],
    about: Callable[[], dict[str, Any]],
    check: Callable[[int, int], None],
) -> None:
    """Write all rows, ids in `width` bytes, then what `about` answers once they are drawn.

    `progress` is called with the sequences so far, `check` with all of them and the tokens among them that
    become activations: what it raises leaves no file.
    """
    ids_digest, kept_digest, sequences, kept = _digest(width, T), hashlib.sha256(), 0, 0
    with ExitStack() as stack:
        file = stack.enter_context(stack.enter_context(written_whole(stem.with_suffix(".bin"))).open("wb"))
        mask = None
        if masked:
            mask = stack.enter_context(stack.enter_context(written_whole(stem.with_suffix(".kept"))).open("wb"))
        for ids_nT, kept_nT in rows:
            raw = narrow(ids_nT, width).tobytes()
            file.write(raw)
            ids_digest.update(raw)
            if mask is not None and kept_nT is not None:
                raw = kept_nT.astype(np.uint8).tobytes()
                mask.write(raw)
                kept_digest.update(raw)
            sequences += len(ids_nT)
            kept += ids_nT.size if kept_nT is None else int(np.count_nonzero(kept_nT))
            progress(sequences)
        check(sequences, kept)
    description = {
        "format": FORMAT,
        "dtype": f"<u{width}",
        "shape": [sequences, T],
        "fingerprint": _fingerprint(ids_digest, kept_digest if masked else None),
        **about(),
    }
    description["sha256"] = hash_of(json.dumps(description))
    with written_whole(stem.with_suffix(".json")) as path:
        path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def read(stem: Path) -> Stored | None:
    """The stored sequences, or none if they or their description are absent, or not as they were written."""
    try:
        about = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        if about.pop("sha256") != hash_of(json.dumps(about)):
            return None
        n, T = about["shape"]
        dtype, masked = np.dtype(about["dtype"]), bool(about.get("masked"))
        ids_NT = _mapped(stem.with_suffix(".bin"), dtype, (n, T))
        kept_NT = _mapped(stem.with_suffix(".kept"), np.dtype(bool), (n, T)) if masked else None
        if ids_NT is None or (masked and kept_NT is None):
            return None
        ids_digest, kept_digest = _digest(dtype.itemsize, T), hashlib.sha256()
        _feed(ids_digest, stem.with_suffix(".bin"))
        if masked:
            _feed(kept_digest, stem.with_suffix(".kept"))
        if _fingerprint(ids_digest, kept_digest if masked else None) != about["fingerprint"]:
            return None
        return Stored(ids_NT, kept_NT, about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def hash_of(text: str) -> str:
    """SHA-256 in hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, int]) -> np.memmap[Any, np.dtype[Any]] | None:
    if path.stat().st_size != shape[0] * shape[1] * dtype.itemsize:
        return None
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def _feed(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)


def _digest(width: int, T: int) -> Any:
    """The beginning of the digest whose first 16 hex digits are the fingerprint; the rows follow."""
    return hashlib.sha256(json.dumps([FORMAT, width, T]).encode())


def _fingerprint(ids: Any, kept: Any) -> str:
    """16 hex digits: of the ids alone where every token becomes an activation."""
    whole = ids.hexdigest() if kept is None else hash_of(f"{ids.hexdigest()} {kept.hexdigest()}")
    return str(whole)[:16]
