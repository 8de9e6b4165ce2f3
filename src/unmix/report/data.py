"""A run folder, read and checked: `run.yaml`, `metrics.jsonl`, and `choice.json`, `extension.json` where present.

The run may still be going. A torn last line of `metrics.jsonl` is left out; of two rows of one member, phase and step
(written again after a resume) the later counts; a metric that is null, missing or NaN is NaN here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from unmix.config import UNKNOWN, SAEConfig
from unmix.errors import UserError
from unmix.runlog import Request, read_choices, read_extensions, read_manifest, read_metrics, requested

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
    "rare_fraction",
    "lr",
    "tokens_per_s",
    "seconds",
    "over_tokens",
    "coefficient",
    "halted_at",
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
    """One dictionary of the sweep: a hook, a variant of the recipe if it has any, and what it was asked for."""

    name: str
    hook: str
    variant: str
    request: Request
    sweep: Rows
    """All rows of the sweep."""
    extension: Rows
    """Rows of the extension; empty unless this member was trained on."""
    extended_from: float
    """The step of the checkpoint the extension began at; infinite unless this member was trained on."""

    @property
    def group(self) -> str:
        """Its hook and variant: of the members of a group, only what they were asked for differs."""
        return f"{self.hook}, {self.variant}" if self.variant else self.hook

    @property
    def is_steered(self) -> bool:
        """Whether a controller moved its coefficient, to bring it to the L0 that it was asked for."""
        return self.request.kind == "l0" and bool((self.sweep["coefficient"] > 0).any())

    @property
    def halted_at(self) -> float:
        """The batch whose numbers halted it; NaN where none did."""
        return self.whole().last()["halted_at"]

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
    request: Request
    l0: float
    """Active features when the choice was made."""
    explained_variance: float
    """NaN where an earlier unmix chose."""
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


@dataclass(frozen=True)
class Choice:
    """`choice.json`."""

    member: str
    variant: str
    """Empty unless the choice is among the members of one variant alone."""
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

    def compares(self) -> bool:
        """Whether the candidates' explained variance is known."""
        return any(np.isfinite(c.explained_variance) for c in self.candidates)

    def among(self) -> str:
        """The members that it is a choice of: their hook, and their variant where it is of one."""
        return ", ".join(part for part in (self.candidates[0].hook if self.candidates else "", self.variant) if part)


@dataclass(frozen=True)
class RunData:
    """What a report is made of."""

    folder: Path
    about: dict[str, Any]
    """`run.yaml`: recipe, versions, machine, created, model, corpus, hooks."""
    members: tuple[Member, ...]
    """By hook and variant in the recipe's order, then by what they were asked for."""
    choices: tuple[Choice, ...]
    """One for each hook, or for each variant of each; none before one was made."""
    step: float
    """The last sweep step that all members have logged."""
    features: float
    """Of the recipe; variants may have others."""
    max_active: float

    def section(self, *path: str) -> dict[str, Any]:
        """A mapping of `run.yaml`, empty where it is missing."""
        return _section(self.about, *path)

    def hooks(self) -> list[str]:
        return list(dict.fromkeys(member.hook for member in self.members))

    def groups(self) -> list[str]:
        return list(dict.fromkeys(member.group for member in self.members))

    def variants(self) -> list[str]:
        """In the recipe's order; one empty name where it has none."""
        return list(dict.fromkeys(member.variant for member in self.members))

    def requests(self) -> list[Request]:
        """What members were asked for, rising."""
        return sorted({member.request for member in self.members})

    def asks_l0(self) -> bool:
        """Whether every member was asked for an L0, and none for a coefficient."""
        return all(request.kind == "l0" for request in self.requests())

    def asks_l1(self) -> bool:
        """Whether every member was asked for a coefficient."""
        return all(request.kind == "l1" for request in self.requests())

    def sae(self, variant: str) -> SAEConfig | None:
        """What the members of a variant are; none where the recipe does not say, or not in a way that is read here."""
        keys = self.section("recipe", "sae") | self.section("recipe", "variants", variant, "sae")
        try:
            return SAEConfig.model_validate(keys) if keys else None
        except ValidationError:
            return None

    def model(self) -> str:
        """The language model's name; empty where nobody said whose activations they are."""
        name = str(self.section("model").get("name") or self.section("recipe", "model").get("name") or "the model")
        return "" if name == UNKNOWN else name

    def rows(self) -> str:
        """Where activations were read from that came without a model: `given`, or a file; empty if a model was run."""
        return _text(self.section("recipe", "activations").get("rows"))

    def has_targets(self) -> bool:
        """Whether what is given back is not what is read."""
        return bool(self.section("recipe", "activations").get("targets"))

    def features_of(self, variant: str) -> float:
        """F of its members."""
        sae = self.sae(variant)
        return float(sae.features) if sae else self.features

    def widths(self) -> tuple[float, float]:
        """The smallest F and the largest."""
        found = [self.features_of(variant) for variant in self.variants()]
        return min(found), max(found)

    def training(self, variant: str) -> dict[str, Any]:
        """The keys of `training` of a variant."""
        return self.section("recipe", "training") | self.section("recipe", "variants", variant, "training")

    def called(self, variant: str) -> str:
        """The name of a variant, with its architecture where that is another word and variants differ in it."""
        kinds = {name: sae.architecture for name in self.variants() if (sae := self.sae(name))}
        kind = kinds.get(variant, variant)
        return variant if kind == variant or len(set(kinds.values())) < 2 else f"{variant} ({kind})"

    def apart(self, member: Member) -> str:
        """What sets its group apart from the others: its hook and variant, each where there are several."""
        hook, variant = len(self.hooks()) > 1, len(self.variants()) > 1
        return member.group if hook else self.called(member.variant) if variant else ""

    def member(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    def extended(self) -> list[Member]:
        """The members that were trained on."""
        return [member for member in self.members if len(member.extension)]

    def shown(self) -> list[Member]:
        """The members whose whole length is worth a picture: the extended ones, else the chosen ones."""
        return self.extended() or [member for member in self.members if self.chosen(member.name)]

    def group_of(self, candidate: Candidate) -> str:
        """What sets it apart, as a member; of a candidate that is no member, its hook."""
        member = self.member(candidate.member)
        return self.apart(member) if member else candidate.hook

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
    features = as_number(_section(about, "recipe", "sae").get("features"))
    max_active = choices[0].max_active if choices else as_number(_section(about, "recipe", "choice").get("max_active"))
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
            began = min(began, as_number(_section(extensions, name).get("from_step"), began))
        sweep = _rows(row for row in own if row.get("phase") != "extend")
        hook, variant = (str(own[0].get(key, "")) for key in ("hook", "variant"))
        members.append(Member(name, hook, variant, requested(own[0]), sweep, later, began))
    groups = list(dict.fromkeys(member.group for member in members))
    return tuple(sorted(members, key=lambda m: (hooks.index(m.hook), groups.index(m.group), m.request)))


def _rows(rows: Iterable[dict[str, Any]]) -> Rows:
    by_step = {row["step"]: row for row in rows}
    ordered = [by_step[step] for step in sorted(by_step)]
    return Rows({name: np.array([as_number(row.get(name)) for row in ordered]) for name in COLUMNS})


def _choice(data: dict[str, Any]) -> Choice:
    true, asked = _section(data, "came_true"), as_number(data.get("predict_step"))
    same = as_number(true.get("step")) == asked  # another step says nothing about the prediction
    return Choice(
        member=_text(data.get("member")),
        variant=_text(data.get("variant")),
        rule=_text(data.get("rule")),
        reason=_text(data.get("reason")),
        max_active=as_number(data.get("max_active")),
        at_step=as_number(data.get("at_step")),
        predict_step=asked,
        candidates=tuple(_candidate(c) for c in data.get("candidates") or [] if isinstance(c, dict)),
        true_step=as_number(true.get("step")),
        true_l0=as_number(true.get("l0")) if same else float("nan"),
    )


def _candidate(data: dict[str, Any]) -> Candidate:
    return Candidate(
        member=_text(data.get("member")),
        hook=_text(data.get("hook")),
        request=requested(data),
        l0=as_number(data.get("l0")),
        explained_variance=as_number(data.get("explained_variance")),
        predicted_l0=as_number(data.get("predicted_l0")),
        low=as_number(data.get("low")),
        high=as_number(data.get("high")),
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


def as_number(value: Any, otherwise: float = float("nan")) -> float:
    """`value` as a float; `otherwise` for null and for what is no number. Infinities count as not measured."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return otherwise
    return float(value) if np.isfinite(value) else float("nan")
