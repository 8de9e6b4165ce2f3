"""Files that hold no documents: refused by name where one was given, passed over and counted in a folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from unmix.errors import UserError

_KINDS_SHOWN = 8


class Unfit(UserError):
    """Not a file of documents. Raised before the first of its texts, so that a folder can do without it."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
        """In a word or two, for the count: `.png`, `not UTF-8`."""


class PassedOver:
    """The files of a folder that were not read: how many of each kind, and the first of them.

    `str()` of it: `12 files passed over: 10 .png, 1 .bin, 1 not UTF-8 (notes.txt)`; empty if there were none.
    """

    def __init__(self) -> None:
        self.why = ""
        """What was wrong with the first of them, in full."""
        self._count: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, kind: str, name: str, why: str = "") -> None:
        self.why = self.why or why
        self._count[kind] += 1
        self._first.setdefault(kind, name)

    def __str__(self) -> str:
        if not self._count:
            return ""
        kinds = self._count.most_common()
        said = [self._said(kind, count) for kind, count in kinds[:_KINDS_SHOWN]]
        if rest := sum(count for _, count in kinds[_KINDS_SHOWN:]):
            said.append(f"{rest} of other kinds")
        total = self._count.total()
        return f"{total:,} file{'s' * (total > 1)} passed over: {', '.join(said)}"

    def _said(self, kind: str, count: int) -> str:
        name = "" if kind.startswith(".") else f" ({self._first[kind]}{', …' * (count > 1)})"
        return f"{count:,} {kind}{name}"


def relative(path: Path, root: Path) -> str:
    """`sub/notes.txt`, for messages and keys."""
    return path.relative_to(root).as_posix()
