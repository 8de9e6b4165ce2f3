"""A run folder, read and checked: `run.yaml`, `metrics.jsonl`, and `choice.json`, `extension.json` where present.

The run may still be going. A torn last line of `metrics.jsonl` is left out; of two rows of one member, phase and step
(written again after a resume) the later counts; a metric that is null, missing or NaN is NaN here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unmix.errors import UserError
from unmix.runlog import read_choices, read_extensions, read_manifest, read_metrics

Floats = npt.NDArray[np.float64]

COLUMNS = (
    "step",
    "tokens",
    "loss",
    "l2_reconstruction_loss",
    "l1_penalty",
    "nonzero_proportion",
    "l0",
    "explained_variance",
    "dead_fraction",
    "lr",
    "tokens_per_s",
    "seconds",
    "over_tokens",
)


@dataclass(frozen=True)
class Rows:
    """Logged rows of one member, in order of the step; a column is an array with NaN where nothing was measured."""

    columns: Mapping[str, Floats]

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["step"])

    def where(self, keep: npt.NDArray[np.bool_]) -> Rows:
        return Rows({name: values[keep] for name, values in self.columns.items()})

    def then(self, later: Rows) -> Rows:
        return Rows({name: np.concatenate([self[name], later[name]]) for name in COLUMNS})

    def at(self, step: float) -> dict[str, float]:
        """The last row up to `step`, else the first; every column NaN if there is no row."""
        if not len(self):
            return dict.fromkeys(COLUMNS, float("nan"))
        index = max(int(np.searchsorted(self["step"], step, side="right")) - 1, 0)
        return {name: float(self[name][index]) for name in COLUMNS}

    def last(self) -> dict[str, float]:
        return self.at(float("inf"))


@dataclass(frozen=True)
class Member:
    """One dictionary of the sweep: a hook, a variant of the recipe if it has any, and a coefficient."""

    name: str
    hook: str
    variant: str
    l1: float
    sweep: Rows
    """All rows of the sweep."""
    extension: Rows
    """Rows of the extension; empty unless this member was trained on."""
    extended_from: float
    """The step of the checkpoint the extension began at; infinite unless this member was trained on."""

    @property
    def group(self) -> str:
        """What it shares a panel with: the members that differ in the coefficient alone."""
        return f"{self.hook}, {self.variant}" if self.variant else self.hook

    def whole(self) -> Rows:
        """The path that led to the last checkpoint: the sweep up to `extended_from`, then the extension."""
        return self.sweep.where(self.sweep["step"] <= self.extended_from).then(self.extension)

    def dropped(self) -> Rows:
        """The end of the sweep (its learning-rate decay) that the extension did not build on."""
        return self.sweep.where(self.sweep["step"] >= self.extended_from)


@dataclass(frozen=True)
class Candidate:
    """A member as the rule of the choice saw it."""

    member: str
    hook: str
    l1: float
    l0: float
    """Active features when the choice was made."""
    predicted_l0: float
    low: float
    """The band; NaN where nothing was predicted."""
    high: float
    admissible: bool
    why: str

    @property
    def predicted(self) -> bool:
        """Whether there is a forecast; if not, `predicted_l0` repeats what was measured."""
        return bool(np.isfinite([self.predicted_l0, self.low, self.high]).all())

    @property
    def group(self) -> str:
        """As of a member; where no member is known, its hook."""
        return self.hook


@dataclass(frozen=True)
class Choice:
    """`choice.json`."""

    member: str
    rule: str
    reason: str
    max_active: float
    at_step: float
    predict_step: float
    candidates: tuple[Candidate, ...]
    true_step: float
    """The step at which the prediction was compared with what came; NaN while it is not known."""
    true_l0: float

    def predicts(self) -> bool:
        """Whether the rule looked ahead, with a forecast of some member."""
        return self.predict_step > self.at_step and any(c.predicted for c in self.candidates)

    def forecast(self) -> Candidate | None:
        """The chosen member, if its later L0 was predicted."""
        return chosen if self.predicts() and (chosen := self.chosen()) and chosen.predicted else None

    def chosen(self) -> Candidate | None:
        return next((c for c in self.candidates if c.member == self.member), None)


@dataclass(frozen=True)
class RunData:
    """What a report is made of."""

    folder: Path
    about: dict[str, Any]
    """`run.yaml`: recipe, versions, machine, created, model, corpus, hooks."""
    members: tuple[Member, ...]
    """By hook and variant in the recipe's order, then by l1."""
    choices: tuple[Choice, ...]
    """One for each hook; none before one was made."""
    step: float
    """The last sweep step that all members have logged."""
    features: float
    max_active: float

    def section(self, *path: str) -> dict[str, Any]:
        """A mapping of `run.yaml`, empty where it is missing."""
        return _section(self.about, *path)

    def hooks(self) -> list[str]:
        return list(dict.fromkeys(member.hook for member in self.members))

    def groups(self) -> list[str]:
        return list(dict.fromkeys(member.group for member in self.members))

    def member(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    def shown(self) -> Member | None:
        """The member whose whole length is worth a picture: the extended one, else the chosen one."""
        extended = next((member for member in self.members if len(member.extension)), None)
        return extended or next((m for choice in self.choices if (m := self.member(choice.member))), None)

    def chosen(self, name: str) -> bool:
        """Whether a member is that of a choice."""
        return any(choice.member == name for choice in self.choices)


def read(folder: Path) -> RunData:
    """Raises `UserError` if the folder is no run, has no metrics yet, or holds a file that is damaged."""
    about = read_manifest(folder / "run.yaml")
    rows = read_metrics(folder / "metrics.jsonl")
    if not rows:
        raise UserError(f"no metrics yet in {folder}; the first come after training.log_every steps")
    members = _members(rows, read_extensions(folder))
    steps = [set(member.sweep["step"].tolist()) for member in members if len(member.sweep)]
    common = set.intersection(*steps) if steps else set()
    step = max(common) if common else min((max(s) for s in steps), default=float("nan"))
    choices = tuple(map(_choice, read_choices(folder)))
    features = _number(_section(about, "recipe", "sae").get("features"))
    max_active = choices[0].max_active if choices else _number(_section(about, "recipe", "choice").get("max_active"))
    return RunData(folder, about, members, choices, step, features, max_active)


def _members(rows: list[dict[str, Any]], extensions: dict[str, Any]) -> tuple[Member, ...]:
    of: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["member"], []).append(row)
    hooks = list(dict.fromkeys(str(row.get("hook", "")) for row in rows))
    members = []
    for name, own in of.items():
        later = _rows(row for row in own if row.get("phase") == "extend")
        began = float("inf")
        if len(later):
            began = float(later["step"][0]) - 1
            began = min(began, _number(_section(extensions, name).get("from_step"), began))
        sweep = _rows(row for row in own if row.get("phase") != "extend")
        hook, variant = (str(own[0].get(key, "")) for key in ("hook", "variant"))
        members.append(Member(name, hook, variant, own[0]["l1"], sweep, later, began))
    groups = list(dict.fromkeys(member.group for member in members))
    return tuple(sorted(members, key=lambda member: (hooks.index(member.hook), groups.index(member.group), member.l1)))


def _rows(rows: Iterable[dict[str, Any]]) -> Rows:
    by_step = {row["step"]: row for row in rows}
    ordered = [by_step[step] for step in sorted(by_step)]
    return Rows({name: np.array([_number(row.get(name)) for row in ordered]) for name in COLUMNS})


def _json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no description; remove it and run the command that wrote it again")
    return data


def _choice(data: dict[str, Any]) -> Choice:
    true, asked = _section(data, "came_true"), _number(data.get("predict_step"))
    same = _number(true.get("step")) == asked  # another step says nothing about the prediction
    return Choice(
        member=_text(data.get("member")),
        rule=_text(data.get("rule")),
        reason=_text(data.get("reason")),
        max_active=_number(data.get("max_active")),
        at_step=_number(data.get("at_step")),
        predict_step=asked,
        candidates=tuple(_candidate(c) for c in data.get("candidates") or [] if isinstance(c, dict)),
        true_step=_number(true.get("step")),
        true_l0=_number(true.get("l0")) if same else float("nan"),
    )


def _candidate(data: dict[str, Any]) -> Candidate:
    return Candidate(
        member=_text(data.get("member")),
        hook=_text(data.get("hook")),
        l1=_number(data.get("l1")),
        l0=_number(data.get("l0")),
        predicted_l0=_number(data.get("predicted_l0")),
        low=_number(data.get("low")),
        high=_number(data.get("high")),
        admissible=bool(data.get("admissible")),
        why=_text(data.get("why")),
    )


def _section(data: dict[str, Any], *path: str) -> dict[str, Any]:
    for key in path:
        inner = data.get(key)
        data = inner if isinstance(inner, dict) else {}
    return data


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _number(value: Any, otherwise: float = float("nan")) -> float:
    """`value` as a float; `otherwise` for null and for what is no number. Infinities count as not measured."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return otherwise
    return float(value) if np.isfinite(value) else float("nan")
