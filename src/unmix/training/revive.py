"""The terms that train features which have been silent for long."""

from __future__ import annotations

import math

from torch import Tensor

from unmix.config import SAEConfig
from unmix.dictionary.nonlinearities import AbsTopK, Nonlinearity
from unmix.dictionary.terms import AuxK, Objective, PreActivation, SquaredError

AUXK_SHARE = 0.1  # of the features: of so many dead ones AuxK looks at every token, of more at fewer


def wanted(config: SAEConfig) -> bool:
    """Whether there are such terms."""
    return bool(config.auxk_coefficient or config.preactivation_coefficient)


def terms(config: SAEConfig, phi: Nonlinearity, error: SquaredError, width: int, dead_N: Tensor) -> Objective:
    """Those of a recipe, for the features `dead_N`, ascending, of a dictionary whose ŷ has this width and this error;
    none if there is no such feature."""
    if not len(dead_N):
        return ()
    found: Objective = ()
    if by_error := config.auxk_coefficient:
        k = config.auxk_features or min(512, width // 2)
        stride = math.ceil(len(dead_N) / (AUXK_SHARE * config.features))
        found = ((by_error, AuxK(k, dead_N, stride, isinstance(phi, AbsTopK), error)),)
    if by_preactivation := config.preactivation_coefficient:
        found = (*found, (by_preactivation, PreActivation(dead_N)))
    return found
