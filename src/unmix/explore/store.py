"""Read the store: the tokens, and what each member does on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix.errors import UserError
from unmix.explore.duck import count_by, read_parquet
from unmix.explore.manifest import FILE, Manifest, read_manifest

BLOCK_ENTRIES = 2**23  # of a member, that are in memory at a time: 64 MB, several times that while they are sorted
RANGE_TOKENS = 2**16  # that are looked at token by token at a time
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


class Text(NamedTuple):
    """The R tokens as one hook sees them; token = sequence · T + position."""

    T: int
    """Tokens a sequence."""
    id_R: Ints
    first_R: Ints
    """The first token of the document, within the sequence, that each is of."""
    last_R: Ints
    """The last one."""
    norm_R: Floats
    deviation_R: Floats
    counted_R: Flags
    """Those that numbers are over: a BOS at position 0 and masked tokens are not."""
    target_R: Floats | None = None
    """||y|| of transcoders; None: y is x."""
    skip: int = 1
    """Positions at the start of a sequence that are not counted: its BOS, if it has one."""

    @property
    def counted(self) -> int:
        """How many."""
        return int(np.count_nonzero(self.counted_R))

    @property
    def length_R(self) -> Floats:
        """||y||, what errors are measured by: ||x|| but of transcoders."""
        return self.norm_R if self.target_R is None else self.target_R


class Entries(NamedTuple):
    """Features `first` … of a member: entries starts[i] … starts[i + 1] are those of feature first + i, by token."""

    first: int
    starts_f1: Ints
    token_n: Ints
    act_n: Floats

    def of(self, feature: int) -> tuple[Ints, Floats]:
        """(tokens, ascending; values) of one feature."""
        at = slice(self.starts_f1[feature - self.first], self.starts_f1[feature - self.first + 1])
        return self.token_n[at], self.act_n[at]


@dataclass(frozen=True)
class Store:
    """A store with every shard finished."""

    folder: Path
    manifest: Manifest

    @property
    def inputs(self) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest["inputs"]
        return found

    @property
    def T(self) -> int:
        return int(self.inputs["sequence_length"])

    @property
    def members(self) -> dict[str, dict[str, Any]]:
        """name -> hook, features, checkpoint; of a transcoder hook_out."""
        found: dict[str, dict[str, Any]] = self.inputs["members"]
        return found

    @property
    def outs(self) -> dict[str, str]:
        """hook -> where y is read, of those whose dictionaries are transcoders."""
        return {facts["hook"]: facts["hook_out"] for facts in self.members.values() if "hook_out" in facts}

    @property
    def bos(self) -> bool:
        """Whether sequences begin with a BOS."""
        return bool(self.inputs.get("prepend_bos", True))

    def files(self, kind: str, before_token: int | None = None, from_token: int = 0) -> list[Path]:
        """The shards of `tokens`, `norms/HOOK`, `acts/MEMBER`, `errors/MEMBER`, in the order of their tokens.

        Only those that have tokens from `from_token` on and, if it is given, before `before_token`.
        """
        return [
            self.folder / path
            for shard in sorted(self.manifest["shards"], key=lambda shard: int(shard["shard"]))
            if int(shard["first_token"]) + int(shard["tokens"]) > from_token
            if before_token is None or int(shard["first_token"]) < before_token
            for path in sorted(shard["files"], key=lambda path: (len(path), path))
            if path.rpartition("/")[0] == kind
        ]

    @cached_property
    def tokens(self) -> dict[str, NDArray[Any]]:
        """id and document of each token, in order."""
        return read_parquet(self.files("tokens"), ["id", "document"])

    def text(self, hook: str) -> Text:
        """The tokens, with norms and mask of the hook."""
        target = ["target"] if hook in self.outs else []
        norms = read_parquet(self.files(f"norms/{hook}"), ["norm", "deviation", "masked", *target])
        first_R, last_R = extents(self.tokens["document"], self.T)
        return Text(
            self.T,
            self.tokens["id"].astype(np.int64),
            first_R,
            last_R,
            norms["norm"],
            norms["deviation"],
            ~norms["masked"].astype(bool),
            norms.get("target"),
            int(self.bos),
        )

    def errors(self, member: str) -> tuple[Floats, Ints]:
        """(||y - ŷ||², L0) of each token."""
        found = read_parquet(self.files(f"errors/{member}"), ["err", "l0"])
        return found["err"], found["l0"].astype(np.int64)

    def firings(self, member: str) -> Ints:
        """Entries of each feature, masked tokens among them."""
        features = int(self.members[member]["features"])
        found = count_by(self.files(f"acts/{member}"), "feature")
        count_F = np.zeros(features, dtype=np.int64)
        count_F[found["feature"]] = found["n"]
        return count_F

    def entries(self, member: str, first: int, last: int, before_token: int | None = None) -> Entries:
        """Those of features first … last - 1, on tokens below `before_token` if it is given."""
        where = f"feature BETWEEN {first} AND {last - 1}"
        if before_token is not None:
            where += f" AND token < {before_token}"
        found = read_parquet(self.files(f"acts/{member}", before_token), ["feature", "token", "act"], where)
        # files are sorted, and later ones have later tokens: a stable sort by feature is one by (feature, token)
        order_n = np.argsort(found["feature"], kind="stable")
        feature_n = found["feature"][order_n]
        starts_f1 = np.searchsorted(feature_n, np.arange(first, last + 1))
        return Entries(first, starts_f1, found["token"][order_n].astype(np.int64), found["act"][order_n])

    def blocks(self, member: str) -> Iterator[Entries]:
        """Every feature's entries, some features at a time."""
        total_F = np.concatenate([[0], self.firings(member).cumsum()])
        first, features = 0, len(total_F) - 1
        while first < features:
            fits = int(np.searchsorted(total_F, total_F[first] + BLOCK_ENTRIES, side="right")) - 1
            last = min(features, max(first + 1, fits))
            yield self.entries(member, first, last)
            first = last

    def ranges(self) -> Iterator[range]:
        """Sequences in turn, as many at a time as a shard has."""
        S, each = int(self.inputs["sequences"]), max(1, RANGE_TOKENS // self.T)
        return (range(first, min(first + each, S)) for first in range(0, S, each))

    def by_token(self, member: str, sequences: range) -> tuple[Ints, Ints, Floats]:
        """(starts, features, values) of the entries of these sequences: entries starts[t] … starts[t + 1] are those of
        the t-th of their tokens, by feature."""
        first, last = sequences.start * self.T, sequences.stop * self.T
        files = self.files(f"acts/{member}", last, first)
        where = f"token BETWEEN {first} AND {last - 1}"
        found = read_parquet(files, ["token", "feature", "act"], where)
        token_n = found["token"].astype(np.int64) - first
        narrow_n = token_n.astype(np.uint16) if last - first <= 2**16 else token_n  # numpy sorts 16 bits by counting
        order_n = np.argsort(narrow_n, kind="stable")  # all entries of a token are in one file, by feature
        starts_R1 = np.concatenate([[0], np.bincount(token_n, minlength=last - first).cumsum()])
        return starts_R1, found["feature"][order_n].astype(np.int64), found["act"][order_n]


def open_store(folder: Path) -> Store:
    """The store in the folder. Raises `UserError` if there is none, or not all of it."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} holds no store ({FILE}); make one with `unmix explore RUN --build`")
    there = sum(int(shard["tokens"]) for shard in manifest["shards"])
    if there < int(manifest["inputs"]["sequences"]) * int(manifest["inputs"]["sequence_length"]):
        raise UserError(f"the store in {folder} is not finished; resume it with `unmix explore RUN --build`")
    return Store(folder, manifest)


def extents(document_R: NDArray[Any], T: int) -> tuple[Ints, Ints]:
    """(first, last) token of the stretch of one document, within one sequence, that each token is in."""
    R = len(document_R)
    begins_R = np.ones(R, dtype=bool)
    begins_R[1:] = document_R[1:] != document_R[:-1]
    begins_R[::T] = True
    start_P = np.flatnonzero(begins_R)
    stretch_R = begins_R.cumsum() - 1
    last_P = np.append(start_P[1:], R) - 1
    return start_P[stretch_R], last_P[stretch_R]
