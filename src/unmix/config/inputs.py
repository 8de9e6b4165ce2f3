"""What is read: the language model, the corpus, and which activations in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from unmix.config.corpus import CorpusConfig as CorpusConfig
from unmix.config.section import DEVICES, END_OF_SEEDS, Section
from unmix.disk import at_home
from unmix.hooknames import canonical

GIVEN = "given"
"""In the place of a file: rows that were handed over in Python."""


class ModelConfig(Section):
    """The language model whose activations are read."""

    name: str = "embedded"
    """`embedded`; `smollm2`, once `unmix fetch smollm2` has brought it; a folder in `transformers` format; a .gguf file
    (dequantised to `dtype`); or a name on the hub."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format the language model computes in; activations reach the SAE in float32 either way."""
    matmul: Literal["fp32", "bf16", "auto"] = "auto"
    """Number format of its matrix products while activations are made: `fp32` in the model's own dtype; `bf16` with a
    float32 residual stream; what that changes is measured and printed. `auto`: the faster one, which is measured when a
    run begins (fp32 for a model that is not float32). An evaluation is made in the model's dtype."""

    device: str | None = Field(default=None, pattern=DEVICES)
    """Where it runs, if not on the run's `device`."""

    @model_validator(mode="after")
    def _one_narrowing(self) -> ModelConfig:
        if self.matmul == "bf16" and self.dtype != "float32":
            raise ValueError(f"matmul = bf16 is for a model in float32, and dtype = {self.dtype}; leave matmul at auto")
        return self


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
    rows: str | None = None
    """Activations of your own to read instead: a `.npy` or safetensors file of [tokens, D]; `given` in a run that was
    started from Python with tensors. `model` and `corpus` are then not read, but for `corpus.held_out_fraction`."""
    targets: str | None = None
    """What is to be given for `rows`, if it is not the rows themselves: a file as that of `rows`, [tokens, E], row by
    row; `given` beside rows that are. Then each dictionary is a transcoder: ŷ of x, and explained variance is that of
    y. x and y have each a scale and a mean of their own; masks go by ||x||, `training.norm_power` by ||y||."""
    token_ids: Path | None = None
    """Of `rows` in a file: a `.npy` file of [tokens] integers, the token that each row is of."""
    special_ids: list[int] = Field(default=[])
    """Of `rows` with token ids: rows of these tokens are neither trained on nor judged on."""
    seed: int = Field(default=0, ge=0, lt=END_OF_SEEDS)
    """Of the order of sequences, and of the shuffle of their tokens."""

    @field_validator("store", "rows", "targets", "token_ids", mode="before")
    @classmethod
    def _of_home(cls, value: Any) -> Any:
        """`~` is the home of the user, as a shell would have it: in a recipe, and behind `=`, no shell has seen it."""
        if not isinstance(value, str | Path) or not str(value).startswith("~"):
            return value
        return str(at_home(Path(value)))

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Its keys, without those of rows that older versions do not know, where they are at their default."""
        data: dict[str, Any] = dump(self)
        later = ("targets", "token_ids", "special_ids")
        return {key: value for key, value in data.items() if key not in later or value}

    @model_validator(mode="after")
    def _ids_of_rows(self) -> ActivationsConfig:
        given = "token_ids" if self.token_ids else "special_ids" if self.special_ids else None
        if given and self.rows is None:
            raise ValueError(
                f"{given} = {getattr(self, given)} is for activations of your own (activations.rows); with a language "
                "model, training.mask.special leaves out special tokens"
            )
        return self

    @model_validator(mode="after")
    def _targets_of_rows(self) -> ActivationsConfig:
        if self.targets is not None and self.rows is None:
            raise ValueError(
                f"targets = {self.targets} is for activations of your own (activations.rows); with a language model "
                "every dictionary gives back what it reads"
            )
        if self.targets is not None and (self.targets == GIVEN) != (self.rows == GIVEN):
            raise ValueError(
                f"rows = {self.rows} and targets = {self.targets}: give both as files, or both from Python as arrays"
            )
        return self

    @model_validator(mode="after")
    def _one_place(self) -> ActivationsConfig:
        if self.rows is not None and self.store is not None:
            raise ValueError(f"rows = {self.rows} and store = {self.store} are both given; leave out one")
        return self

    @field_validator("hooks")
    @classmethod
    def _hooks(cls, values: list[str]) -> list[str]:
        values = [canonical(hook) for hook in values]
        if len(set(values)) < len(values):
            raise ValueError("hooks names a hook twice; name each once")
        return values
