"""What the files of a run, and of a store, say of what is read."""

import json
import shutil

import pytest
import yaml
from tiny_models import tiny_model_folder, tiny_tokenizer
from tiny_run import make

from unmix.cli import main
from unmix.config import dump
from unmix.training import extension, run
from unmix.training.inputs import open_inputs, open_model, store_facts


@pytest.mark.parametrize("own", [True, False])
def test_what_stands_in_for_a_bos_is_in_run_yaml_and_in_a_store(own, overrides, tmp_path):
    """Where the tokenizer has no BOS its EOS begins the rows: that is not how the model is used otherwise."""
    folder = shutil.copytree(tiny_model_folder("gpt2"), tmp_path / "model")
    tokenizer = tiny_tokenizer()
    if not own:
        tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    recipe, said = make(overrides | {"model.name": str(folder)}, training__steps=2, training__l1=[1.0]), []
    run.sweep(recipe, tmp_path / "run", run.Watch(say=said.append))
    facts = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["corpus"]
    assert facts.get("bos_stand_in") == (None if own else "<|endoftext|>")
    assert any("stands in for a BOS: the tokenizer has none" in line for line in said) == (not own)
    model, tokens = open_model(recipe, lambda text: None)
    assert json.loads(json.dumps(store_facts(recipe, model, tokens)))["corpus"] == facts


def planned(said):
    [line] = [line for line in said if line.startswith("plan: ")]
    return line


def test_the_plan_says_what_is_read(overrides, tmp_path, capsys):
    """By the sweep with its extension, by an extension, by `unmix norms` and `unmix harvest` in whole shards."""
    recipe, said = make(overrides, training__l1=[1.0], choice__extend_to=100), []
    run.sweep(recipe, tmp_path / "run", run.Watch(say=said.append))
    assert f"; {100 * 48:,} activations are read" in planned(said)
    said.clear()
    extension.extend(tmp_path / "run", "l1-1", 80, watch=run.Watch(say=said.append))
    assert f"; {80 * 48:,} activations are read" in planned(said)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dump(recipe)))
    assert main(["norms", str(path), "--tokens", "500", "--out", str(tmp_path / "norms")]) == 0
    assert "; 500 activations are read" in capsys.readouterr().err
    assert main(["harvest", str(path), "--tokens", "500", "--out", str(tmp_path / "store")]) == 0
    assert "; 65,536 activations are read" in capsys.readouterr().err


def test_a_harvest_that_repeats_its_corpus_says_so_and_its_store_too(overrides, tmp_path, capsys):
    recipe = make(overrides, training__l1=[1.0], training__steps=2000)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dump(recipe)))
    assert main(["harvest", str(path), "--out", str(tmp_path / "store")]) == 0
    err = " ".join(capsys.readouterr().err.split())
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    there = manifest["corpus"]["train_tokens"]
    assert manifest["distinct_rows"] == there < 131_072
    assert f"131,072 activations are read, and there are {there:,}: {131_072 / there:.1f} times over; if" in err
    said = []
    source = open_inputs(make(overrides, activations__store=str(tmp_path / "store")), said.append).source
    assert (source.size, source.rows) == (there, 131_072)
    assert any(f"{there:,} of them distinct" in line for line in said)
    assert f"and there are {there:,}" in run.repeats(source, 2000 * 48)
