"""What a run would take: the counts by hand, the times from a clock that is set."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from tiny_run import make

from unmix.cli import main
from unmix.lm.hooks import find_blocks
from unmix.lm.model import load_language_model
from unmix.training import plan as plans
from unmix.training.extension import extend
from unmix.training.plan import Spread, plan
from unmix.training.run import sweep

D = 16
QUIET: list[str] = []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the run would be."""
    return tmp_path / "runs" / "tiny"


def test_the_counts_are_those_of_the_recipe(overrides, folder):
    recipe = make(overrides, training__l1=[], training__l0=[4, 8], choice__extend_to=90)
    found = plan(recipe, folder, QUIET.append)
    assert (found.members, found.steps, found.batch_tokens) == (2, 60, 48)
    assert (found.read, found.chunks) == (60 * 48, -(-60 * 48 // (8 * 16)))
    assert found.epochs == found.read / found.there
    assert found.dense_flops == 2 * 10 * D * 48 * found.read
    assert found.sparse_flops == sum(2 * D * 48 + 8 * D * l0 for l0 in (4, 8)) * found.read
    blocks = find_blocks(load_language_model(recipe.model).model)
    weights = sum(p.numel() for p in blocks[0].parameters())  # resid_post.0: one block of several
    assert len(blocks) > 1
    assert found.model_flops == 2 * weights * found.chunks * 8 * 16
    assert (found.device, found.device_bytes) == ("cpu", None)
    assert not folder.exists()
    assert found.extension_s is not None


def test_a_hook_without_a_number_runs_every_block(overrides, folder):
    """The embedding is before the blocks, a last norm behind them: nothing in the name says which."""
    lm = load_language_model(make(overrides).model)
    weights = sum(p.numel() for block in find_blocks(lm.model) for p in block.parameters())
    for hooks in (["transformer.wte"], ["resid_post.0", "transformer.ln_f"]):
        found = plan(make(overrides, activations__hooks=hooks), folder, QUIET.append)
        assert found.model_flops == 2 * weights * found.chunks * 8 * 16


def test_the_checkpoints_take_no_more_than_was_planned(overrides, folder):
    recipe = make(overrides)
    found = plan(recipe, folder, QUIET.append)
    sweep(recipe, folder)
    written = sum(path.stat().st_size for path in folder.glob("members/*/*/*"))
    assert 0.5 * found.disk_bytes < written <= found.disk_bytes
    assert found.sparse_flops is None  # an L1 coefficient asks for no L0


def test_the_checkpoints_of_an_extension_are_planned_too(overrides, folder):
    """They were left out: what was written was more than was said to be the most."""
    recipe = make(overrides, training__l1=[3.0], training__checkpoint_every=20, choice__extend_to=90)
    alone = plan(make(overrides, training__l1=[3.0], training__checkpoint_every=20), folder, QUIET.append)
    found = plan(recipe, folder, QUIET.append)
    sweep(recipe, folder)
    extend(folder, "l1-3", 90)
    written = sum(path.stat().st_size for path in folder.glob("members/*/*/*"))
    assert alone.disk_bytes < written <= found.disk_bytes


def test_the_time_is_that_of_its_parts(overrides, folder, monkeypatch):
    """On a clock that goes on by a second each time it is looked at, a step takes one, as do a chunk and a line."""
    recipe = make(overrides, training__l1=[], training__l0=[4, 8], sae__architecture="topk", choice__extend_to=90)
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    found = plan(recipe, folder, QUIET.append)
    lines = 60 // 7 + 1
    assert found.members_s == Spread(2.0 * (60 + lines), 2.0 * (60 + lines))
    assert found.harvest_s == found.chunks
    assert found.sweep_s == found.members_s + Spread(found.harvest_s, found.harvest_s)
    more = -(-30 * 48 // (8 * 16))
    assert found.extension_s == Spread(30.0 + more, 30.0 + more)


@pytest.mark.parametrize(("to", "more"), [(90, 60), (60, 30)])
def test_an_extension_begins_before_the_decay_of_the_sweep(overrides, folder, monkeypatch, to, more):
    """Its steps were counted from the end of the sweep: with the usual decay, half of it, far too few."""
    half = {"training__l1": [], "training__l0": [4], "sae__architecture": "topk", "training__decay_fraction": 0.5}
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    found = plan(make(overrides, **half, choice__extend_to=to), folder, QUIET.append)
    chunks = -(-more * 48 // (8 * 16))
    assert found.extension_s == Spread(float(more + chunks), float(more + chunks))


def test_a_member_that_begins_dense_has_a_range(overrides, folder, monkeypatch):
    recipe = make(overrides, training__l1=[3.0], sae__features=4096, choice__max_active=96)
    ticks = itertools.count()
    figures = {"width": D, "features": 4096, "tokens": 48, "dense": {"fp32": 0.9, "bf16": 0.8},
               "sparse": {"fp32": 0.2, "int8": 0.1}, "sparse_busy": 0.8}  # fmt: skip
    monkeypatch.setattr(plans, "decide", lambda recipe, widths: (recipe, figures))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    found = plan(recipe, folder, QUIET.append)
    sparse = 0.1 + 0.7 * (96 / 4096 - 0.01) / 0.07
    lines = 60 // 7 + 1
    assert found.members_s.high == 60 + lines
    assert found.members_s.low == pytest.approx(60 * (1 - (0.8 - sparse)) + lines)


def test_a_store_has_no_model_to_run(overrides, folder, tmp_path):
    store = tmp_path / "store"
    words = [
        word
        for key, value in overrides.items()
        if key.split(".")[0] in ("model", "corpus")
        for word in (f"--{key}", str(value))
    ]
    assert main(["harvest", "--out", str(store), "--tokens", "1000", "--hook", "resid_post.0",
                 "--activations.sequence_length", "16", *words]) == 0  # fmt: skip
    assert plan(make(overrides, activations__store=str(store)), folder, QUIET.append).model_flops is None
