"""The page's data: classic scripts, each of which hands one value over. A page from file:// can read nothing else.

UNMIX.put("KEY", VALUE);       VALUE is JSON, or, packed, a string: base64 of raw deflate of JSON in UTF-8
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

_PUT = re.compile(rb'UNMIX\.put\("(?:[^"\\]|\\.)*", (.*)\);\n', re.S)


def script(key: str, value: Any, *, packed: bool = True) -> bytes:
    """A script that puts the value. Raises ValueError for a number that JSON has not."""
    return script_of(key, to_json(value), packed=packed)


def script_of(key: str, text: str, *, packed: bool = True) -> bytes:
    """The same of what `to_json` gave; zlib lets other threads run meanwhile."""
    if packed:
        text = f'"{base64.b64encode(_deflated(text.encode())).decode()}"'
    return f"UNMIX.put({to_json(key)}, {text});\n".encode()


def read_script(data: bytes) -> Any:
    """What a script puts. Raises ValueError if it is none."""
    found = _PUT.fullmatch(data)
    if not found:
        raise ValueError("no script of the explorer")
    value = json.loads(found[1])
    return json.loads(zlib.decompress(base64.b64decode(value), wbits=-15)) if isinstance(value, str) else value


def to_json(value: Any) -> str:
    """Compact, ASCII; `<` is escaped, so that no value can end a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(level=6, wbits=-15)
    return packer.compress(data) + packer.flush()
