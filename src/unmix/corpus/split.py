"""Train or held-out, decided by a hash of the document alone.

A document is held out if the first 8 bytes of SHA-256(salt + key), read as a number in [0, 1), fall below
the held-out fraction. No list, no random state, no order: at one fraction, every run on every machine puts a
document on the same side. The fraction travels with a trained SAE, so that it is evaluated on what it never saw.

For the standard library the key is the file's path (`json/decoder.py`): the same file is held out for Python
3.11 and 3.14 alike, although its text changes. Everywhere else the key is the text, so that a copied document
lands on the side of its twin.
"""

from __future__ import annotations

import hashlib

HELD_OUT_FRACTION = 0.1
_SALT = b"unmix-split-v1:"


def is_held_out(key: str, fraction: float = HELD_OUT_FRACTION) -> bool:
    """Whether the document with this key belongs to the held-out split; a pure function of both arguments."""
    digest = hashlib.sha256(_SALT + key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
