"""docs/formats.md names every key and tensor that a run, a store and the cache really have."""

import json
import re
from pathlib import Path

import pytest
import safetensors
import yaml
from tiny_run import make

from unmix.activations.store import harvest
from unmix.runlog import read_metrics
from unmix.training import chosen, extension, run
from unmix.training.inputs import open_model, open_stream, store_facts

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def named(words):
    """Those of the words that the page does not name in code."""
    return {word for word in words if not re.search(rf"`{re.escape(word)}`", PAGE)}


@pytest.fixture
def folder(overrides, tmp_path):
    recipe = make(overrides, training__l1=[3.0], training__steps=20)
    run.sweep(recipe, tmp_path / "run")
    chosen.make_choices(tmp_path / "run", 40)
    extension.extend(tmp_path / "run", "l1-3", 30)
    chosen.note_what_came_true(tmp_path / "run")
    model, tokens = open_model(recipe, lambda text: None)
    stream, facts = open_stream(recipe, model, tokens), store_facts(recipe, model, tokens)
    harvest(stream, tmp_path / "store", tokens=500, dtype="bfloat16", shard_tokens=500, facts=facts)
    return tmp_path


def load(path):
    return json.loads(path.read_text())


def test_every_key_is_on_the_page(folder):
    one = folder / "run/members/l1-3/step-000000020"
    manifest = yaml.safe_load((folder / "run/run.yaml").read_text())
    config, choice, norms = load(one / "cfg.json"), load(folder / "run/choice.json"), load(folder / "run/norms.json")
    store = load(folder / "store/manifest.json")
    [cached] = (folder / "cache/tokens").glob("*.json")
    with safetensors.safe_open(one / "training_state.safetensors", "pt") as file:
        state = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    for words in (
        manifest, manifest["model"], manifest["corpus"], *manifest["hooks"].values(), *manifest["members"].values(),
        *read_metrics(folder / "run/metrics.jsonl"), config, config["metadata"], load(one / "checksums.json"),
        choice, choice["came_true"], *choice["candidates"], load(folder / "run/extension.json")["l1-3"],
        norms, *norms["hooks"].values(), store, *store["shards"], load(cached), state, state["window"],
        {name for name in tensors if not name.startswith("exp_avg")},
    ):  # fmt: skip
        assert named(words) == set()
    assert {str(tensors[name].dtype) for name in tensors} == {"torch.float32", "torch.int64", "torch.float64"}
    assert sorted(path.name for path in one.iterdir()) == [
        "cfg.json", "checksums.json", "sae_weights.safetensors", "samples.safetensors", "training_state.safetensors"
    ]  # fmt: skip
    here = {path.name for path in (folder / "run").iterdir()}
    assert named(here - {"members", ".lock"}) == set()
