"""Names of hooks: ours, TransformerLens', every layer, and a guess at a wrong one."""

import pytest
from tiny_models import LAYERS, tiny_model_folder

from unmix import config
from unmix.cli import main
from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.hooknames import canonical, expand, of_layers, transformer_lens
from unmix.lm.hooks import find_place
from unmix.lm.model import count_layers, load_language_model


@pytest.mark.parametrize("hook", of_layers(12))
def test_their_names_are_ours(hook):
    assert canonical(transformer_lens(hook)) == hook == canonical(hook)


def test_other_names_stay():
    for path in ("transformer.h.3.mlp", "blocks.3.hook_q", "resid_post"):
        assert canonical(path) == transformer_lens(path) == path


def test_a_recipe_holds_our_names():
    found = config.load(None, {"activations.hooks": ["blocks.3.hook_resid_post", "mlp_out.1"]})
    assert found.activations.hooks == ["resid_post.3", "mlp_out.1"]
    with pytest.raises(UserError, match="hooks names a hook twice"):
        config.load(None, {"activations.hooks": ["blocks.3.hook_resid_post", "resid_post.3"]})


def test_a_pattern_is_every_layer_that_it_matches():
    there = of_layers(11)
    assert expand(["resid_post.*"], there) == [f"resid_post.{layer}" for layer in range(11)]
    assert expand(["blocks.1?.hook_mlp_out", "mlp_out.*"], there)[0] == "mlp_out.10"
    assert len(expand(["*.3"], there)) == 4
    assert expand(["a.b"], there) == ["a.b"]
    with pytest.raises(UserError, match=r"resid_mid\.\* matches none of"):
        expand(["resid_mid.*"], there)


def test_the_command_line_expands_patterns(overrides, tmp_path, capsys):
    del overrides["name"], overrides["activations.hooks"], overrides["training.l1"]
    words = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    words += ["--l1", "1", "--training.steps", "3", "--runs", str(tmp_path), "--train-only"]
    assert main(["sweep", "--name", "all", "--hook", "blocks.*.hook_resid_post", *words]) == 0, capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "all" / "members").iterdir())
    assert names == [f"resid_post.{layer}-l1-1" for layer in range(LAYERS)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_layers_are_counted_without_loading_the_model(family):
    assert count_layers(ModelConfig(name=str(tiny_model_folder(family)))) == LAYERS


def test_a_guess_is_a_whole_path():
    model = load_language_model(ModelConfig(name=str(tiny_model_folder("llama")))).model
    for wrong, meant in (
        ("layers.1.mlp", "model.layers.1.mlp"),
        ("1.self_attn.q_proj", "model.layers.1.self_attn.q_proj"),
        ("resid_pos.1", "resid_post.1"),
    ):
        with pytest.raises(UserError, match=rf"did you mean {meant}\?"):
            find_place(model, wrong)
