"""The data of the page as files: features, and the list of them. Texts are in `texts` and `token_pages`.

MEMBER/f/00000.js   128 features a file
MEMBER/index.js     one column a number, and which sequences t/ has
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix.disk import writing
from unmix.errors import UserError
from unmix.explore.derive import Known, Sight, row
from unmix.explore.feature import Numbers
from unmix.explore.pack import script_of, script_of_bytes, to_json
from unmix.explore.rounding import rounded
from unmix.explore.store import Ints
from unmix.explore.texts import windows_of

FEATURES = 128  # a file: fewer to unpack when one is opened, and still most of what is shared compresses
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
        text = to_json(value)
        self._submit(key, lambda: script_of(key, text, packed=packed))

    def put_bytes(self, key: str, data: bytes) -> None:
        """One script of bytes."""
        self._submit(key, lambda: script_of_bytes(key, data))

    def _submit(self, key: str, made: Callable[[], bytes]) -> None:
        self._waiting.append(self._thread.submit(_write, self.folder / f"{key}.js", made))
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


def _write(path: Path, made: Callable[[], bytes]) -> None:
    content = made()  # zlib lets other threads run meanwhile
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


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
        windows.update(window["s"] for window in windows_of(record["groups"]))
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


def require_ours(site: Path, listed: Iterable[str]) -> None:
    """Raises `UserError` if the folder of the site holds anything that a build did not write there."""
    known = set(listed)
    there = (str(path.relative_to(site).as_posix()) for path in sorted(site.rglob("*")) if path.is_file())
    if other := next((path for path in there if path not in known), None):
        raise UserError(f"{site / other} is not of the site, which is about to be replaced; move it away")


def new_site(site: Path) -> Path:
    """An empty place to write one in, beside the old one; what a build that was stopped left there is removed."""
    new = _aside(site, "new")
    with writing(new):
        _remove(new)
    return new


def replace(new: Path, site: Path) -> None:
    """Put the new folder in the place of the old one."""
    old = _aside(site, "old")
    with writing(site):
        _remove(old)
        if site.exists():
            site.rename(old)
        new.rename(site)
        _remove(old)


def _aside(site: Path, what: str) -> Path:
    """A hidden name that is the build's own: `site.old` may be a user's."""
    return site.with_name(f".{site.name}.{what}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
