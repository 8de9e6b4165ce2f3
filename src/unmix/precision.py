"""Where a recipe says `auto`: the narrowest numbers that the processor has instructions for; decided once a run."""

from __future__ import annotations

from typing import Any, Literal

import torch

from unmix.config import RunConfig, flat

BF16, INT8 = {"avx512bf16", "amx-bf16"}, {"avx512vnni", "avxvnni", "amx-int8"}


def _instructions() -> set[str]:
    from llvmlite.binding import get_host_cpu_features

    return {name for name, there in get_host_cpu_features().items() if there}


def matmul() -> Literal["fp32", "bf16"]:
    """What this processor multiplies matrices fastest in: those of a language model, and of a dense step."""
    return "bf16" if "bf16" in precisions() else "fp32"


def selection() -> Literal["fp32", "bf16", "int8"]:
    """What this processor finds active features fastest in."""
    return "int8" if "int8" in precisions() and hasattr(torch, "_int_mm") else matmul()


def precisions() -> list[str]:
    """In which this processor has instructions for products."""
    found = _instructions()
    return ["fp32", *(name for name, sets in (("bf16", BF16), ("int8", INT8)) if sets & found)]


def resolve(recipe: RunConfig, earlier: dict[str, Any] | None = None) -> RunConfig:
    """The recipe with `model.matmul`, `training.selection` and `training.dense` decided.

    What a run began with (`earlier`: its recipe) it goes on with, on whatever machine; one from before there was a
    choice was in fp32. With a store, `model.matmul` stays open: the store was made with what it was made with.
    """
    began = None if earlier is None else flat(earlier)

    def decided(section: str, **here: str) -> Any:
        part = getattr(recipe, section)
        opened = {key: value for key, value in here.items() if getattr(part, key) == "auto"}
        if began is not None:
            opened = {key: began.get(f"{section}.{key}", "fp32") for key in opened}
        return part.model_copy(update=opened)

    model = decided("model", matmul=matmul())
    if recipe.activations.store is not None:
        model = recipe.model
    elif recipe.model.matmul == "auto" and recipe.model.dtype != "float32":
        model = recipe.model.model_copy(update={"matmul": "fp32"})
    training = decided("training", selection=selection(), dense=matmul())
    return recipe.model_copy(update={"model": model, "training": training})
