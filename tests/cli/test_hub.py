"""The commands with ids of the hub in place of folders, against a hub on the loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.hub_server import TOKEN, Hub, Repo, loopback
from interop.looks import LOOKS, Weights
from tiny_models import tiny_model_folder
from tiny_run import write_texts

from unmix.cli import main

F = 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a dictionary in `lab/saes/layer_0`, as wide as the tiny model."""
    src = LOOKS["saelens standard"](Weights(16, F)).put(tmp_path / "made")
    with loopback(tmp_path, monkeypatch) as server:
        server.repos["lab/saes"] = Repo({f"layer_0/{path.name}": path.read_bytes() for path in src.iterdir()})
        yield server


def test_evaluate_takes_an_id_and_leaves_the_cache_as_it_is(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "unmix"))
    texts, model = write_texts(tmp_path / "texts"), str(tiny_model_folder("gpt2"))
    words = ["--model", model, "--corpus", str(texts), "--hook", "resid_post.0", "--tokens", "200", "--ce-tokens", "60"]
    assert main(["evaluate", "lab/saes/layer_0", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)["hooks"][0]["saes"]) == ["layer_0"]
    kept = Path("runs/lab--saes--layer_0/evaluation.json")
    assert f"evaluation: {kept}" in err
    assert json.loads(kept.read_text()) == json.loads(out)
    assert not list((tmp_path / "cache").rglob("evaluation.json"))
    assert main(["evaluate", "lab/saes/layer_0", *words, "--debias"]) == 2
    assert "`unmix pull lab/saes/layer_0 DIR` makes one: give it" in capsys.readouterr().err


def test_explore_and_show_take_an_id(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "unmix"))
    texts, model = write_texts(tmp_path / "texts"), str(tiny_model_folder("gpt2"))
    words = ["--model", model, "--corpus", str(texts), "--hook", "resid_post.0", "--tokens", "256"]
    assert main(["explore", "lab/saes/layer_0", "--build", *words]) == 0
    assert Path("runs/lab--saes--layer_0/explore/site/index.html").is_file()
    hub.asked.clear()
    assert main(["show", "lab/saes/layer_0", "0"]) == 0
    assert not hub.asked  # what was built is enough
    assert main(["show", "lab/saes/layer_0", "--text", "import os"]) == 0
    assert "layer_0" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "cache").rglob("*.json")} <= {"cfg.json", *_of_the_client(tmp_path)}


def _of_the_client(tmp_path: Path) -> set[str]:
    """What the hub's client keeps for itself."""
    return {path.name for path in (tmp_path / "cache").rglob("trees/*.json")}


def test_verify_and_convert_take_an_id(hub, tmp_path, capsys):
    assert main(["verify", "lab/saes/layer_0"]) == 0
    assert "lab/saes/layer_0 is whole: one dictionary" in capsys.readouterr().out
    assert main(["convert", "hf://lab/saes/layer_0", "mine"]) == 0
    assert Path("mine/cfg.json").is_file()


def test_pull_writes_a_folder_and_says_what(hub, capsys):
    assert main(["pull", "lab/saes", "layer_0", "mine"]) == 0
    assert capsys.readouterr().out.startswith("mine: 2 files, ")
    assert main(["pull", "lab/saes/layer_0", "mine"]) == 2
    assert "mine exists" in capsys.readouterr().err
    assert main(["pull", "lab/saes@v1/layer_0", "other"]) == 0
    assert main(["pull", "lab/saes", "layer_1", "third"]) == 2
    assert "it has layer_0: give one of them" in capsys.readouterr().err
    assert not Path("third").exists()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the hub's client, of its own client
def test_push_shows_then_sends(hub, tmp_path, monkeypatch, capsys):
    assert main(["push", str(tmp_path / "made"), "ada/saes"]) == 2
    assert "give --license apache-2.0" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "made"), "ada/saes", "--license", "mit", "--private", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "to ada/saes, private:" in shown
    assert all(name in shown for name in ("cfg.json", "sae_weights.safetensors", "README.md", "license: mit"))
    assert not hub.asked
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(tmp_path / "made"), "ada/saes", "--license", "mit", "--private"]) == 0
    assert hub.repos["ada/saes"].private
    assert set(hub.repos["ada/saes"].files) == {"cfg.json", "sae_weights.safetensors", "README.md"}
