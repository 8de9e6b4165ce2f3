"""What a run measured of one of its dictionaries, found from the folder of its checkpoint.

evaluation.json    held-out tokens: in the folder itself, else in the run, if it is of this very checkpoint
metrics.jsonl      the training stream: the last line of its member up to its step
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unmix.errors import UserError
from unmix.runlog import read_json

EVALUATION, METRICS = "evaluation.json", "metrics.jsonl"
_EXTENDED = "-extended"


class Evaluated(NamedTuple):
    """A dictionary's row of an evaluation, and of what."""

    row: dict[str, Any]
    """Its own: l0, explained_variance, delta_ce …"""
    hook: dict[str, Any]
    """Of its hook: tokens, mask, split."""
    corpus: str


class Measured(NamedTuple):
    """Numbers by name, and over what they were measured."""

    numbers: dict[str, float]
    of: str
    """`held_out (evaluation.json)`, `training, step 5,000 (metrics.jsonl)`."""


def measured(checkpoint: Path) -> Measured | None:
    """The numbers of a dictionary; none outside of a run that was not evaluated. Files that are damaged say nothing."""
    try:
        found = evaluated(checkpoint)
    except (OSError, UserError):  # `unmix evaluate` says so; the dictionary itself is whole
        found = None
    if found is not None:
        return Measured(_numbers(found.row), f"{found.hook.get('split', 'held_out')} ({EVALUATION})")
    row = _last_line(checkpoint)
    return None if row is None else Measured(_numbers(row), f"training, step {row['step']:,} ({METRICS})")


def evaluated(folder: Path) -> Evaluated | None:
    """The newest row of the dictionary: from its own folder, or of the run in which it is a checkpoint.

    Raises `UserError` if the file is damaged.
    """
    own = read_json(folder / EVALUATION)
    if own is not None and (found := _row(own, ".")):
        return found
    run = _run_of(folder)
    if run is None or (of_run := read_json(run / EVALUATION)) is None:
        return None
    return _row(of_run, folder.absolute().relative_to(run).as_posix())


def _run_of(checkpoint: Path) -> Path | None:
    """RUN of RUN/members/NAME/step-000001000; none for a folder that is in no run."""
    above = checkpoint.absolute().parents
    return above[2] if len(above) > 2 and (above[2] / "run.yaml").is_file() else None


def _row(found: dict[str, Any], checkpoint: str) -> Evaluated | None:
    """Of an evaluation.json: the one of the checkpoint."""
    try:
        name = next(name for name, at in found["checkpoints"].items() if at == checkpoint)
        hook = next(hook for hook in found["hooks"] if name in hook["saes"])
        row = hook["saes"][name]
        return Evaluated(row, hook, str(found["corpus"])) if isinstance(row, dict) else None
    except (StopIteration, KeyError, TypeError, AttributeError):
        return None


def _last_line(checkpoint: Path) -> dict[str, Any] | None:
    """Of its member, up to its step. The lines of an extension follow those of its sweep."""
    run, said = _run_of(checkpoint), checkpoint.absolute().name.removeprefix("step-")
    if run is None or not said.isdigit():
        return None
    name = checkpoint.absolute().parent.name
    member, phases = name.removesuffix(_EXTENDED), ("sweep", "extend") if name.endswith(_EXTENDED) else ("sweep",)
    for row in _backwards(run / METRICS, member):
        own = row.get("member") == member and row.get("phase") in phases
        if own and type(row.get("step")) is int and row["step"] <= int(said):
            return row
    return None


def _backwards(path: Path, member: str) -> Iterator[dict[str, Any]]:
    """The lines that name a member, the newest first; those that cannot be read are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in reversed(lines):
        if json.dumps(member) in line:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool)}
