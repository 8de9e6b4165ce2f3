"""The shape of the dictionary."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, model_validator

from unmix.config.section import Section

Architecture = Literal[
    "relu", "tanh_relu", "topk", "abstopk", "batchtopk", "matryoshka",
    "jumprelu", "jumprelu_tanh", "jumprelu_quadratic", "gated",
]  # fmt: skip
TOPK = ("topk", "abstopk", "batchtopk", "matryoshka")
"""Architectures that keep a given number of features: there is no coefficient to find."""
PER_TOKEN = ("topk", "abstopk")
"""Those that keep them of each token: a whole number."""


def as_now(keys: Any) -> Any:
    """The keys of an earlier recipe. `nonlinearity` is `architecture`, and `free` decoders were the default of both
    that there were, as `auto` has it; `bias_init` said where biases start, and c stayed in the activations."""
    if not isinstance(keys, dict):
        return keys
    now = dict(keys)
    if "nonlinearity" in now:
        now["architecture"] = now.pop("nonlinearity")
        if now.get("decoder") == "free":
            now["decoder"] = "auto"
    if "bias_init" in now:
        centre = {"zero": "none", "mean": "start"}
        now["centre"] = centre.get(now["bias_init"], now["bias_init"])
        del now["bias_init"]
    return now


class SAEConfig(Section):
    """The shape of the dictionary."""

    features: int = Field(default=8192, ge=1)
    """F, of every dictionary."""
    architecture: Architecture = "relu"
    """`relu`; `tanh_relu`: features below 1, the normalized SAE (LessWrong post 3ZCKSArYwgg9P4hqQ); `topk` and
    `batchtopk`: so many features of each token, or on average; `matryoshka`: a batchtopk whose first features
    reconstruct by themselves; `abstopk`: a topk whose features may be negative; `jumprelu`: each feature has a
    threshold, and the penalty is L0, `jumprelu_tanh`: about L0, `jumprelu_quadratic`: the square of its distance from
    the L0 asked for; `gated`: which features, and how much, apart (docs/architectures.md). Earlier recipes call it
    `nonlinearity`. A recipe that names neither one nor `training.l1` gets batchtopk: of those that were compared it
    costs the model least at L0 20, and ties with jumprelu at 50 and 100 (records/2026-11-26_centre)."""
    prefixes: list[int] | None = None
    """Numbers of first features that have to reconstruct by themselves, rising, below `features`: the loss is the mean
    over these and all. None: for matryoshka 1/32, 3/32, 7/32 and 15/32 of the features (Bussmann et al. 2025, arXiv
    2503.17547), otherwise no prefixes."""
    random_prefixes: int = Field(default=0, ge=0)
    """In place of `prefixes`, so many that are drawn anew for each step, evenly by their logarithm."""
    aligned: bool = False
    """Each feature's encoder and decoder are held at an inner product of 1 (aligned training, arXiv 2605.18629)."""
    multi_k: float = Field(default=0.0, ge=0)
    """Coefficient of the error with four times as many active features (Multi-TopK: Gao et al. 2024, A.2, 1/8); for
    topk, abstopk, batchtopk and matryoshka."""
    bandwidth: float = Field(default=0.05, gt=0)
    """ε of jumprelu: pre-activations this close to a threshold, half on each side, move it."""
    initial_threshold: float = Field(default=0.01, gt=0)
    """Threshold of every jumprelu feature at the start."""
    tanh_scale: float = Field(default=4.0, gt=0)
    """c of jumprelu_tanh: its penalty of a feature is tanh(c f ||W_dec||)."""
    target_pull: float = Field(default=25.0, gt=0)
    """Coefficient of jumprelu_quadratic, in multiples of what a jumprelu starts with for the same L0."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of Gaussian noise on the pre-activations, in training only (the normalized SAE: 1)."""
    decoder: Literal["auto", "free", "unit_norm"] = "auto"
    """`unit_norm`: rows held at norm 1. `auto`: so for the topk kinds and gated, free for the others. On
    the embedded model a gated dictionary of L0 20 came to an explained variance of 0.83 so, and to 0.61 with free rows,
    which its magnitudes can shrink at no cost."""
    penalty: Literal["auto", "decoder_norm", "plain"] = "auto"
    """What the penalty multiplies a feature's activation by: the norm of its decoder row, or 1. `auto`: the norm for
    relu with a free decoder (else activations could shrink and rows grow), 1 otherwise. Of relu and tanh_relu: other
    architectures have penalties of their own, or none."""
    scaling: Literal["none", "dataset", "token"] = "dataset"
    """`dataset`: one scalar brings E||x||² to D, measured without outliers, so that l1 means about the same on every
    hook. April 2024 brings E||x|| to √D, which differs where norms spread.
    `token`: every token is brought to the norm √D, and its reconstruction back. With `activations.targets`, `dataset`
    brings E||y||² to E by another scalar, and `token` is refused."""
    decoder_init_norm: float | None = Field(default=None, gt=0)
    """Norm of the decoder's rows at the start. April 2024: between 0.05 and 1, 0.1 good. None: 0.1 for relu, 1 for
    bounded features, whose rows have to become long. Unit-norm decoders start at 1 regardless."""
    centre: Literal["mean", "start", "none"] = "mean"
    """What is done with c, the mean activation of the first chunk. `mean`: x - c is encoded and reconstructed, and c is
    folded into the biases of what is saved. `start`: x is, and the biases start as if it were x - c (of relu and
    tanh_relu the decoder's alone). `none`: biases start at 0 (April 2024). From 0 the features have to explain the mean
    first: after a million tokens of SmolLM2 they were twice as many at the same error
    (records/2026-11-26_smollm2-first). With `start` every step moves all pre-activations by the product of W_enc's
    update with c, and features die of it (records/2026-11-26_three-seeds). Earlier recipes say `bias_init`: `mean` is
    `start`, `zero` is `none`."""

    bias_rate: float | None = Field(default=None, gt=0)
    """What the learning rate is multiplied by for the encoder's biases. None: √D/3 for relu on activations that are
    scaled, otherwise 1. A step of Adam moves each number by about lr, and so z by about lr ||x|| = lr √D through W_enc,
    but by lr through b_enc; and a relu is sparse by biases far below 0. At width 576, where it is 8, 24 did about as
    well (records/2026-11-28_bias-rate). Runs from before this key had 1, and keep it."""
    auxk: float | None = Field(default=None, ge=0)
    """Coefficient of an error that dead features are trained on: what the others leave over, from the `auxk_features`
    of them that would be most active (AuxK: Gao et al. 2024, arXiv 2406.04093, A.2). None: 0.3 for the topk
    kinds, otherwise 0. On the embedded model 1/32, as there, and 1 did as well where rows have length 1."""
    auxk_features: int | None = Field(default=None, ge=1)
    """None: half the width of what is reconstructed, at most 512."""
    preactivation: float | None = Field(default=None, ge=0)
    """Coefficient of what dead features lack to be active, max(θ - z, 0) ||W_dec||. None: 3e-6 for jumprelu_tanh
    (transformer-circuits.pub/2025/january-update), otherwise 0."""

    @property
    def preactivation_coefficient(self) -> float:
        """What `preactivation` comes to."""
        given = self.preactivation
        return (3e-6 if self.architecture == "jumprelu_tanh" else 0.0) if given is None else given

    def bias_rate_at(self, width: int) -> float:
        """What `bias_rate` comes to where x has this width D."""
        if self.bias_rate is not None:
            return self.bias_rate
        return math.sqrt(width) / 3 if self.architecture == "relu" and self.scaling != "none" else 1.0

    @property
    def auxk_coefficient(self) -> float:
        """What `auxk` comes to."""
        return (0.3 if self.takes_k else 0.0) if self.auxk is None else self.auxk

    @property
    def weigh_by_norm(self) -> bool:
        """Whether the penalty is Σ f_i ||W_dec_i||, and not Σ f_i."""
        plain = self.has_unit_rows or self.architecture == "tanh_relu"
        return self.penalty == "decoder_norm" or (self.penalty == "auto" and not plain)

    @property
    def initial_row_norm(self) -> float:
        """What `decoder_init_norm` comes to."""
        if self.has_unit_rows:
            return 1.0
        return self.decoder_init_norm or (1.0 if self.architecture == "tanh_relu" else 0.1)

    @property
    def has_unit_rows(self) -> bool:
        """What `decoder` comes to."""
        auto = self.takes_k or self.architecture == "gated"
        return self.decoder == "unit_norm" or (self.decoder == "auto" and auto)

    @property
    def takes_k(self) -> bool:
        """Whether the architecture keeps a number of features that it is given."""
        return self.architecture in TOPK

    @property
    def has_target(self) -> bool:
        """Whether its penalty aims at the L0 asked for by itself."""
        return self.architecture == "jumprelu_quadratic"

    @property
    def has_own_threshold(self) -> bool:
        """Whether each feature has a trained threshold."""
        return self.architecture.startswith("jumprelu")

    @property
    def all_prefixes(self) -> tuple[int, ...]:
        """The prefixes with all features behind them; empty where there are none, or where they are drawn."""
        F, prefixes = self.features, self.prefixes
        if self.random_prefixes:
            return ()
        if prefixes is None:
            prefixes = [F * n // 32 for n in (1, 3, 7, 15)] if self.architecture == "matryoshka" else []
        return (*prefixes, F) if prefixes else ()

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_recipes(cls, data: Any) -> Any:
        return as_now(data)

    @model_validator(mode="after")
    def _no_noisy_threshold(self) -> SAEConfig:
        if self.noise and self.architecture in ("batchtopk", "matryoshka"):
            raise ValueError(
                f"noise = {self.noise:g} with {self.architecture}: its threshold would be that of noisy activations, "
                "and the saved dictionary has no noise; give noise 0, or topk"
            )
        return self

    @model_validator(mode="after")
    def _more_of_k(self) -> SAEConfig:
        if self.multi_k and not self.takes_k:
            raise ValueError(
                f"multi_k = {self.multi_k:g} with {self.architecture}, which has no k to multiply; "
                f"leave it out, or give one of {', '.join(TOPK)}"
            )
        return self

    @model_validator(mode="after")
    def _prefixes_are_drawn_or_given(self) -> SAEConfig:
        if self.random_prefixes and self.prefixes:
            raise ValueError(
                f"prefixes = {self.prefixes} and random_prefixes = {self.random_prefixes} are both given; leave out one"
            )
        if self.random_prefixes >= self.features:
            raise ValueError(
                f"random_prefixes = {self.random_prefixes} of {self.features} features cannot all differ; "
                f"give at most {self.features - 1}, or more features"
            )
        return self

    @model_validator(mode="after")
    def _prefixes_rise(self) -> SAEConfig:
        whole = (0, *self.all_prefixes)
        if any(a >= b for a, b in pairwise(whole)):
            given = "those of matryoshka" if self.prefixes is None else self.prefixes
            raise ValueError(
                f"prefixes = {given} must rise from 1 and stay below the {self.features} features, once each; "
                "give other prefixes, or more features"
            )
        return self

    @model_validator(mode="after")
    def _no_free_lunch(self) -> SAEConfig:
        if self.penalty == "plain" and not self.has_unit_rows and self.architecture == "relu":
            raise ValueError(
                "penalty = plain with a free decoder and relu: activations shrink and decoder rows grow at no cost; "
                "give penalty decoder_norm, or decoder unit_norm"
            )
        return self
