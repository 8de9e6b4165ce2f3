"""How members are trained, in what they may differ, and which of them is chosen."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from unmix.config.dictionary import as_now
from unmix.config.mask import MASKS, MaskConfig, as_keys
from unmix.config.section import END_OF_SEEDS, Section, endless


def learning_rate(steps: int) -> float:
    """3e-3 · √(2,000 / steps), at most 3e-3, to two digits.

    For 2,000 steps 6e-3 is better at a width of 256, and 3e-3 at 576 (records/2026-11-26_centre); the root is a guess
    between that and rates in use for longer runs, and gives 7.2e-4 for 35,000 steps, 3e-4 for 200,000.
    """
    return float(f"{3e-3 * min(1, (2000 / steps) ** 0.5):.1e}")


def _listed(values: list[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


AnyFloat = Annotated[float, Field(allow_inf_nan=True)]
"""One that may be infinite, or is refused in other words."""
USUAL_L0 = (20.0, 40.0, 80.0, 160.0)
"""`training.l0`, unless that or `training.l1` is given."""


class TrainingConfig(Section):
    """How members of the sweep are trained; every l1 with every hook is one member."""

    l1: list[AnyFloat] = Field(default=[])
    """Coefficients α of the sparsity penalty, one member each, in place of `l0`."""
    l0: list[AnyFloat] = Field(default_factory=lambda given: [] if given.get("l1") else [*USUAL_L0])
    """Active features per token, one member each: the k of topk kinds; for the other architectures a controller moves
    the coefficient of the penalty until there are as many (docs/architectures.md). 20, 40, 80, 160 if neither these
    nor `l1` are given."""
    norm_power: Literal[0, 1, 2] = 0
    """k: the squared error of a token is divided by ||x||^k; with `activations.targets`, by ||y||^k."""
    l1_norm_power: float | Literal["matched"] = 0.0
    """p: the coefficient is α n̄^p, n̄ the mean norm of a hook's activations as they are scaled, their mean still in them
    (with `activations.targets`, of these), measured without outliers. `matched`: the p with which both terms of the
    loss grow alike with n̄: 2 - k for bounded features with the plain penalty and where the penalty counts features
    (jumprelu), 1 - k for all others (docs/norms.md)."""
    mask: MaskConfig = MaskConfig()
    """Tokens of a batch that the SAE is not trained on: `auto` (outliers), `none`, or the keys of a mask."""
    steps: int = Field(default=2000, ge=1)
    """The default is a first look, a million tokens; dictionaries go on improving for hundreds of millions."""
    batch_tokens: int = Field(default=512, ge=1)
    """April 2024: 2048 or 4096, for 200k steps; short runs want more and smaller steps."""
    lr: float = Field(default_factory=lambda given: learning_rate(given["steps"]), gt=0)
    """If not given, what `learning_rate` gives for this many steps."""
    betas: tuple[float, float] = (0.9, 0.999)
    """April 2024."""
    lr_warmup_steps: int = Field(default=100, ge=0)
    """Steps over which the learning rate rises linearly from 0, at the start."""
    decay_fraction: float = Field(default=0.5, ge=0, lt=1)
    """Share of the steps over which the learning rate falls linearly to 0, at the end (April 2024: 20 %, of far more).
    The state before the decay is kept, for `extend`."""
    l1_warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """April 2024: the coefficient rises linearly from 0 over the first 5 % of the steps."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Gradient norm of a member at most this (April 2024: 1); null clips nothing."""
    selection: Literal["fp32", "bf16", "int8", "tf32", "auto"] = "auto"
    """How the encoder finds which features are active, once few are: a product in bf16 costs half of one in float32,
    one in int8 a quarter, on machines made for them; the values of the features found are computed in float32
    (docs/speed.md). On a GPU there is TF32 in the place of bf16 and int8, and it misses nothing (docs/devices.md).
    `auto`: the fastest, which is measured when a run begins."""
    dense: Literal["fp32", "bf16", "auto"] = "auto"
    """The five products of a step while many features are active: in bf16 the step may take half the time, and what
    goes into and comes out of them is rounded (docs/speed.md); with noise and with tanh they stay in float32. For the
    portable step: all its products (docs/devices.md). `auto`: the faster one, which is measured when a run begins."""
    border: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """Steps are sparse below this active share of features, dense above. `auto`: where both take the same time, which
    is measured when a run begins."""
    kernels: Literal["auto", "portable"] = "auto"
    """`auto`: those made for the device, where there are any. `portable`: the definition in plain torch, by autograd,
    which runs on every device, and is what the others are tested against."""
    compile: bool = False
    """The portable step through `torch.compile`, which takes seconds when a run begins, or is resumed
    (docs/devices.md)."""
    dead_after_tokens: int = Field(
        default_factory=lambda given: min(10_000_000, max(1, given["steps"] * given["batch_tokens"] // 5)), ge=1
    )
    """A feature that was silent for this many tokens counts as dead (April 2024: 10 M); if not given, a fifth of the
    run's tokens, at most that. With `sae.noise`, of the tokens looked at without it, one in 16."""
    revive_after_tokens: int = Field(
        default_factory=lambda given: min(10_000_000, max(1, given["steps"] * given["batch_tokens"] // 40)), ge=1
    )
    """A feature that was silent for this many tokens is trained by `sae.auxk` and `sae.preactivation`; if not given, a
    fortieth of the run's tokens, at most 10 M (Gao et al. 2024: 10 M). With `sae.noise`, counted as above."""
    resample_every: int | None = Field(default=None, ge=1)
    """Steps after which dead features start anew, again and again until the learning rate falls: each at a token of the
    batch with a large error, with Adam's means at 0 (Bricken et al. 2023). Dead is what `revive_after_tokens` says."""
    on_nonfinite: Literal["skip", "halt", "stop"] = "halt"
    """What is done with a member whose loss or gradient is not a number on a batch: `halt` leaves it at its last good
    weights while the others go on, `skip` leaves the batch out (ten in a row halt it), `stop` ends the run."""
    on_spike: Literal["say", "act"] = "say"
    """A batch whose squared error is over ten times the mean of the 16 batches before it: `say` names it and trains on
    it; `act` treats it as `on_nonfinite` says."""
    log_every: int = Field(default=50, ge=1)
    """A line of metrics is written after so many steps, over all tokens since the last one."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """A checkpoint is written after so many steps, at the end, and before the learning rate decays."""
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints of each member that stay: should the newest be damaged, training resumes from the one before it."""
    keep_every: int | None = Field(default=None, ge=1)
    """Checkpoints at multiples of this many steps stay too."""
    seed: int = Field(default=0, ge=0, lt=END_OF_SEEDS)
    """Of the start of the dictionaries, and of noise."""

    @field_validator("clip_norm", mode="before")
    @classmethod
    def _no_limit(cls, value: Any) -> Any:
        return endless(value)

    @field_validator("mask", mode="before")
    @classmethod
    def _mask_by_word(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in MASKS:
            raise ValueError("give auto, none, or keys such as {special: true, norm_above: 5}")
        return as_keys(value)

    @field_validator("l0")
    @classmethod
    def _l0(cls, values: list[float]) -> list[float]:
        for value in values:
            if not 0 < value < float("inf"):
                raise ValueError(f"l0 = {value:g} is no number of active features; give numbers above 0")
        if len(set(values)) < len(values):
            raise ValueError("l0 names a number twice; name each once")
        return values

    @model_validator(mode="after")
    def _one_of_both(self) -> TrainingConfig:
        if self.l0 and self.l1:
            raise ValueError(
                f"both l0 = {_listed(self.l0)} and l1 = {_listed(self.l1)} are given; leave out one: l0 asks for a "
                "sparsity, l1 for a coefficient"
            )
        if not self.l0 and not self.l1:
            raise ValueError("neither l0 nor l1 is given; give one of them")
        return self

    @model_validator(mode="after")
    def _compiled_if_portable(self) -> TrainingConfig:
        if self.compile and self.kernels != "portable":
            raise ValueError("compile = true is for the portable step; give --training.kernels portable too")
        return self

    @field_validator("l1")
    @classmethod
    def _l1(cls, values: list[float]) -> list[float]:
        for value in values:
            if not 0 <= value < float("inf"):
                raise ValueError(f"l1 = {value:g} is not a penalty; give numbers of at least 0")
        if len(set(values)) < len(values):
            raise ValueError("l1 names a coefficient twice; name each once")
        return values

    @model_validator(mode="after")
    def _stable_part(self) -> TrainingConfig:
        if round(self.decay_fraction * self.steps) >= self.steps:
            raise ValueError(f"decay_fraction = {self.decay_fraction:g} leaves no step before the decay; give less")
        return self

    @field_validator("betas")
    @classmethod
    def _betas(cls, values: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= value < 1 for value in values):
            raise ValueError(f"betas = {values} must lie in [0, 1)")
        return values


VARIED = (
    "l0", "l1", "norm_power", "l1_norm_power", "mask", "lr", "betas", "clip_norm", "revive_after_tokens",
    "resample_every", "seed",
)  # fmt: skip
"""Keys of `training` in which members of one sweep may differ; the other keys are the whole sweep's."""


class Variant(Section):
    """How some members of a sweep differ from the recipe: in any key of `sae`, in some of `training`."""

    sae: dict[str, Any] = Field(default={})
    training: dict[str, Any] = Field(default={})

    @field_validator("sae", mode="before")
    @classmethod
    def _of_earlier_recipes(cls, keys: Any) -> Any:
        return as_now(keys)

    @field_validator("training")
    @classmethod
    def _only_a_members_own(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in values:
            if key not in VARIED:
                raise ValueError(f"training.{key} is one for the whole sweep; a variant may set {', '.join(VARIED)}")
        return values


MAX_ACTIVE = 100.0
"""`choice.max_active`, unless it is given."""


class ChoiceConfig(Section):
    """Which member is the one: fewer than `max_active` active features per token, but not far fewer."""

    max_active: AnyFloat = Field(default=MAX_ACTIVE, gt=0)
    """N of the rule: fewer than so many active features per token, but not far fewer; of members that were asked for an
    L0, and have about that, at most so many asked for. If every L0 asked for is above 100, the smallest of them unless
    this is given."""
    per_variant: bool = Field(default=False)
    """One choice for each variant of each hook; if false, one for each hook, over all of its variants."""
    extend_to: int | None = Field(default=None, ge=1)
    """Steps to which the chosen member is trained on; none leaves the choice at its sweep length."""
    extend_decay_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the extended run's steps over which the learning rate falls to 0, at its end."""

    @field_validator("max_active")
    @classmethod
    def _a_number(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("give a number above 0; inf admits every member")
        return value
