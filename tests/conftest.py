"""Fixtures that several folders use."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny_models import tiny_model_folder
from tiny_run import write_texts

# read when triton is first imported: without a GPU, its kernels run in its interpreter
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a494441"
    "54789c636000000002000148afa4710000000049454e44ae426082"
)
"""One pixel."""

# a loaded machine is slow; that is no failure
settings.register_profile("unmix", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unmix")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, in the order of their files: begun last, one of them would keep a single processor waiting."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """torch's own seed is another in each process; a test that draws without a seed would fail one time in many."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def seeded_module() -> None:
    """The same for what a module's own fixtures draw, which come before `seeded`."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a report's time. It is done in `tests/report`, and in tests marked `pictures`."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr("unmix.report.axes.png", lambda figure: PNG)


@pytest.fixture
def overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Dotted overrides of a run that takes a second; the cache is the test's own.

    What `auto` would time is fixed: two processes, or two shapes, may find different things fastest, and other bits.
    """
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return {
        "name": "tiny",
        "model.name": str(tiny_model_folder("gpt2")),
        "model.matmul": "bf16",
        "corpus.source": str(write_texts(tmp_path / "texts")),
        "activations.hooks": ["resid_post.0"],
        "activations.sequence_length": 16,
        "activations.chunk_sequences": 8,
        "sae.features": 48,
        "training.l1": [0.0, 1.0, 3.0, 30.0],
        "training.selection": "int8",
        "training.dense": "bf16",
        "training.border": 0.1,
        "training.steps": 60,
        "training.batch_tokens": 48,
        "training.lr": 3e-3,
        "training.lr_warmup_steps": 5,
        "training.decay_fraction": 0.0,
        "training.log_every": 7,
        "training.checkpoint_every": 1000,
        "training.dead_after_tokens": 500,
    }
