"""The whole evaluation: what a mask leaves out, and that no number depends on the batch size."""

import json

import pytest
import torch
from tiny_run import make

from unmix import cli
from unmix.activations.mask import Mask
from unmix.config import MaskConfig
from unmix.corpus.tokens import load_tokens
from unmix.evaluation import evaluate as module
from unmix.evaluation.downstream import Downstream
from unmix.evaluation.evaluate import evaluate
from unmix.lm.model import load_language_model
from unmix.sae.model import new_sae
from unmix.training import run


@pytest.fixture
def setting(overrides):
    recipe = make(overrides)
    lm = load_language_model(recipe.model)
    return lm, load_tokens(recipe.corpus, lm.tokenizer, 16, "train")


def numbers(result):
    return {key: value for key, value in result.items() if key != "seconds"}


@pytest.mark.parametrize("mask", [MaskConfig(), MaskConfig(special=True, norm_above=1.02)])
def test_no_number_depends_on_the_batch_size(setting, mask, monkeypatch):
    monkeypatch.setattr(module, "BY_NORM_TOKENS", 10 * 16)  # ends within a batch
    lm, tokens = setting
    saes = {"a": new_sae(lm.width, 24, 0.5, 0)}
    made = [
        numbers(
            evaluate(
                lm, tokens, "resid_post.0", saes, fidelity_tokens=400, ce_tokens=200, mask=mask, batch_sequences=size
            )
        )
        for size in (1, 7, 16)
    ]
    flat = [flattened(result) for result in made]
    for other in flat[1:]:
        assert other.keys() == flat[0].keys()
        for key, value in flat[0].items():
            if isinstance(value, float) and "proportions" not in key:  # a rounding may move a token by a bin
                assert other[key] == pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True), key
            elif not isinstance(value, float):
                assert other[key] == value, key


def flattened(tree, prefix=""):
    found = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        name = f"{prefix}{key}"
        found |= flattened(value, name + "/") if isinstance(value, (dict, list)) else {name: value}
    return found


def test_masked_tokens_are_not_counted(setting):
    lm, tokens = setting
    saes = {"a": new_sae(lm.width, 24, 0.5, 0)}

    def counted(**mask):
        found = evaluate(lm, tokens, "resid_post.0", saes, fidelity_tokens=400, ce_tokens=32, mask=MaskConfig(**mask))
        return found["fidelity_tokens"], found["saes"]["a"]["by_norm"]["tokens"]

    everything, by_norm = counted()
    assert (everything, by_norm) == (25 * 15, 25 * 16)
    few, by_norm = counted(norm_above=1.0)
    assert 0 < few < 0.7 * everything
    assert by_norm == 25 * 16


def test_masked_tokens_keep_x_when_spliced(setting):
    lm, tokens = setting
    ids_NT = torch.from_numpy(tokens.ids_NT[:4].astype("int64"))
    everything = Mask(MaskConfig(norm_above=1e-9), [], 1.0)
    effects = []
    for leaves in (everything, None):
        downstream = Downstream(lm, "resid_post.0", {"zero": torch.zeros_like}, 1, leaves)
        downstream.add(ids_NT)
        effects.append(downstream.metrics()["replacements"]["zero"]["delta_ce"])
    assert effects[0] == pytest.approx(0, abs=1e-6)
    assert abs(effects[1]) > 1e-4


def test_the_command_says_what_it_masked(overrides, tmp_path, capsys):
    run.sweep(make(overrides, training__l1=[1.0]), tmp_path / "run")
    capsys.readouterr()
    words = ["evaluate", str(tmp_path / "run"), "--tokens", "200", "--ce-tokens", "64"]
    assert cli.main([*words, "--mask-special", "--mask-norm-above", "3"]) == 0
    [result] = json.loads((tmp_path / "run" / "evaluation.json").read_text())["hooks"]
    assert "special tokens and tokens longer than 3 times the median left out of fidelity" in result["mask"]
    assert cli.main([*words, "--mask-norm-above", "0"]) == 2
    assert "--mask-norm-above 0 leaves nothing" in capsys.readouterr().err
