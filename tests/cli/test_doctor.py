"""`unmix doctor`: what it finds is what is there, in one screen or as JSON."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import NoReturn

import pytest
import torch

import unmix
from unmix import precision
from unmix.cli import doctor, main
from unmix.kernels.trial import Times

TIMES = Times(dense={"fp32": 0.2, "bf16": 0.1}, sparse={"fp32": 0.05, "int8": 0.02}, sparse_busy=0.12, rows=128)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache with nothing in it, and a processor alone that takes so long."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "measure", lambda shape: TIMES)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_json_has_what_is_installed_and_what_auto_becomes(capsys, tmp_path):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unmix"], found["python"]) == (unmix.__version__, platform.python_version())
    assert found["libraries"]["torch"] == metadata.version("torch")
    assert found["auto"]["device"] == "cpu"
    assert found["auto"]["chosen"] == {
        "training.dense": "bf16",
        "training.selection": "int8",
        "training.border": round(TIMES.border, 4),
    }
    assert found["auto"]["figures"]["dense"] == TIMES.dense
    assert found["memory"]["total"] > found["memory"]["available"] > 0 or found["memory"]["available"] is None
    assert set(found["devices"]["missing"]) >= {"cuda"}
    assert found["disk"]["here"]["free"] > 0
    assert found["smollm2"] == {"path": str(tmp_path / "cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"), "bytes": None}


def test_people_get_one_screen_with_the_remedies(capsys):
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) <= 24
    assert not any(line.endswith(" ") for line in out.splitlines())
    assert "\x1b" not in out
    for word in (f"unmix      {unmix.__version__}", "device cpu", "dense steps are in bf16", "`unmix fetch smollm2`"):
        assert word in out
    assert not err


def test_nothing_is_timed_unless_wanted(monkeypatch, capsys):
    def measure(shape: object) -> NoReturn:
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "measure", measure)
    assert main(["doctor", "--no-measure"]) == 0
    assert "not measured (--no-measure)" in capsys.readouterr().out


def test_what_is_missing_for_which_extra(monkeypatch, capsys):
    wanted = ["torch>=2", 'here>=2; extra == "a"',
              'old>=2; extra == "a"', 'gone>=1; extra == "b"', 'lost; extra == "b"',
              'torch>=2; extra == "c"', "other; extra == \"d\" and platform_system == 'Nowhere'"]  # fmt: skip
    versions = {"torch": "2.6", "here": "2.1", "old": "1.9"}

    class Facts:
        def get_all(self, name: str) -> list[str]:
            assert name == "Provides-Extra"
            return ["a", "b", "c", "d"]

    monkeypatch.setattr(doctor.metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor.metadata, "metadata", lambda name: Facts())
    monkeypatch.setattr(doctor, "_version", versions.get)
    main(["doctor", "--no-measure"])
    out = capsys.readouterr().out
    assert "a: old 1.9 is installed, >=2 is needed; pip install 'unmix[a]'" in out
    assert "b: without gone, lost; pip install 'unmix[b]'" in out
    assert "c: complete" in out
    assert "d: nothing to install here" in out


def test_a_fetched_model_is_found(tmp_path, capsys):
    path = tmp_path / "cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 2_000)
    main(["doctor", "--no-measure"])
    assert f"{path}, 2.0 kB" in capsys.readouterr().out
