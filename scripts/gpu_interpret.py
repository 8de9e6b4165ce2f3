"""Triton's interpreter, made quicker: it looks through its whole language at every call of a function in a kernel."""

from __future__ import annotations

from typing import Any


class _Kept:
    """In place of what would undo it."""

    def restore(self) -> None:
        pass


def quicken() -> None:
    """Let it do so once for each language module that a function sees, and leave that as it is."""
    import triton.language as tl
    from triton.runtime import interpreter

    inner: Any = interpreter
    patch: Any = inner._patch_lang
    done: set[frozenset[int]] = set()
    if hasattr(patch, "once"):
        return

    def once(fn: Any) -> _Kept:
        seen = frozenset(id(value) for value in fn.__globals__.values() if value is tl or value is tl.core)
        if seen not in done:
            patch(fn)
            done.add(seen)
        return _Kept()

    once.once = True  # type: ignore[attr-defined]
    inner._patch_lang = once
