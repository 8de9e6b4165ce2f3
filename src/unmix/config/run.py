"""One run, of all its sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from unmix.config.dictionary import PER_TOKEN, SAEConfig
from unmix.config.inputs import ActivationsConfig, CorpusConfig, ModelConfig
from unmix.config.mask import as_keys
from unmix.config.messages import problem_text
from unmix.config.section import DEVICES, Section
from unmix.config.training import MAX_ACTIVE, USUAL_L0, ChoiceConfig, TrainingConfig, Variant

UNKNOWN = "unknown"
HOOK = "activations"
"""What the place is called from which rows come that say nothing of it."""


class RunConfig(Section):
    """One run, from corpus to choice."""

    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run folder is `runs/NAME`."""
    device: str = Field(default="auto", pattern=DEVICES)
    """Where dictionaries are trained, and where the language model runs unless `model.device` says otherwise: `cpu`,
    `cuda`, `cuda:1`, `mps`, `xpu`. `auto`: the first CUDA device, else the processor. A run may resume on another one;
    its bits are the same on the processor alone."""
    model: ModelConfig = ModelConfig()
    corpus: CorpusConfig = CorpusConfig()
    activations: ActivationsConfig = ActivationsConfig()
    sae: SAEConfig = SAEConfig()
    training: TrainingConfig = TrainingConfig()
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]*$")], Variant] = Field(default={})
    """Named departures from `sae` and `training`; with any, the members are those of the variants alone."""
    choice: ChoiceConfig = ChoiceConfig()
    sinks: list[Literal["tensorboard", "wandb"]] = Field(default=[])
    """Where metrics go beside metrics.jsonl."""

    def of_variant(self, name: str) -> tuple[SAEConfig, TrainingConfig]:
        """The sections `sae` and `training` of a variant; of the recipe itself for the name ""."""
        sae, training = self._keys_of_variant(name)
        return SAEConfig.model_validate(sae), TrainingConfig.model_validate(training)

    def _keys_of_variant(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        own = self.variants[name] if name else Variant()
        training = self.training.model_dump()
        for given, other in (("l0", "l1"), ("l1", "l0")):
            if own.training.get(given):
                training[other] = []
        training |= own.training
        mask = as_keys(training["mask"])
        if mask is None or isinstance(mask, dict):  # a variant's keys change those of the recipe
            training["mask"] = self.training.mask.model_dump() | (mask or {})
        return self.sae.model_dump() | own.sae, training

    @model_validator(mode="before")
    @classmethod
    def _rows_have_no_text(cls, data: Any) -> Any:
        """Rows of the user's own come from a model, a text and a place that are unknown, unless they are given."""
        if not isinstance(data, dict) or not isinstance(act := data.get("activations"), dict) or not act.get("rows"):
            return data
        unknown: dict[str, dict[str, Any]] = {
            "activations": {"hooks": [HOOK]}, "model": {"name": UNKNOWN}, "corpus": {"source": UNKNOWN},
        }  # fmt: skip
        given = {key: data.get(key) or {} for key in unknown}
        return data | {key: {**unknown[key], **keys} for key, keys in given.items() if isinstance(keys, dict)}

    @model_validator(mode="before")
    @classmethod
    def _the_architecture_that_won(cls, data: Any) -> Any:
        """batchtopk where a recipe names no architecture and no coefficients, which it would not take."""
        if not isinstance(data, dict):
            return data
        sae, variants = data.get("sae") or {}, data.get("variants") or {}
        several = variants.values() if isinstance(variants, dict) else ()
        trained = [data.get("training"), *(variant.get("training") for variant in several if isinstance(variant, dict))]
        if not isinstance(sae, dict) or any(isinstance(keys, dict) and keys.get("l1") for keys in trained):
            return data
        if {"architecture", "nonlinearity"} & sae.keys():
            return data
        return data | {"sae": sae | {"architecture": "batchtopk"}}

    @model_validator(mode="before")
    @classmethod
    def _some_member_is_below_the_cap(cls, data: Any) -> Any:
        """Without a cap of one's own: where every L0 asked for is above the usual one, the smallest of them."""
        if not isinstance(data, dict) or not isinstance(choice := data.get("choice") or {}, dict):
            return data
        variants, base = data.get("variants"), _asked(data.get("training"), USUAL_L0)
        kinds = variants.values() if isinstance(variants, dict) and variants else [{}]
        asked = [l0 for own in kinds if isinstance(own, dict) for l0 in _asked(own.get("training"), base)]
        if "max_active" in choice or not asked or min(asked) <= MAX_ACTIVE:
            return data
        return data | {"choice": choice | {"max_active": min(asked)}}

    @model_validator(mode="after")
    def _variants_fit(self) -> RunConfig:
        sections: tuple[type[Section], ...] = (SAEConfig, TrainingConfig)
        for name in self.variants:
            for section, keys in zip(sections, self._keys_of_variant(name), strict=True):
                try:
                    section.model_validate(keys)
                except ValidationError as error:
                    raise ValueError(f"variant {name}: {problem_text(error.errors()[0], section)}") from None
        return self

    @model_validator(mode="after")
    def _k_is_given(self) -> RunConfig:
        for name in self.variants or [""]:
            sae, training = self.of_variant(name)
            where = f"variant {name}: " if name else ""
            if sae.takes_k and not training.l0:
                raise ValueError(
                    f"{where}{sae.architecture} keeps a given number of features, and takes no l1; "
                    "give training.l0 (--l0 20 50), or an architecture with a penalty (--architecture relu)"
                )
            if training.compile and (sae.random_prefixes or sae.noise or sae.has_target):
                what = "sae.random_prefixes" if sae.random_prefixes else "sae.noise" if sae.noise else sae.architecture
                raise ValueError(
                    f"{where}{what} makes every step a different function, which training.compile would compile anew "
                    "each time; leave out training.compile"
                )
            if sae.has_target and not training.l0:
                raise ValueError(
                    f"{where}jumprelu_quadratic aims at an L0, and takes no l1; "
                    "give training.l0 (--l0 20 50), or jumprelu"
                )
            if sae.architecture in PER_TOKEN and any(k != int(k) for k in training.l0):
                raise ValueError(
                    f"{where}{sae.architecture} keeps a whole number of features per token, and l0 = {training.l0}; "
                    "give whole numbers, or batchtopk"
                )
            if training.l0 and max(training.l0) > sae.features:
                raise ValueError(
                    f"{where}training.l0 = {max(training.l0):g} is more than the {sae.features} features; "
                    f"give --l0 of at most {sae.features}, or more features"
                )
        return self

    @model_validator(mode="after")
    def _targets_fit(self) -> RunConfig:
        """Of a transcoder a feature's encoder and decoder are of two spaces, and y has no scale of its token's x."""
        if self.activations.targets is None:
            return self
        for name in self.variants or [""]:
            sae, training = self.of_variant(name)
            where = f"variant {name}: " if name else ""
            if sae.aligned:
                raise ValueError(
                    f"{where}sae.aligned = true holds each feature's encoder and decoder at an inner product of 1, and "
                    "with activations.targets they are of two spaces; leave it out"
                )
            if sae.scaling == "token":
                raise ValueError(
                    f"{where}sae.scaling = token would scale y by the length of its x, and with activations.targets y "
                    "has its own; give dataset, or none"
                )
            if training.resample_every:
                raise ValueError(
                    f"{where}training.resample_every = {training.resample_every} starts a feature's encoder and "
                    "decoder in one direction, and with activations.targets they are of two spaces; leave it out, or "
                    "give sae.auxk"
                )
        return self

    @model_validator(mode="after")
    def _extension_is_longer(self) -> RunConfig:
        to = self.choice.extend_to
        if to is not None and to < self.training.steps:
            raise ValueError(
                f"choice.extend_to = {to} is less than training.steps = {self.training.steps}; raise it, or give null"
            )
        return self


def _asked(training: Any, otherwise: Sequence[float]) -> Sequence[float]:
    """The L0s that these keys ask for; none where they give coefficients, `otherwise` where they say nothing of it."""
    if not isinstance(training, dict) or not (training.get("l0") or training.get("l1")):
        return otherwise
    values = training.get("l0") or []
    return [float(v) for v in values if isinstance(v, int | float)] if isinstance(values, list | tuple) else []
