"""Which members share a panel of curves, and what tells their lines apart."""

from __future__ import annotations

from typing import NamedTuple

from unmix.report import axes
from unmix.report.data import Member, RunData
from unmix.runlog import Request


class Line(NamedTuple):
    """A member in a panel."""

    member: Member
    label: str
    colour: object
    dashes: object


class Panel(NamedTuple):
    """Members side by side; their name is empty where there is one panel."""

    name: str
    lines: list[Line]

    @property
    def members(self) -> list[Member]:
        """Of its lines."""
        return [line.member for line in self.lines]


def panels(run: RunData) -> list[Panel]:
    """A panel for each hook and variant, a line for each request.

    Where every member was asked for an L0, and there are more variants than L0s, a panel for each hook and L0, a line
    for each variant: at the same L0 architectures can be compared.
    """
    if compares_variants(run):
        at = [_at_one_l0(run, hook, request) for hook in run.hooks() for request in run.requests()]
        return [panel for panel in at if panel.lines]
    colours = axes.colours(run.requests())
    dashes = {request: _dashes(index) for index, request in enumerate(colours)}
    groups = run.groups()
    return [
        Panel(
            group if len(groups) > 1 else "",
            [Line(m, m.request.label, colours[m.request], dashes[m.request]) for m in run.members if m.group == group],
        )
        for group in groups
    ]


def compares_variants(run: RunData) -> bool:
    """Whether lines are variants."""
    return run.asks_l0() and len(run.variants()) > len(run.requests())


def _at_one_l0(run: RunData, hook: str, request: Request) -> Panel:
    looks = axes.kinds(run.variants())
    dashes = {variant: _dashes(index) for index, variant in enumerate(looks)}
    members = [m for m in run.members if m.hook == hook and m.request == request]
    lines = [Line(m, run.called(m.variant), looks[m.variant][0], dashes[m.variant]) for m in members]
    return Panel(request.label if len(run.hooks()) == 1 else f"{hook}, {request.label}", lines)


def colour(run: RunData, member: Member) -> object:
    """Of its line."""
    return next(line.colour for panel in panels(run) for line in panel.lines if line.member is member)


def _dashes(index: int) -> object:
    return axes.DASHES[index % len(axes.DASHES)]
