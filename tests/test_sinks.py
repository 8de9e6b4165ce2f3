"""Metrics in TensorBoard and in Weights & Biases (offline), through the command line."""

import json

import pytest
from tiny_run import make

from unmix.training import run


def test_tensorboard_holds_the_curves(overrides, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.sweep(make(overrides, training__l1=[1.0], sinks=["tensorboard"]), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    points = events.Scalars("l0/l1-1")
    assert [point.step for point in points] == [row["step"] for row in rows]
    assert [point.value for point in points] == pytest.approx([row["l0"] for row in rows])


def test_wandb_offline_holds_the_curves(overrides, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run.sweep(make(overrides, training__l1=[1.0], sinks=["wandb"]), tmp_path / "run")
    wandb.teardown()  # the end of the process, for the library: its service writes the file behind `finish`
    [log] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    assert b"l1-1/explained_variance" in content
