"""The whole evaluation: what a mask leaves out, and that no number depends on the batch size."""

import json
import shutil

import pytest
import torch
from tiny_models import tiny_model_folder
from tiny_run import make, write_texts
from transformers import AutoModelForCausalLM

from unmix import cli
from unmix.activations.mask import Mask
from unmix.cli.evaluate import evaluation_mask
from unmix.config import EVERY_TOKEN, CorpusConfig, MaskConfig, ModelConfig
from unmix.corpus.tokens import load_tokens
from unmix.dictionary.model import new_dictionary
from unmix.evaluation import evaluate as module
from unmix.evaluation.command import _debiased
from unmix.evaluation.downstream import Downstream
from unmix.evaluation.evaluate import evaluate
from unmix.evaluation.splice import error_of, splice, with_feature
from unmix.evaluation.subject import tightest
from unmix.interop.load import load_sae
from unmix.lm.model import load_language_model
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
    saes = {"a": new_dictionary(lm.width, 24, 0.5, 0)}
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
                assert other[key] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), key
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
    saes = {"a": new_dictionary(lm.width, 24, 0.5, 0)}

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
        downstream.add(ids_NT, torch.zeros_like(ids_NT))
        effects.append(downstream.metrics()["replacements"]["zero"]["delta_ce"])
    assert effects[0] == pytest.approx(0, abs=1e-6)
    assert abs(effects[1]) > 1e-4


def test_the_command_says_what_it_masked(overrides, tmp_path, capsys):
    run.sweep(make(overrides, training__l1=[1.0]), tmp_path / "run")
    capsys.readouterr()
    words = ["evaluate", str(tmp_path / "run"), "--tokens", "200", "--ce-tokens", "64"]
    assert cli.main([*words, "--mask-special", "--mask-norm-above", "3"]) == 0
    [result] = json.loads((tmp_path / "run" / "evaluation.json").read_text())["hooks"]
    assert "special tokens and tokens with norms above 3 times the median left out of fidelity" in result["mask"]
    assert cli.main([*words, "--mask-norm-above", "0"]) == 2
    assert "--mask-norm-above 0 leaves nothing" in capsys.readouterr().err


@pytest.fixture
def sinks(tmp_path, monkeypatch):
    """A tiny GPT-2 whose first position is 150 times as long as the rest, and tokens for it."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder("gpt2"))
    wte, wpe = model.transformer.wte.weight.data, model.transformer.wpe.weight.data
    wpe[0] *= 150 * wte.norm(dim=1).median() / wpe[0].norm()
    folder = tmp_path / "sinks"
    shutil.copytree(tiny_model_folder("gpt2"), folder)
    model.save_pretrained(folder)
    lm = load_language_model(ModelConfig(name=str(folder)))
    source = CorpusConfig(source=str(write_texts(tmp_path / "texts")))
    return lm, load_tokens(source, lm.tokenizer, 16, "train")


def test_outliers_are_left_out_of_the_headline_and_given_apart(sinks):
    lm, tokens = sinks
    saes = {"a": new_dictionary(lm.width, 24, 0.5, 0)}
    by_default = evaluate(lm, tokens, "resid_pre.1", saes, fidelity_tokens=400, ce_tokens=200)
    assert by_default["outliers"]["share_of_tokens"] == pytest.approx(1 / 16)
    assert by_default["outliers"]["share_of_square"] > 0.99
    assert "tokens with norms above 10 times the median left out of fidelity" in by_default["mask"]
    row = by_default["saes"]["a"]
    assert set(row["outliers"]) >= {"normalised_mse", "cosine", "norm_ratio", "l0", "delta_ce_everywhere"}
    # spliced, the first position keeps x, unless it is put everywhere
    everything = evaluate(
        lm, tokens, "resid_pre.1", saes, fidelity_tokens=400, ce_tokens=200, mask=MaskConfig(norm_above=None)
    )
    assert everything["saes"]["a"]["delta_ce"] == pytest.approx(row["outliers"]["delta_ce_everywhere"], rel=1e-5)
    assert row["outliers"]["delta_ce_left"] == pytest.approx(row["delta_ce"])  # of the same sequences: here all
    assert abs(row["delta_ce"] - row["outliers"]["delta_ce_everywhere"]) > 1e-4
    # position 0 was left out of fidelity all along
    assert everything["saes"]["a"]["explained_variance"] == row["explained_variance"]


def test_a_model_without_outliers_has_no_numbers_of_them(setting):
    lm, tokens = setting
    found = evaluate(
        lm, tokens, "resid_post.0", {"a": new_dictionary(lm.width, 24, 0.5, 0)}, fidelity_tokens=400, ce_tokens=32
    )
    assert found["outliers"]["tokens"] == 0
    assert "outliers" not in found["saes"]["a"]


def test_splice_leaves_what_the_dictionary_was_not_trained_on(sinks):
    lm, tokens = sinks
    ids_NT = torch.from_numpy(tokens.ids_NT[:3].astype("int64"))
    x_NTD = lm.activations(ids_NT, ["resid_pre.1"])["resid_pre.1"]
    sae = new_dictionary(lm.width, 24, 0.5, 0)
    sae.longest = 10 * x_NTD.norm(dim=-1).median().item()
    for replacement, new in [
        (sae, sae(x_NTD)),
        (error_of(sae), x_NTD - sae(x_NTD)),
        (with_feature(sae, 3, 2.0), x_NTD + sae.encode(x_NTD)[..., 3, None] * sae.W_dec[3]),
    ]:
        with splice(lm.model, "resid_pre.1", replacement):
            seen = lm.activations(ids_NT, ["transformer.h.1.ln_1"])["transformer.h.1.ln_1"]  # what block 1 is given
        wanted = torch.cat([x_NTD[:, :1], new[:, 1:]], 1)
        torch.testing.assert_close(seen, lm.model.transformer.h[1].ln_1(wanted))


AUTO, SPECIAL = MaskConfig(), MaskConfig(special=True, norm_above=None)


@pytest.mark.parametrize(
    ("trained", "flags", "wanted"),
    [
        (AUTO, [], AUTO),
        (MaskConfig(norm_above=3), [], MaskConfig(norm_above=3)),
        (SPECIAL, [], SPECIAL),
        (MaskConfig(norm_above=3), ["--mask", "auto"], AUTO),
        (MaskConfig(norm_above=3), ["--mask", "none"], EVERY_TOKEN),
        (MaskConfig(norm_above=5), ["--mask-special"], MaskConfig(special=True, norm_above=5)),
        (MaskConfig(special=True), ["--mask-norm-above", "3"], MaskConfig(special=True, norm_above=3)),
        (MaskConfig(special=True), ["--mask", "none", "--mask-norm-above", "3"], MaskConfig(norm_above=3)),
    ],
)
def test_flags_change_the_mask_of_the_training(trained, flags, wanted):
    args = cli._parser().parse_args(["evaluate", "folder", *flags])
    assert evaluation_mask(args)(trained) == wanted


def test_the_tightest_of_the_members_masks_is_that_of_the_training():
    assert tightest([EVERY_TOKEN]) == AUTO  # a run on every token is judged beside others
    assert tightest([EVERY_TOKEN, MaskConfig(norm_above=3), AUTO]) == MaskConfig(norm_above=3)
    assert tightest([SPECIAL]) == SPECIAL


def test_an_sae_folder_is_judged_by_its_own_mask(overrides, tmp_path):
    run.sweep(make(overrides, training__l1=[1.0], training__mask={"norm_above": 1.5}), tmp_path / "run")
    folder = tmp_path / "run" / "members" / "l1-1" / "step-000000060"
    for place in (tmp_path / "run", folder):
        assert cli.main(["evaluate", str(place), "--tokens", "200", "--ce-tokens", "64"]) == 0
        [result] = json.loads((place / "evaluation.json").read_text())["hooks"]
        assert "tokens with norms above 1.5 times the median left out of fidelity" in result["mask"]
        assert result["outliers"]["times"] == 1.5


def test_a_single_outlier_has_no_variance_and_is_no_mistake(sinks):
    lm, tokens = sinks
    found = evaluate(
        lm, tokens, "resid_pre.1", {"a": new_dictionary(lm.width, 24, 0.5, 0)}, fidelity_tokens=16, ce_tokens=16
    )
    assert found["outliers"]["tokens"] == 1
    assert found["saes"]["a"]["outliers"]["normalised_mse"] > 0


def test_what_is_refitted_was_trained_on_and_says_so(sinks, tmp_path):
    lm, tokens = sinks
    x_BD = lm.activations(torch.from_numpy(tokens.ids_NT[:60].astype("int64")), ["resid_pre.1"])["resid_pre.1"]
    bound = 10 * x_BD.norm(dim=-1).median().item()
    saes = {}
    for name, longest in (("left", bound), ("all", None)):
        saes[name] = new_dictionary(lm.width, 24, 0.5, 0)
        saes[name].longest = longest
    made = {"model": {}, "corpus": {}, "activations": {}}
    _debiased(saes, lm, tokens, "resid_pre.1", tmp_path, made)
    assert load_sae(tmp_path / "debiased" / "left").longest == pytest.approx(bound)
    assert load_sae(tmp_path / "debiased" / "all").longest is None
