"""Metrics elsewhere too: TensorBoard, Weights & Biases. `metrics.jsonl` stays the record; these are copies to look at.

A run that was stopped writes the steps behind its last checkpoint again, also into these. What was trained on beyond
the sweep is a curve of its own, as it is a member of its own: it begins before the sweep's decay.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from unmix.errors import UserError

Row = dict[str, Any]
Sink = Callable[[list[Row]], None]
_NOT_METRICS = ("step", "member", "hook", "l1", "target_l0", "phase", "variant")
_OFFLINE = "run `wandb login`, set WANDB_MODE=offline to keep the metrics on this machine, or leave wandb out of sinks"


def check_sinks(names: Sequence[str]) -> None:
    """Raises `UserError` if a library is not installed, or its service would not take the metrics: before anything is
    loaded or written. A sink that works offline, as wandb may, needs no service."""
    for name in names:
        if name == "tensorboard":
            _import("torch.utils.tensorboard", "tensorboard")
        elif name == "wandb":
            _log_in(_import("wandb", "wandb"))


def open_sinks(names: list[str], folder: Path, recipe: dict[str, Any]) -> list[tuple[Sink, Callable[[], None]]]:
    """(write rows, close) for each name. Raises `UserError` as `check_sinks` does."""
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [makers[name](folder, recipe) for name in names]


def _numbers(row: Row) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in row.items()
        if name not in _NOT_METRICS and isinstance(value, (int, float)) and math.isfinite(value)
    }


def _member(row: Row) -> str:
    """As its folder is called: `l0-20`, `l0-20-extended`."""
    return f"{row['member']}-extended" if row["phase"] == "extend" else str(row["member"])


def _tensorboard(folder: Path, recipe: dict[str, Any]) -> tuple[Sink, Callable[[], None]]:
    writer = _import("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def write(rows: list[Row]) -> None:
        for row in rows:
            for name, value in _numbers(row).items():
                writer.add_scalar(f"{name}/{_member(row)}", value, row["step"])

    return write, writer.close


def _wandb(folder: Path, recipe: dict[str, Any]) -> tuple[Sink, Callable[[], None]]:
    wandb = _import("wandb", "wandb")
    # WANDB_MODE=offline, WANDB_PROJECT and the like are read by the library itself
    try:
        run = wandb.init(project="unmix", name=recipe["name"], config=recipe, dir=str(folder), reinit="create_new")
    except Exception as error:  # as in `_log_in`
        raise UserError(f"sinks: wandb cannot start a run ({_line(error)}); {_OFFLINE}") from None

    def write(rows: list[Row]) -> None:
        for step in sorted({row["step"] for row in rows}):
            at_step = [row for row in rows if row["step"] == step]
            run.log(
                {f"{_member(row)}/{name}": value for row in at_step for name, value in _numbers(row).items()},
                step=step,
            )

    return write, run.finish


def _log_in(wandb: Any) -> None:
    """Log in with the key that wandb finds, which it checks with its server. Nothing to do if it is offline or off.

    Never asks for a key where wandb can be kept from it: a run may be started where nobody is at the terminal.
    """
    if wandb.setup().settings.mode in ("offline", "dryrun", "disabled"):
        return
    unasked = {"prompt": False} if "prompt" in inspect.signature(wandb.login).parameters else {}
    try:
        logged_in = wandb.login(verify=True, **unasked)
    except Exception as error:  # no terminal, no network, a key that is malformed or refused: each its own kind
        raise UserError(f"sinks: wandb cannot log in ({_line(error)}); {_OFFLINE}") from None
    if not logged_in:
        raise UserError(f"sinks: wandb has no key; {_OFFLINE}")


def _import(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except Exception as error:  # absent, or broken in its own way
        raise UserError(
            f"sinks: {package} cannot be imported ({_line(error)}); pip install {package}, or leave it out of sinks"
        ) from None


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
