"""Members that ended far from the L0 that they were asked for, said when a sweep ends.

A controller may need more steps, or no coefficient reaches the L0; a token may have fewer positive features than a topk
keeps; the threshold that is saved of a batchtopk may not have settled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from unmix.runlog import requested
from unmix.training.choice import level, measured
from unmix.training.controller import MOST_LOG

Row = dict[str, Any]
OFF = 1.1
"""L0 that is more than so many times the one asked for, or less than the same part of it, is said."""
AT_THE_END = 0.99  # of the logarithm of the largest coefficient that a controller takes


def said_of_missed(rows: Sequence[Row]) -> list[str]:
    """A line for each member whose L0 over the last tenth of its steps (the median) is more than 10 % off."""
    by_member: dict[str, list[Row]] = {}
    for row in measured(rows):
        by_member.setdefault(row["member"], []).append(row)
    found = []
    for name, own in by_member.items():
        last, asked = own[-1], requested(own[-1])
        l0 = level(own, last["step"])
        if asked.kind == "l0" and math.isfinite(l0) and not asked.value / OFF < l0 < asked.value * OFF:
            nearest = min((row["l0"] for row in own), key=lambda got: abs(math.log(max(got, 1e-3) / asked.value)))
            found.append(
                f"warning: {name} ends at {l0:,.3g} active features per token, where {asked.number} were asked for "
                f"(nearest: {nearest:,.3g}); {_why(last)}"
            )
    return found


def _why(last: Row) -> str:
    coefficient = last.get("coefficient")
    if coefficient and abs(math.log(coefficient)) > AT_THE_END * MOST_LOG:
        return f"no coefficient reaches it: {coefficient:.1g} does not either; ask for what it can have"
    if coefficient is not None:
        return (
            f"its coefficient, {coefficient:.3g}, did not bring it there in {last['step']:,} steps; give more --steps"
        )
    if "threshold" in last:
        return (
            f"that is what it has as it is saved, by its threshold of {last['threshold']:.3g}, which has not settled "
            f"in {last['step']:,} steps; give more --steps"
        )
    return "no more of its features are positive; ask for fewer, or more --steps"
