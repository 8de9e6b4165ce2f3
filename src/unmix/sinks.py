"""Metrics elsewhere too: TensorBoard, Weights & Biases. `metrics.jsonl` stays the record; these are copies to look at.

A run that was stopped writes the steps behind its last checkpoint again, also into these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unmix.errors import UserError

Row = dict[str, Any]
Sink = Callable[[list[Row]], None]
_NOT_METRICS = ("step", "member", "hook", "l1", "phase", "variant", "coefficient")


def open_sinks(names: list[str], folder: Path, recipe: dict[str, Any]) -> list[tuple[Sink, Callable[[], None]]]:
    """(write rows, close) for each name. Raises `UserError` if a library is not installed."""
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [makers[name](folder, recipe) for name in names]


def _numbers(row: Row) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in row.items()
        if name not in _NOT_METRICS and isinstance(value, (int, float)) and math.isfinite(value)
    }


def _tensorboard(folder: Path, recipe: dict[str, Any]) -> tuple[Sink, Callable[[], None]]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("sinks: tensorboard is not installed; pip install tensorboard, or leave it out") from None
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(rows: list[Row]) -> None:
        for row in rows:
            for name, value in _numbers(row).items():
                writer.add_scalar(f"{name}/{row['member']}", value, row["step"])

    return write, writer.close


def _wandb(folder: Path, recipe: dict[str, Any]) -> tuple[Sink, Callable[[], None]]:
    try:
        import wandb
    except ImportError:
        raise UserError("sinks: wandb is not installed; pip install wandb, or leave it out") from None
    # WANDB_MODE=offline, WANDB_PROJECT and the like are read by the library itself
    run = wandb.init(project="unmix", name=recipe["name"], config=recipe, dir=str(folder), reinit="create_new")

    def write(rows: list[Row]) -> None:
        for step in sorted({row["step"] for row in rows}):
            at_step = [row for row in rows if row["step"] == step]
            run.log(
                {f"{row['member']}/{name}": value for row in at_step for name, value in _numbers(row).items()},
                step=step,
            )

    return write, run.finish
