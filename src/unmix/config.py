"""The description of a run: what is read, what is trained, for how long. Strict, and written back resolved.

A recipe is YAML with these sections; a key that is not here is an error that names the nearest one. Dotted
overrides (`--training.steps 100`) are applied on top. Constants cite the recipe they come from: "April 2024" is
transformer-circuits.pub/2024/april-update#training-saes.
"""

from __future__ import annotations

import difflib
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from unmix import yamltext
from unmix.errors import UserError
from unmix.hooknames import canonical


class Section(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """The language model whose activations are read."""

    name: str = "embedded"
    """`embedded`; `smollm2`, once `unmix fetch smollm2` has brought it; a folder in `transformers` format; a .gguf file
    (dequantised to `dtype`); or a name on the hub."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers the language model computes in; activations reach the SAE in float32 either way."""
    matmul: Literal["fp32", "bf16", "auto"] = "auto"
    """Its matrix products while activations are made: `fp32` in the model's own dtype; `bf16` with a float32 residual
    stream; what that changes is measured and printed. `auto`: the faster one, which is measured when a run begins
    (fp32 for a model that is not float32). An evaluation is made in the model's dtype."""

    @model_validator(mode="after")
    def _one_narrowing(self) -> ModelConfig:
        if self.matmul == "bf16" and self.dtype != "float32":
            raise ValueError(f"matmul = bf16 is for a model in float32, and dtype = {self.dtype}; leave matmul at auto")
        return self


class CorpusConfig(Section):
    """Where the documents come from."""

    source: str = Field(default="stdlib", min_length=1)
    """`stdlib`, a file of text or records (.jsonl, .json, .csv, .tsv, .parquet, .arrow), a folder of these or of
    `save_to_disk`, or `datasets:NAME[:CONFIG[:SPLIT]]` (docs/corpora.md)."""
    field: str = "text"
    """The field (JSON, datasets) or column (CSV, Parquet, Arrow) that holds the text."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the documents kept out of training, by hash of the document."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Stop reading after this many tokens of a split; none reads the whole corpus."""


class ActivationsConfig(Section):
    """Which activations, and in which order."""

    hooks: list[str] = Field(default=["resid_post.3"], min_length=1)
    """`resid_pre.L`, `resid_post.L`, `attn_out.L`, `mlp_out.L` (or TransformerLens' names), or a module path; one
    dictionary per hook and l1. `*` stands for every layer on the command line."""
    sequence_length: int = Field(default=256, ge=2)
    """Tokens a sequence, the leading BOS included."""
    chunk_sequences: int = Field(default=256, ge=1)
    """Sequences whose tokens are shuffled together; the window of the shuffle in sequences."""
    store: Path | None = None
    """A folder written by `unmix harvest` to read from instead of running the model."""
    seed: int = 0

    @field_validator("hooks")
    @classmethod
    def _hooks(cls, values: list[str]) -> list[str]:
        values = [canonical(hook) for hook in values]
        if len(set(values)) < len(values):
            raise ValueError("a hook stands twice in hooks; name each once")
        return values


class SAEConfig(Section):
    """The shape of the dictionary."""

    features: int = Field(default=8192, ge=1)
    nonlinearity: Literal["relu", "tanh_relu"] = "relu"
    """`tanh_relu`: features below 1, the normalized SAE (LessWrong post 3ZCKSArYwgg9P4hqQ)."""
    noise: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Standard deviation of Gaussian noise on the pre-activations, in training only (the normalized SAE: 1)."""
    decoder: Literal["free", "unit_norm"] = "free"
    """`unit_norm`: rows held at norm 1."""
    penalty: Literal["auto", "decoder_norm", "plain"] = "auto"
    """What the penalty multiplies a feature's activation by: the norm of its decoder row, or 1. `auto`: the norm for
    relu with a free decoder (else activations could shrink and rows grow), 1 otherwise."""
    scaling: Literal["none", "dataset", "token"] = "dataset"
    """`dataset`: one scalar brings E||x||² to D, measured without outliers, so that l1 means about the same on every
    hook. April 2024 brings E||x|| to √D, which differs where norms spread.
    `token`: every token is brought to the norm √D, and its reconstruction back."""
    decoder_init_norm: float | None = Field(default=None, gt=0)
    """Norm of the decoder's rows at the start. April 2024: between 0.05 and 1, 0.1 good. None: 0.1 for relu, 1 for
    bounded features, whose rows have to become long. Unit-norm decoders start at 1 regardless."""
    bias_init: Literal["zero", "mean"] = "mean"
    """Where the decoder's bias starts: the mean activation of the first chunk, or 0 (April 2024). From 0 the features
    have to explain the mean first: after a million tokens of SmolLM2 they were twice as many at the same error
    (records/2026-11-26_smollm2-first)."""

    @property
    def weigh_by_norm(self) -> bool:
        """Whether the penalty is Σ f_i ||W_dec_i||, and not Σ f_i."""
        plain = self.decoder == "unit_norm" or self.nonlinearity == "tanh_relu"
        return self.penalty == "decoder_norm" or (self.penalty == "auto" and not plain)

    @property
    def initial_row_norm(self) -> float:
        """What `decoder_init_norm` comes to."""
        if self.decoder == "unit_norm":
            return 1.0
        return self.decoder_init_norm or (0.1 if self.nonlinearity == "relu" else 1.0)

    @model_validator(mode="after")
    def _no_free_lunch(self) -> SAEConfig:
        if self.penalty == "plain" and self.decoder == "free" and self.nonlinearity == "relu":
            raise ValueError(
                "penalty = plain with a free decoder and relu: activations shrink and decoder rows grow at no cost; "
                "give decoder_norm, or a unit_norm decoder"
            )
        return self


OUTLIER = 10.0
"""Times the median norm: a longer token is an outlier. "Massive activations" (Sun et al. 2024, arXiv 2402.17762) are
hundreds of times as long as the rest in most language models; Qwen's begin at about ten times the median (dictionary
learning by Marks et al., issue 52), SmolLM2's first position is at up to 157 times it."""


class MaskConfig(Section):
    """Tokens that are left out: of training, of what scales and starts a dictionary, of the headline numbers of an
    evaluation. `auto` in its place means the defaults here, `none` that every token stays."""

    special: bool = False
    """The tokenizer's special tokens, BOS and document separators among them."""
    norm_above: float | None = Field(default=OUTLIER, gt=0)
    """Tokens longer than this many times the hook's median norm (over the first chunk); null keeps them."""

    def __str__(self) -> str:
        said = ["special tokens"] * self.special
        if self.norm_above is not None:
            said.append(f"tokens longer than {self.norm_above:g} times the median norm")
        return " and ".join(said)


EVERY_TOKEN = MaskConfig(special=False, norm_above=None)
_MASKS: dict[Any, MaskConfig] = {"auto": MaskConfig(), "none": EVERY_TOKEN}


def _mask(value: Any) -> Any:
    """A mask as its keys; what is neither a word for one nor keys is left for pydantic to refuse."""
    return _MASKS[value].model_dump() if isinstance(value, str) and value in _MASKS else value


def learning_rate(steps: int) -> float:
    """3e-3 · √(2,000 / steps), at most 3e-3, to two digits.

    For 2,000 steps 1e-3 to 7e-3 were tried (records/2026-11-26_smollm2-first); the root is a guess between that and
    rates in use for longer runs, and gives 7.2e-4 for 35,000 steps, 3e-4 for 200,000.
    """
    return float(f"{3e-3 * min(1, (2000 / steps) ** 0.5):.1e}")


class TrainingConfig(Section):
    """How members of the sweep are trained; every l1 with every hook is one member."""

    l1: list[float] = Field(default=[0.5, 0.8, 1.2, 2.0], min_length=1)
    """Coefficients α of the sparsity penalty, one member each."""
    norm_power: Literal[0, 1, 2] = 0
    """k: the squared error of a token is divided by ||x||^k."""
    l1_norm_power: float | Literal["matched"] = 0.0
    """p: the coefficient is α n̄^p, n̄ the mean norm of a hook's activations as the SAE sees them, measured without
    outliers. `matched`: the p
    with which both terms of the loss grow alike with n̄: 2 - k for bounded features with the plain penalty, 1 - k
    for all others (docs/norms.md)."""
    mask: MaskConfig = MaskConfig()
    """Tokens of a batch that the SAE is not trained on: `auto` (outliers), `none`, or the keys of a mask."""
    steps: int = Field(default=2000, ge=1)
    """The default is a first look, a million tokens; dictionaries go on improving for hundreds of millions."""
    batch_tokens: int = Field(default=512, ge=1)
    """April 2024: 2048 or 4096, for 200k steps; short runs want more and smaller steps."""
    lr: float = Field(default_factory=lambda given: learning_rate(given["steps"]), gt=0, allow_inf_nan=False)
    """As `learning_rate` has it for so many steps, if not given."""
    betas: tuple[float, float] = (0.9, 0.999)
    """April 2024."""
    lr_warmup_steps: int = Field(default=100, ge=0)
    decay_fraction: float = Field(default=0.5, ge=0, lt=1)
    """Share of the steps over which the learning rate falls linearly to 0, at the end (April 2024: 20 %, of far more).
    The state before the decay is kept, for `extend`."""
    l1_warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """April 2024: the coefficient rises linearly from 0 over the first 5 % of the steps."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Gradient norm of a member at most this (April 2024: 1)."""
    selection: Literal["fp32", "bf16", "int8", "auto"] = "auto"
    """Once few features are active, how the encoder finds which: a product in bf16 costs half of one in float32, one in
    int8 a quarter, on machines made for them; the values of what they find are computed in float32 (docs/speed.md).
    `auto`: the fastest, which is measured when a run begins."""
    dense: Literal["fp32", "bf16", "auto"] = "auto"
    """While many features are active, the five products of a step: in bf16 it may take half the time, and what goes
    into and comes out of them is rounded (docs/speed.md); with noise and with tanh they are in float32 all the same.
    `auto`: the faster one, which is measured when a run begins."""
    border: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """Steps are sparse below this active share of features, dense above. `auto`: where both take the same time, which
    is measured when a run begins."""
    dead_after_tokens: int = Field(
        default_factory=lambda given: min(10_000_000, max(1, given["steps"] * given["batch_tokens"] // 5)), ge=1
    )
    """A feature that was silent for so many tokens counts as dead (April 2024: 10 M); if not given, a fifth of the
    run's tokens, at most that."""
    on_nonfinite: Literal["skip", "halt", "stop"] = "halt"
    """What becomes of a member with a batch on which its loss or gradient is not a number: `halt` leaves it at its last
    good weights while the others go on, `skip` leaves the batch out (ten in a row halt it), `stop` ends the run."""
    on_spike: Literal["say", "act"] = "say"
    """A batch whose squared error is over ten times the mean of the 16 batches before it: `say` names it and trains on
    it; `act` treats it as `on_nonfinite` says."""
    log_every: int = Field(default=50, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints of each member that stay: should the newest be damaged, the one before it is gone on from."""
    keep_every: int | None = Field(default=None, ge=1)
    """Checkpoints at multiples of this many steps stay too."""
    seed: int = 0

    @field_validator("mask", mode="before")
    @classmethod
    def _mask_by_word(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in _MASKS:
            raise ValueError("give auto, none, or keys such as {special: true, norm_above: 5}")
        return _mask(value)

    @field_validator("l1")
    @classmethod
    def _l1(cls, values: list[float]) -> list[float]:
        for value in values:
            if not 0 <= value < float("inf"):
                raise ValueError(f"l1 = {value:g} is not a penalty; give numbers of at least 0")
        if len(set(values)) < len(values):
            raise ValueError("a coefficient stands twice in l1; name each once")
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


VARIED = ("l1", "norm_power", "l1_norm_power", "mask", "lr", "betas", "clip_norm", "seed")
"""Keys of `training` in which members of one sweep may differ; the rest is the sweep's."""


class Variant(Section):
    """What some members of a sweep have otherwise than the recipe says: any key of `sae`, some of `training`."""

    sae: dict[str, Any] = {}
    training: dict[str, Any] = {}

    @field_validator("training")
    @classmethod
    def _only_a_members_own(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in values:
            if key not in VARIED:
                raise ValueError(f"training.{key} is one for the whole sweep; a variant may set {', '.join(VARIED)}")
        return values


class ChoiceConfig(Section):
    """Which member is the one: fewer than `max_active` active features per token, but not far fewer."""

    max_active: float = Field(default=100, gt=0)
    extend_to: int | None = Field(default=None, ge=1)
    """Steps to which the chosen member is trained on; none leaves the choice at its sweep length."""
    extend_decay_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the extended run's steps over which the learning rate falls to 0, at its end."""


class RunConfig(Section):
    """One run, from corpus to choice."""

    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run folder is `runs/NAME`."""
    model: ModelConfig = ModelConfig()
    corpus: CorpusConfig = CorpusConfig()
    activations: ActivationsConfig = ActivationsConfig()
    sae: SAEConfig = SAEConfig()
    training: TrainingConfig = TrainingConfig()
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]*$")], Variant] = {}
    """Named departures from `sae` and `training`; with any, the members are those of the variants alone."""
    choice: ChoiceConfig = ChoiceConfig()
    sinks: list[Literal["tensorboard", "wandb"]] = []
    """Where metrics go beside metrics.jsonl."""

    def of_variant(self, name: str) -> tuple[SAEConfig, TrainingConfig]:
        """The sections `sae` and `training` of a variant; of the recipe itself for the name ""."""
        own = self.variants[name] if name else Variant()
        training = self.training.model_dump() | own.training
        mask = _mask(training["mask"])
        if mask is None or isinstance(mask, dict):  # a variant's keys change those of the recipe
            training["mask"] = self.training.mask.model_dump() | (mask or {})
        return (
            SAEConfig.model_validate(self.sae.model_dump() | own.sae),
            TrainingConfig.model_validate(training),
        )

    @model_validator(mode="after")
    def _variants_fit(self) -> RunConfig:
        for name in self.variants:
            try:
                self.of_variant(name)
            except ValidationError as error:
                raise ValueError(f"variant {name}: {_say(error.errors()[0], error.title)}") from None
        return self

    @model_validator(mode="after")
    def _extension_is_longer(self) -> RunConfig:
        to = self.choice.extend_to
        if to is not None and to < self.training.steps:
            raise ValueError(
                f"choice.extend_to = {to} is less than training.steps = {self.training.steps}; raise it, or give null"
            )
        return self


def load(recipe: Path | None = None, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Defaults <- recipe <- dotted overrides. Raises `UserError` in one line for anything that does not fit."""
    data: dict[str, Any] = {}
    if recipe is not None:
        try:
            text = recipe.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"no recipe at {recipe}; `unmix sweep --help` lists those that ship with unmix") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {recipe}: {error}") from None
        try:
            loaded = yamltext.parse(text)
        except ValueError as error:
            raise UserError(f"{recipe} is not YAML for a recipe: {error}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise UserError(f"{recipe} holds a {type(loaded).__name__}, not sections such as `training:`")
        data = loaded or {}
    for dotted, value in (overrides or {}).items():
        *path, key = dotted.split(".")
        at = data
        for part in path:
            inside = at.get(part)
            inside = {} if inside is None else _mask(inside) if part == "mask" else inside  # a mask by word is opened
            at[part] = inside
            at = inside
            if not isinstance(at, dict):
                raise UserError(f"--{dotted}: {part} is a value in the recipe, not a section")
        at[key] = value
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(_say_all(error)) from None


def load_resolved(data: Any, path: Path) -> RunConfig:
    """The recipe of a run folder. Raises `UserError` if this version cannot read it."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(f"the recipe in {path} cannot be read by this version of unmix: {_say_all(error)}") from None


def dump(config: RunConfig) -> dict[str, Any]:
    """The resolved recipe as plain data; `load` of it gives the same run."""
    return config.model_dump(mode="json")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return found


def _say_all(error: ValidationError) -> str:
    """The first problems in one line; not the defaults that could not be made because of them."""
    problems = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]
    return "; ".join(_say(problem) for problem in problems[:3])


def _say(problem: Any, section: str = "RunConfig") -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys(problem["loc"][:-1], globals()[section])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, 1, 0.5)
        remedy = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"unknown key {where}; {remedy}"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    shown = "" if isinstance(given, (dict, RunConfig)) or not where else f" = {_short(given)}"
    return f"{where}{shown}: {message}" if where else message


def _short(value: Any) -> str:
    """`repr`, of what is long or deep only the beginning."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxlist, brief.maxstring, brief.maxother = 2, 12, 120, 120
    return brief.repr(value)


def _keys(path: tuple[Any, ...], model: Any) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))
