"""numba, with a place to keep what it compiles: what is compiled takes it from here.

It refuses to compile a cached function at all where neither the package's folder nor the user's cache can be written,
as in a container whose user is not the one that installed it. Then it is a folder of this process alone.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile

import numba as numba


def _nothing() -> None:
    pass


def find_room() -> None:
    """Have numba keep its code in a temporary folder, if it has no place of its own."""
    try:
        numba.njit(cache=True)(_nothing)  # looks for a place, and compiles nothing
    except RuntimeError:
        folder = tempfile.mkdtemp(prefix="unmix-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]


find_room()
