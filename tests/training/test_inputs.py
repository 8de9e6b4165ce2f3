"""What the files of a run, and of a store, say of what is read."""

import json
import shutil

import pytest
import yaml
from tiny_models import tiny_model_folder, tiny_tokenizer
from tiny_run import make

from unmix.training import run
from unmix.training.inputs import open_model, store_facts


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
