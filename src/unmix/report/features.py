"""Eight features out of the explorer's site, picked by a rule, so that a reader of the report sees what was learned.

two frequent     the most frequent of those active on at most one token in ten (more say little by themselves)
two rare         the least frequent of those that fired ten times or more
two that write   the largest logit that a feature adds to any token at its mean value, so that it does not matter
                 how value and length of the decoder row share the work
two at random    of all that fired, drawn with the site's fingerprint as the seed
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmix.errors import UserError
from unmix.explore.pack import read_script
from unmix.explore.texts import SiteText

SITE = Path("explore/site")
OFTEN, SELDOM = 0.1, 10
STRONGEST, DRAWN = 2, 2
LEVELS = 4


@dataclass(frozen=True)
class Segment:
    """A piece of text, and how strongly the feature is active on it: 0, or 1 … `LEVELS` of its largest value."""

    text: str
    level: int
    peak: bool


@dataclass(frozen=True)
class Shown:
    """One feature."""

    why: str
    index: int
    label: str
    density: float
    firings: int
    largest: float
    strongest: list[list[Segment]]
    drawn: list[list[Segment]]
    """Of all its firings, uniformly."""
    raises: list[str]
    """Tokens that its decoder row makes likelier."""
    address: str


@dataclass(frozen=True)
class Section:
    """The features of one member."""

    member: str
    tokens: int
    split: str
    mask: str
    page: str
    features: list[Shown]


def section(run: Path) -> Section | None:
    """Of the chosen member, else the first; None without a site. Raises `UserError` if the site is damaged."""
    site = run / SITE
    if not (site / "manifest.js").exists():
        return None
    try:
        return _section(site)
    except (OSError, ValueError, KeyError, zlib.error) as error:
        raise UserError(
            f"{site} is damaged ({error}); remove it, and build it again with unmix explore {run} --build"
        ) from None


def _section(site: Path) -> Section:
    manifest = read_script((site / "manifest.js").read_bytes())
    members = {member["name"]: member for member in manifest["members"]}
    name = manifest["chosen"] if manifest["chosen"] in members else next(iter(members))
    words = _Words(read_script((site / "vocabulary.js").read_bytes()))
    records = [record for record in _records(site / name) if record["firings"]]
    seed = int(manifest["fingerprint"], 16)
    text = SiteText(site, manifest["tokens"]["context"])
    shown = [_shown(why, text.fill(record), name, words) for why, record in picked(records, seed)]
    counted = {**manifest["tokens"], **members[name].get("tokens", {})}["counted"]  # hooks have outliers of their own
    of = manifest["tokens"]
    return Section(name, counted, of.get("split", "held_out"), of["mask"], f"{SITE}/index.html", shown)


def picked(records: list[dict[str, Any]], seed: int) -> list[tuple[str, dict[str, Any]]]:
    """(why, the record), by the rule above; none twice."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(records))
    frequent = sorted((r for r in records if r["density"] <= OFTEN), key=lambda r: (-r["density"], r["i"]))
    rare = sorted((r for r in records if r["firings"] >= SELDOM), key=lambda r: (r["density"], r["i"]))
    writing = sorted((r for r in records if _reach(r) > 0), key=lambda r: (-_reach(r), r["i"]))
    found: list[tuple[str, dict[str, Any]]] = []
    for why, candidates in (
        ("frequent", frequent), ("rare", rare), ("writes most", writing), ("at random", [records[n] for n in order]),
    ):  # fmt: skip
        taken = {record["i"] for _, record in found}
        found += [(why, record) for record in candidates if record["i"] not in taken][:2]
    return found


def _reach(record: dict[str, Any]) -> float:
    """The largest logit at the feature's mean value: the same for f, W_dec and for c f, W_dec / c."""
    logits = record["logits"]
    return (record["mean"] or 0.0) * max((value for _, value in logits["plus"]), default=0.0) if logits else 0.0


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "f").glob("*.js")):
        yield from read_script(path.read_bytes())


def _shown(why: str, record: dict[str, Any], member: str, words: _Words) -> Shown:
    groups, largest = record["groups"], record["max"]
    logits = record["logits"] or {"plus": []}
    return Shown(
        why, record["i"], record["label"], record["density"], record["firings"], largest,
        [words.line(window, largest) for window in groups["top"][:STRONGEST]],
        [words.line(window, largest) for window in groups["uniform"][:DRAWN]],
        [words.token(token) for token, _ in logits["plus"][:5]],
        f"{SITE}/index.html#/m/{member}/f/{record['i']}",
    )  # fmt: skip


class _Words:
    """Token ids as text."""

    def __init__(self, vocabulary: dict[str, Any]) -> None:
        self.special, self.bytes = vocabulary["special"], vocabulary["bytes"]

    def token(self, token: int) -> str:
        """What a person can read, whitespace included."""
        return visible(self._bytes(token).decode("utf-8", "backslashreplace"))

    def line(self, window: dict[str, Any], largest: float) -> list[Segment]:
        """A window as segments; tokens that share a character are one, with the largest of their values."""
        values = dict(map(tuple, window["v"]))
        segments: list[Segment] = []
        waiting, value, peak = b"", 0.0, False
        for at, token in enumerate(window["ids"]):
            waiting += self._bytes(token)
            value, peak = max(value, abs(values.get(at, 0.0))), peak or at == window["c"]
            if _cut(waiting) and at + 1 < len(window["ids"]):
                continue
            level = 0 if not value else max(1, min(LEVELS, round(LEVELS * value / largest)))
            segments.append(Segment(visible(waiting.decode("utf-8", "backslashreplace")), level, peak))
            waiting, value, peak = b"", 0.0, False
        return segments

    def _bytes(self, token: int) -> bytes:
        text = self.special.get(str(token))
        return text.encode() if text is not None else str(self.bytes[str(token)]).encode("latin-1")


def _cut(data: bytes) -> bool:
    """Whether it ends inside a character."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            return back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
        if byte < 0x80:
            return False
    return False


def visible(text: str) -> str:
    """With signs for line ends and tabs, and without what cannot be seen or would turn the direction of the line."""
    text = text.replace("\n", "↵").replace("\t", "→").replace("\r", "␍")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
