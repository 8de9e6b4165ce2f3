"""The description of a run: what is read, what is trained, for how long. Strict, and written back resolved.

A recipe is YAML with these sections; a key that is not here is an error that names the nearest one. Dotted
overrides (`--training.steps 100`) are applied on top. Constants cite the recipe they come from: "April 2024" is
transformer-circuits.pub/2024/april-update#training-saes.
"""

from __future__ import annotations

from unmix.config.dictionary import SAEConfig
from unmix.config.inputs import GIVEN, ActivationsConfig, CorpusConfig, ModelConfig
from unmix.config.mask import EVERY_TOKEN, OUTLIER, MaskConfig
from unmix.config.recipe import dump, flat, load, load_resolved
from unmix.config.run import HOOK, UNKNOWN, RunConfig
from unmix.config.section import Section
from unmix.config.training import VARIED, ChoiceConfig, TrainingConfig, Variant, learning_rate

__all__ = [
    "EVERY_TOKEN",
    "GIVEN",
    "HOOK",
    "OUTLIER",
    "UNKNOWN",
    "VARIED",
    "ActivationsConfig",
    "ChoiceConfig",
    "CorpusConfig",
    "MaskConfig",
    "ModelConfig",
    "RunConfig",
    "SAEConfig",
    "Section",
    "TrainingConfig",
    "Variant",
    "dump",
    "flat",
    "learning_rate",
    "load",
    "load_resolved",
]
