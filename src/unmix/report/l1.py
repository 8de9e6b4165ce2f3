"""What the L1 in the metrics is of the members of a run: Σ w_i f_i, and whether that is what λ multiplies."""

from __future__ import annotations

from unmix.report.data import RunData

_BY_L1 = ("relu", "tanh_relu")
"""Architectures whose penalty it is; the others' are of their own (`formulas`)."""


def weighted(run: RunData) -> bool | None:
    """Whether w_i is ||W_dec_i||, and not 1; None where variants differ. It is the norm where λ multiplies something
    else, and rows of norm 1 make no difference."""
    saes = [sae for variant in run.variants() if (sae := run.sae(variant))]
    return _one([sae.weigh_by_norm or sae.has_unit_rows or sae.architecture not in _BY_L1 for sae in saes])


def is_multiplied(run: RunData) -> bool | None:
    """Whether λ multiplies it, of members that were asked for a λ; None where they differ."""
    asked = {member.variant for member in run.members if member.request.kind == "l1"}
    return _one([sae.architecture in _BY_L1 for variant in asked if (sae := run.sae(variant))])


def _one(values: list[bool]) -> bool | None:
    """What they all are; true of none, as of recipes that are not read here."""
    return None if len({*values}) > 1 else all(values)
