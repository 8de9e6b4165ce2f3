"""What every section of a recipe is."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

END_OF_SEEDS = 2**63
"""Seeds are whole numbers from 0 up to, not including, this: what every generator takes."""

DEVICES = r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$"
"""How a device is named, see `devices.resolve`."""


class Section(BaseModel):
    """Frozen, and closed to unknown keys and to numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def endless(value: Any) -> Any:
    """A limit, None where it is infinite: then it limits nothing."""
    try:
        return None if float(value) == math.inf else value
    except (TypeError, ValueError, OverflowError):
        return value
