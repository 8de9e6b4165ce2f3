"""Hooks as other libraries name them: a dictionary is judged where its files say, and one place is one row."""

import json

import numpy as np
import pytest
from tiny_models import WIDTH, tiny_model_folder
from tiny_run import write_texts

from unmix.cli import main
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary

FEW = ["--tokens", "320", "--ce-tokens", "160"]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return str(write_texts(tmp_path / "texts"))


def evaluate(folders, family, corpus, *words):
    model = str(tiny_model_folder(family))
    return main(["evaluate", *map(str, folders), "--model", model, "--corpus", corpus, *FEW, *words])


def hooks(folder):
    found = json.loads((folder / "evaluation.json").read_text())["hooks"]
    return {one["hook"]: list(one["saes"]) for one in found}


def gemma_scope(folder, part, layer=1):
    """As `google/gemma-scope-2b-pt-PART` holds it."""
    at = folder / f"gemma-scope-2b-pt-{part}" / f"layer_{layer}" / "width_16k" / "average_l0_71"
    at.mkdir(parents=True)
    sae = new_dictionary(WIDTH, 24, 1.0, 0)
    w = {name: getattr(sae, name).detach().numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    np.savez(at / "params.npz", **w, threshold=np.full(24, 0.01, np.float32))
    return at


@pytest.mark.parametrize(
    ("part", "hook"), [("att", "blocks.1.attn.hook_z"), ("mlp", "mlp_out.1"), ("res", "resid_post.1")]
)
def test_gemma_scope_is_judged_where_its_path_says(part, hook, corpus, tmp_path, capsys):
    at = gemma_scope(tmp_path, part)
    assert evaluate([at], "gemma2", corpus) == 0, capsys.readouterr().err
    assert hooks(at) == {hook: [at.name]}
    assert f"at {hook}, over" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize("hook", ["attn.hook_z", "attn.hook_out", "mlp.hook_out"])
def test_a_dictionary_of_sae_lens_is_judged_at_its_own_hook(family, hook, corpus, tmp_path, capsys):
    named = f"blocks.1.{hook}"
    save_sae(new_dictionary(WIDTH, 24, 1.0, 0), tmp_path / "sae", model="m", hook=named, context=16, more={})
    config = json.loads((tmp_path / "sae/cfg.json").read_text())
    config["reshape_activations"] = "hook_z" if "hook_z" in hook else "none"
    del config["metadata"]["unmix_version"], config["metadata"]["unmix_hook"]
    (tmp_path / "sae/cfg.json").write_text(json.dumps(config))
    assert evaluate([tmp_path / "sae"], family, corpus) == 0, capsys.readouterr().err
    assert hooks(tmp_path / "sae") == {named: ["sae"]}


def test_a_middle_that_there_is_none_of_is_refused_in_a_line(corpus, tmp_path, capsys):
    hook = "blocks.1.hook_resid_mid"
    save_sae(new_dictionary(WIDTH, 24, 1.0, 0), tmp_path / "sae", model="m", hook=hook, context=16, more={})
    assert evaluate([tmp_path / "sae"], "gpt2", corpus) == 0, capsys.readouterr().err
    assert hooks(tmp_path / "sae") == {hook: ["sae"]}
    capsys.readouterr()
    assert evaluate([tmp_path / "sae"], "gptj", corpus) == 2
    assert "attention and MLP run in parallel" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("gpt2", "transformer.h.1"),
        ("gpt2", "transformer.h.1.output"),
        ("llama", "model.layers.1"),
        ("gemma2", "model.layers.1.output"),
    ],
)
def test_one_place_by_two_names_is_one_row(family, path, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, hook in (("a", path), ("b", "resid_post.1"), ("c", "blocks.1.hook_resid_post")):
        save_sae(new_dictionary(WIDTH, 24, 1.0, 0), tmp_path / name, model="m", hook=hook, context=16, more={})
    assert evaluate(["a", "b", "c"], family, corpus) == 0, capsys.readouterr().err
    assert hooks(tmp_path / "comparison") == {"resid_post.1": ["a", "b", "c"]}
    [result] = json.loads((tmp_path / "comparison/evaluation.json").read_text())["hooks"]
    for key in ("tokens", "l0", "explained_variance", "delta_ce"):
        assert result["saes"]["a"][key] == result["saes"]["b"][key]
    assert evaluate(["a"], family, corpus) == 0  # alone it keeps its own
    assert hooks(tmp_path / "a") == {path: ["a"]}


@pytest.mark.parametrize("module", ["model.layers.1.mlp", "blocks.1.mlp.hook_out"])
def test_places_that_only_look_alike_stay_two(module, corpus, tmp_path, monkeypatch):
    """Gemma's MLP and what the block adds of it: a norm stands between."""
    monkeypatch.chdir(tmp_path)
    for name, hook in (("a", module), ("b", "mlp_out.1")):
        save_sae(new_dictionary(WIDTH, 24, 1.0, 0), tmp_path / name, model="m", hook=hook, context=16, more={})
    assert evaluate(["a", "b"], "gemma2", corpus) == 0
    assert hooks(tmp_path / "comparison") == {module: ["a"], "mlp_out.1": ["b"]}
    assert evaluate(["a", "b"], "llama", corpus) == 0
    assert hooks(tmp_path / "comparison") == {"mlp_out.1": ["a", "b"]}


@pytest.mark.parametrize("path", ["transformer.h.1.mlp", "transformer.h.1.attn.output"])
def test_a_path_stays_where_what_the_block_adds_is_refused(path, corpus, tmp_path, monkeypatch, capsys):
    """OpenAI's GPT has norms in the residual stream: the refusal of mlp_out.1 says to name the module by its path."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        save_sae(new_dictionary(WIDTH, 24, 1.0, 0), tmp_path / name, model="m", hook=path, context=16, more={})
    assert evaluate(["a", "b"], "openai-gpt", corpus) == 0, capsys.readouterr().err
    assert hooks(tmp_path / "comparison") == {path: ["a", "b"]}
