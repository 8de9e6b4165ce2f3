"""The page's data: classic scripts, each of which hands one value over. A page from file:// can read nothing else.

UNMIX.put("KEY", VALUE);       VALUE is JSON, or, packed, a string: base64 of raw deflate of JSON in UTF-8

Texts and tokens are many small numbers: there the string holds bytes instead, and numbers stand in them as planes, all
their lowest bytes, then all their second ones, and so on, which deflates better than numbers one after the other.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PUT = re.compile(rb'UNMIX\.put\("(?:[^"\\]|\\.)*", (.*)\);\n', re.S)


def script(key: str, value: Any, *, packed: bool = True) -> bytes:
    """A script that puts the value. Raises ValueError for a number that JSON has not."""
    return script_of(key, to_json(value), packed=packed)


def script_of(key: str, text: str, *, packed: bool = True) -> bytes:
    """The same of what `to_json` gave; zlib lets other threads run meanwhile."""
    return script_of_bytes(key, text.encode()) if packed else f"UNMIX.put({to_json(key)}, {text});\n".encode()


def script_of_bytes(key: str, data: bytes) -> bytes:
    """The same of bytes, packed."""
    return f'UNMIX.put({to_json(key)}, "{base64.b64encode(_deflated(data)).decode()}");\n'.encode()


def read_script(data: bytes) -> Any:
    """What a script puts. Raises ValueError if it is none."""
    value = _put(data)
    return json.loads(_inflated(value)) if isinstance(value, str) else value


def read_bytes(data: bytes) -> bytes:
    """The bytes that a script puts. Raises ValueError if it puts none."""
    value = _put(data)
    if not isinstance(value, str):
        raise ValueError("a script of the explorer, but not one of bytes")
    return _inflated(value)


def planes(numbers: NDArray[Any], width: int) -> bytes:
    """Whole numbers from 0 to 256**width - 1, width at most 4, as `width` planes."""
    four_n = np.ascontiguousarray(numbers, dtype="<u4").view(np.uint8).reshape(-1, 4)
    return four_n[:, :width].T.tobytes()


def of_planes(data: bytes, at: int, count: int, width: int) -> NDArray[np.uint32]:
    """`count` such numbers, which begin at byte `at`. Raises ValueError if the bytes end before."""
    if len(data) < at + count * width:
        raise ValueError("bytes are missing")
    found_n = np.zeros(count, dtype=np.uint32)
    for plane in range(width):
        found_n |= np.frombuffer(data, np.uint8, count, at + plane * count).astype(np.uint32) << (8 * plane)
    return found_n


def _put(data: bytes) -> Any:
    found = _PUT.fullmatch(data)
    if not found:
        raise ValueError("no script of the explorer")
    return json.loads(found[1])


def _inflated(value: str) -> bytes:
    return zlib.decompress(base64.b64decode(value), wbits=-15)


def to_json(value: Any) -> str:
    """Compact, ASCII; `<` is escaped, so that no value can end a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(level=6, wbits=-15)
    return packer.compress(data) + packer.flush()
