"""The few functions that training needs of a number, on the host or left on a device: one formula for both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import Tensor

from unmix.kernels.task import Number, on_host

Record = TypeVar("Record", bound=Any)


def log(x: Number) -> Number:
    """ln x."""
    return x.log() if isinstance(x, Tensor) else math.log(x)


def exp(x: Number) -> Number:
    """e^x."""
    return x.exp() if isinstance(x, Tensor) else math.exp(x)


def sqrt(x: Number) -> Number:
    """√x."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def between(least: float, x: Number, most: float) -> Number:
    """x, but at least and at most these."""
    return x.clamp(least, most) if isinstance(x, Tensor) else max(least, min(most, x))


def where(condition: bool | Tensor, yes: Number, no: Number) -> Number:
    """One of the two; a condition on a device has a number on it at least on one side."""
    if isinstance(condition, Tensor):
        return torch.where(condition, yes, no)
    return yes if condition else no


def mean(numbers: Collection[Number]) -> Number:
    """Of numbers that are all on the host, or all on a device."""
    there = [x for x in numbers if isinstance(x, Tensor)]
    return torch.stack(there).mean() if there else fmean(x for x in numbers if not isinstance(x, Tensor))


def read(record: Record) -> Record:
    """A dataclass with its numbers on the host; tensors of more than one number stay where they are."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    there = {name: x for name, x in fields.items() if isinstance(x, Tensor) and not x.dim()}
    return dataclasses.replace(record, **dict(zip(there, on_host(list(there.values())), strict=True)))
