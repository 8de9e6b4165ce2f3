"""Which files of a repository make up the dictionary that was asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from unmix.dictionary.samples import FILE as SAMPLES
from unmix.errors import UserError
from unmix.interop.source import PICKLED

WEIGHTS = (".safetensors", ".npz")
SAYS_HOW = (".json", ".yaml", ".yml")
BESIDE = (SAMPLES, "sparsity.safetensors")
"""What stands beside the weights: of ours, and of SAELens' before 6."""
_SMALL = 10**6  # bytes of a file that says how to read another
_DEEPER = "checkpoints"  # where Llama Scope keeps the weights of a folder
_ABOVE = "config.json"  # of sparsify, in the folder above
_SOME = 5


@dataclass(frozen=True)
class Asked:
    """A folder, or a file, of a repository on the hub."""

    repo: str
    within: str = ""
    """The folder or file; empty: the whole repository's own files."""
    revision: str | None = None
    """A branch, tag or commit; None: `main`."""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{at}{'/' if self.within else ''}{self.within}"


def needed(asked: Asked, sizes: Mapping[str, int], pickles: bool, every: bool) -> list[str]:
    """The names, of all that `sizes` has, in `asked.within`: the weights, and what says how to read them.

    Raises `UserError` if there are none, naming the nearest; or several files of weights, unless `every`.
    """
    within = asked.within
    one = within in sizes
    folder = str(PurePosixPath(within).parent) if one else within
    folder = "" if folder == "." else folder
    beside = [name for name in sizes if _folder(name) == folder]
    says = [name for name in beside if name.endswith(SAYS_HOW) and sizes[name] <= _SMALL]
    above = f"{_folder(folder)}/{_ABOVE}".lstrip("/")
    says += [above] if folder and above in sizes and sizes[above] <= _SMALL else []
    if one:
        _require_readable(asked, [within], pickles)
        return [*says, *([] if within in says else [within])]
    weights = [name for name in beside if name.endswith(WEIGHTS)]
    weights = weights or [n for n in sizes if _folder(n) == f"{folder}/{_DEEPER}".lstrip("/") and n.endswith(WEIGHTS)]
    pickled = [name for name in beside if name.endswith(PICKLED)]
    if not weights and not pickled:
        raise UserError(_nothing_there(asked, sizes))
    if not weights:
        _require_readable(asked, pickled, pickles)
    wanted = weights + (pickled if every or (pickles and not weights) else [])
    of_kind = [name for name in wanted if PurePosixPath(name).name not in BESIDE]
    if len(of_kind) > 1 and not every:
        first = _id(asked, of_kind[0])
        raise UserError(f"{asked} on the hub holds {len(of_kind)} files of weights; give one, such as {first}")
    return says + wanted


def weights_last(names: Iterable[str]) -> list[list[str]]:
    """First what says how to read, then the weights."""
    all_ = list(names)
    small = [name for name in all_ if name.endswith(SAYS_HOW) or PurePosixPath(name).name in BESIDE]
    return [group for group in (small, [name for name in all_ if name not in small]) if group]


def _require_readable(asked: Asked, names: list[str], pickles: bool) -> None:
    if not pickles and all(name.endswith(PICKLED) for name in names):
        raise UserError(
            f"{asked} on the hub is a pickle ({PurePosixPath(names[0]).name}), which can run code when it is opened; "
            f"`unmix convert {_id(asked, names[0])} FOLDER` reads only its tensors and writes a folder that opens"
        )


def _nothing_there(asked: Asked, sizes: Mapping[str, int]) -> str:
    """What the repository has instead, the nearest first."""
    places = sorted({_place(name) for name in sizes if name.endswith((*WEIGHTS, *PICKLED))} - {""})
    what = f"no dictionary in {asked.within}" if asked.within else "no dictionary at its root"
    if not places:
        return f"{asked.repo} on the hub has {what}, nor anywhere else; give a repository of dictionaries"
    inside = [place for place in places if not asked.within or place.startswith(f"{asked.within}/")]
    near = inside or difflib.get_close_matches(asked.within, places, n=_SOME, cutoff=0.0)
    more = f", and {len(places) - len(near[:_SOME]):,} more" if len(places) > len(near[:_SOME]) else ""
    return f"{asked.repo} on the hub has {what}; it has {', '.join(near[:_SOME])}{more}: give one of them"


def _folder(name: str) -> str:
    """Of a file; empty at the root."""
    return name.rpartition("/")[0]


def _place(name: str) -> str:
    """What to give for a file of weights: its folder, or, at the root, itself."""
    return _folder(name).removesuffix(f"/{_DEEPER}") or name


def _id(asked: Asked, name: str) -> str:
    at = f"@{asked.revision}" if asked.revision else ""
    return f"{asked.repo}{at}/{name}"
