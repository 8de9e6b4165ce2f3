"""The data of the page as files: features, the list of them, and texts with every token's features.

MEMBER/f/00000.js   256 features a file
MEMBER/t/00000.js   16 sequences a file; those with the most example windows, as many as hold TEXT_ENTRIES entries
MEMBER/index.js     one column a number, and which sequences t/ has
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix.disk import writing
from unmix.errors import UserError
from unmix.explore.derive import Known, Sight, row
from unmix.explore.feature import Numbers
from unmix.explore.pack import script_of, to_json
from unmix.explore.rounding import rounded
from unmix.explore.store import Ints, Store, Text

FEATURES, SEQUENCES = 256, 16  # a file
TEXT_ENTRIES = 750_000  # about 5 MB of files
LEAST_SEQUENCES = 16
KEPT = 64  # features of a token
WAITING = 2  # scripts, several MB each
PAGE = Path(__file__).parent / "site"
COLUMNS = (
    "density", "max", "mean", "entropy", "top_share", "tokens", "promotes", "suppresses", "nearest", "nearest_cos",
    "spark", "first", "long", "label",
)  # fmt: skip


class Site:
    """The folder that is being written; `ids` are the tokens that it speaks of.

    Scripts are packed and written by a thread of their own, WAITING of them at most behind the one who makes them; what
    goes wrong there is raised by a later `put`, or at the end of the `with` block.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: set[int] = set()
        self.files: list[str] = []
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.shutdown()
        if raised[0] is None:
            self._wait(0)

    def put(self, key: str, value: Any, *, packed: bool = True) -> None:
        """One script, at KEY.js."""
        self._waiting.append(self._thread.submit(_write, self.folder / f"{key}.js", key, to_json(value), packed))
        self.files.append(f"{key}.js")
        self._wait(WAITING)

    def _wait(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()

    def copy_page(self) -> None:
        """index.html, app.js and app.css, as they came with unmix."""
        for source in sorted(path for path in PAGE.glob("*") if path.is_file()):
            with writing(self.folder / source.name):
                self.folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, self.folder / source.name)
            self.files.append(source.name)


def _write(path: Path, key: str, text: str, packed: bool) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(script_of(key, text, packed=packed))


class Listed(NamedTuple):
    """What was written of a member's features."""

    columns: dict[str, list[Any]]
    """Of the index, one value a feature."""
    firings_F: Ints
    density_F: NDArray[np.float64]
    windows_S: Ints
    """Example windows out of each sequence."""


def put_features(site: Site, member: str, found: Iterable[tuple[dict[str, Any], Numbers]], sequences: int) -> Listed:
    """Write MEMBER/f/."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    firings, density, windows = [], [], Counter[int]()
    batch: list[dict[str, Any]] = []
    number = 0
    for record, numbers in found:
        shown = list(_windows(record["groups"]))
        windows.update(window["s"] for window in shown)
        site.ids.update(chain.from_iterable(window["ids"] for window in shown))
        site.ids.update(i for i, *_ in record["tokens"])
        for side in (record["logits"] or {}).values():
            site.ids.update(i for i, _ in side)
        for name, value in row(record, numbers).items():
            columns[name].append(value)
        firings.append(numbers.firings)
        density.append(numbers.density)
        batch.append(record)
        if len(batch) == FEATURES:
            site.put(f"{member}/f/{number:05d}", batch)
            batch, number = [], number + 1
    if batch:
        site.put(f"{member}/f/{number:05d}", batch)
    windows_S = np.array([windows[s] for s in range(sequences)])
    return Listed(columns, np.array(firings), np.array(density), windows_S)


def put_index(site: Site, known: Known, sight: Sight, listed: Listed, sequence_ids: list[int]) -> None:
    """Write MEMBER/index: the columns, the match of every feature in the hook's other members, the sequences in t/."""
    match = {
        other: {"j": found.features_F.tolist(), "cos": rounded(found.cosines_F)}
        for other, found in sight.matches[known.name].items()
    }
    site.put(f"{known.name}/index", {**listed.columns, "match": match, "sequence_ids": sequence_ids})


def most_shown(windows_S: Ints, l0_R: Ints, T: int) -> list[int]:
    """Those with the most example windows, of equal ones the lowest, that together hold TEXT_ENTRIES entries."""
    order_S = np.argsort(-windows_S, kind="stable")
    held_S = l0_R.reshape(-1, T).sum(1)[order_S].cumsum()
    fits = int(np.count_nonzero(held_S <= TEXT_ENTRIES))
    return sorted(order_S[: max(LEAST_SEQUENCES, fits)].tolist())


def put_tokens(site: Site, store: Store, member: str, text: Text, sequence_ids: list[int]) -> None:
    """Write MEMBER/t/."""
    err_R, _ = store.errors(member)
    found = store.of_sequences(member, sequence_ids)
    for number, first in enumerate(range(0, len(sequence_ids), SEQUENCES)):
        listed = []
        for s in sequence_ids[first : first + SEQUENCES]:
            at = slice(s * text.T, (s + 1) * text.T)
            norm_T = text.norm_R[at].astype(np.float64)
            error_T = np.divide(err_R[at], norm_T**2, out=np.full(text.T, np.nan), where=norm_T > 0)
            ids = text.id_R[at].tolist()
            site.ids.update(ids)
            features, dropped = _by_token(found, np.searchsorted(found["token"], np.arange(at.start, at.stop + 1)))
            listed.append(
                {
                    "s": s,
                    "ids": ids,
                    "norm": rounded(norm_T),
                    "err": rounded(error_T),
                    "m": np.flatnonzero(~text.counted_R[at]).tolist(),
                    "f": features,
                    "more": dropped,
                }
            )
        site.put(f"{member}/t/{number:05d}", listed)


def _by_token(found: dict[str, Any], starts_T1: Ints) -> tuple[list[list[tuple[int, float | None]]], list[int]]:
    """For each of T tokens [[feature, value] …], at most KEPT; and how many were left out."""
    first, last = int(starts_T1[0]), int(starts_T1[-1])
    pairs = list(zip(found["feature"][first:last].tolist(), rounded(found["act"][first:last]), strict=True))
    listed, dropped = [], []
    for a, b in zip((starts_T1[:-1] - first).tolist(), (starts_T1[1:] - first).tolist(), strict=True):
        end = min(b, a + KEPT)
        listed.append(pairs[a:end])
        dropped.append(b - end)
    return listed, dropped


def _windows(groups: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in groups.values():
        for entry in group:
            yield from entry.get("windows", (entry,))


def require_ours(site: Path, listed: Iterable[str]) -> None:
    """Raises `UserError` if the folder of the site holds anything that a build did not write there."""
    known = set(listed)
    there = (str(path.relative_to(site).as_posix()) for path in sorted(site.rglob("*")) if path.is_file())
    if other := next((path for path in there if path not in known), None):
        raise UserError(f"{site / other} is not of the site, which is about to be replaced; move it away")


def replace(new: Path, site: Path) -> None:
    """Put the new folder in the place of the old one."""
    old = site.with_name(f"{site.name}.old")
    with writing(site):
        remove(old)
        if site.exists():
            site.rename(old)
        new.rename(site)
        remove(old)


def remove(folder: Path) -> None:
    """A folder that a build left behind, with what is in it."""
    if folder.exists():
        shutil.rmtree(folder)
