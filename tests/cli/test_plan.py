"""`unmix plan`: a screen, or JSON, and nothing written."""

from __future__ import annotations

import json

import pytest

from unmix.cli import main
from unmix.cli.plan import clock, span
from unmix.training.plan import Spread


def words(overrides: dict[str, object]) -> list[str]:
    """The recipe as options."""
    found = []
    for key, value in overrides.items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{key}", *(f"{one:f}" if isinstance(one, float) else str(one) for one in values)]
    return found


def test_people_and_programs_get_the_same(overrides, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *words(overrides), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["read"] == 60 * 48
    assert found["run"] == "runs/tiny"
    assert found["sweep_s"]["low"] <= found["sweep_s"]["high"]
    assert main(["plan", *words(overrides)]) == 0
    out = capsys.readouterr().out
    assert "run        runs/tiny: 4 members, 60 steps of 48 tokens" in out
    assert f"2,880 activations are read, of {found['there']:,} available" in out
    assert all(f"\n{name:<11}" in out for name in ("memory", "disk", "time", "limits"))
    assert not (tmp_path / "runs").exists()


def test_a_hook_without_a_number(overrides, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    del overrides["activations.hooks"]
    assert main(["plan", *words(overrides), "--hook", "transformer.wte", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_flops"] > 0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (200, "3 min 20 s"), (12_000, "3 h 20 min"), (100_800, "1 d 4 h")],
)
def test_a_clock_for_people(seconds, said):
    assert clock(seconds) == said


def test_a_range_is_said_where_it_is_one():
    assert span(Spread(100, 105)) == "about 1 min 42 s"
    assert span(Spread(100, 200)) == "1 min 40 s to 3 min 20 s"
