"""Whether a device can take the portable step as it is asked for, by a tiny one: before a run begins or resumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unmix.dictionary.nonlinearities import Relu
from unmix.dictionary.terms import L1, SquaredError
from unmix.errors import UserError
from unmix.kernels.compiled import CannotCompile
from unmix.kernels.dispatch import Dense, Step
from unmix.kernels.task import Task
from unmix.kernels.trial import SETTLED, seeded_weights


@contextmanager
def compiling() -> Iterator[None]:
    """Raises `UserError`, with the remedy, where torch cannot compile a step."""
    try:
        yield
    except CannotCompile as error:
        raise UserError(
            f"training.compile = true: torch cannot compile here ({error}); install a C++ compiler, or leave it out, "
            "which a run that exists may too"
        ) from None


def require(device: torch.device, dense: Dense, compiled: bool) -> None:
    """Raises `UserError`, with the remedy, if products in bf16 or `torch.compile` do not work there."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: w.to(device) for name, w in seeded_weights(4, 8, SETTLED, generator).items()}
    gradients = {name: torch.empty_like(w) for name, w in weights.items()}
    task, x_BD = Task(Relu(), ((1.0, SquaredError()), (1.0, L1()))), torch.randn(16, 4, generator=generator).to(device)
    try:
        with compiling():
            Step(dense=dense, portable=True, compiled=compiled)(x_BD, x_BD, weights, gradients, task)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:  # torch's ways to say that a device has no bf16
        if dense != "bf16":
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"training.dense = bf16: {device} has no products in bf16 ({reason}); give --training.dense fp32, or "
            "another --device"
        ) from None
