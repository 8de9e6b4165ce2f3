"""To compare two runs: what they left on disk, a run that is stopped, a store of the same activations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from unmix.activations.store import harvest
from unmix.config import RunConfig
from unmix.runlog import read_metrics
from unmix.training import run
from unmix.training.inputs import open_model, open_stream, store_facts
from unmix.training.loop import Stopped
from unmix.training.run import Watch

CLOCK = ("tokens_per_s", "seconds")


def state(folder: Path, member: str, step: int) -> dict[str, Tensor]:
    """The training state of a checkpoint."""
    path = folder / "members" / member / f"step-{step:09d}" / "training_state.safetensors"
    return safetensors.torch.load_file(path)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What was logged, without what a clock said."""
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(folder / "metrics.jsonl")]


def stopping(recipe: RunConfig, folder: Path, at: int) -> None:
    """A sweep that is stopped after step `at`."""
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == at

    with pytest.raises(Stopped) as caught:
        run.sweep(recipe, folder, Watch(stop=stop))
    assert caught.value.step == at


def write_store(recipe: RunConfig, folder: Path, dtype: str = "float32", rows: int = 1500) -> Path:
    """A store of the recipe's activations."""
    model, tokens = open_model(recipe, lambda text: None)
    stream = open_stream(recipe, model, tokens)
    facts = store_facts(recipe, model, tokens)
    harvest(stream, folder, tokens=rows, dtype=dtype, shard_tokens=500, facts=facts)
    return folder
