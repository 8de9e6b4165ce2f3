"""What a run logs over its training tokens is what `evaluate` says of the saved dictionary, sinks or not."""

import shutil

import pytest
import torch
from tiny_models import tiny_model_folder, tiny_tokenizer
from tiny_run import make
from transformers import AutoModelForCausalLM

from unmix.config import ModelConfig
from unmix.corpus.tokens import load_tokens
from unmix.evaluation.evaluate import evaluate
from unmix.interop.load import load_sae
from unmix.lm.model import load_language_model
from unmix.runlog import read_manifest, read_metrics
from unmix.training import run
from unmix.training.run import Watch

TIMES = 150
SINK = tiny_tokenizer().convert_tokens_to_ids("y")  # in the texts, in mid-sequence: "yield", "try"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The tiny GPT-2 with attention sinks: the first position, and one kind of token, 150 times as long as the rest."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(tiny_model_folder("gpt2"), folder, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    wte, wpe = model.transformer.wte.weight.data, model.transformer.wpe.weight.data
    wte[1:] *= 10
    wpe[1:] *= 10  # the blocks of a model at its start add little: the stream is the embedding
    length = (wte[1:].norm(dim=1).square().mean() + wpe[1:].norm(dim=1).square().mean()).sqrt()
    for row in (wpe[0], wte[SINK]):
        row *= TIMES * length / row.norm()
    model.save_pretrained(folder)
    return folder


def trained(overrides, tmp_path, **more):
    """A run whose learning rate has fallen to nothing over its last line of metrics, and what it said."""
    said = []
    recipe = make(overrides, training__steps=300, training__decay_fraction=0.4, training__log_every=30, **more)
    run.sweep(recipe, tmp_path / "run", Watch(said.append, lambda rows, steps: said.append("a line of metrics")))
    return recipe, tmp_path / "run", said


def compared(recipe, folder):
    """(last logged, evaluated over the same split) of every member."""
    lm = load_language_model(ModelConfig(name=recipe.model.name))
    tokens = load_tokens(recipe.corpus, lm.tokenizer, recipe.activations.sequence_length, "train")
    rows = {row["member"]: row for row in read_metrics(folder / "metrics.jsonl")}  # the last of each
    [hook] = recipe.activations.hooks
    saes = {name: load_sae(folder / f"members/{name}/step-{recipe.training.steps:09d}") for name in rows}
    found = evaluate(lm, tokens, hook, saes, fidelity_tokens=50_000, ce_tokens=64)
    return found, [(rows[name], found["saes"][name]) for name in rows]


@pytest.mark.parametrize("scaling", ["none", "dataset", "token"])
def test_on_a_model_with_planted_sinks(overrides, tmp_path, planted, scaling):
    l1 = {"none": [0.02, 0.1], "dataset": [0.3, 1.0], "token": [0.3, 1.0]}[scaling]
    recipe, folder, said = trained(
        overrides, tmp_path, model__name=str(planted), sae__scaling=scaling, training__l1=l1, model__matmul="fp32"
    )
    found, pairs = compared(recipe, folder)
    assert found["outliers"]["share_of_square"] > 0.98
    for logged, evaluated in pairs:
        assert 0.2 < evaluated["explained_variance"] < 0.999
        assert logged["explained_variance"] == pytest.approx(evaluated["explained_variance"], abs=0.02)
        assert logged["l0"] == pytest.approx(evaluated["l0"], rel=0.03)
    about = read_manifest(folder / "run.yaml")["hooks"]["resid_post.0"]["outliers"]
    assert about["share_of_square"] > 0.98
    assert about["share_of_tokens"] > 1.05 / 16  # the first of 16 positions, and some in mid-sequence
    assert any("they are left out of training (--training.mask none keeps them)" in line for line in said)


def test_that_they_dominate_the_loss_is_said_before_training(overrides, tmp_path, planted):
    _, folder, said = trained(
        overrides, tmp_path, model__name=str(planted), training__mask="none", training__l1=[1.0], training__lr=1e-3
    )
    [warning] = [line for line in said if "dominate the loss" in line]
    assert warning.startswith(
        "warning: resid_post.0: every member will be trained on them, and they make up over 99.9%"
    )
    assert said.index(warning) < said.index("a line of metrics")
    assert "mask" not in load_config(folder)["metadata"]


@pytest.mark.parametrize(("key", "value"), [("sae__scaling", "token"), ("training__norm_power", 2)])
def test_where_every_token_counts_alike_they_do_not(overrides, tmp_path, planted, key, value):
    _, _, said = trained(
        overrides, tmp_path, model__name=str(planted), training__mask="none", training__l1=[1.0], **{key: value}
    )
    assert any("of Σ||x||² is on" in line for line in said)
    assert not any("dominate the loss" in line for line in said)


@pytest.mark.parametrize("mask", [{"special": True, "norm_above": None}, {"norm_above": 200.0}, {"norm_above": 20.0}])
def test_what_a_member_keeps_is_what_counts(overrides, tmp_path, planted, mask):
    """The first position is special, token SINK is not; both are 150 times as long as the rest."""
    _, folder, said = trained(
        overrides, tmp_path, model__name=str(planted), training__mask=mask, training__l1=[1.0], training__lr=1e-3
    )
    share = read_manifest(folder / "run.yaml")["members"]["l1-1"]["outliers_share"]
    assert (share == 0) == (mask["norm_above"] == 20)
    assert any("dominate the loss" in line for line in said) == (share > 0.5)


def test_the_folder_says_what_was_left_out_and_reading_it_keeps_that(overrides, tmp_path, planted):
    _, folder, _ = trained(overrides, tmp_path, model__name=str(planted), training__l1=[1.0])
    mask = load_config(folder)["metadata"]["mask"]
    about = read_manifest(folder / "run.yaml")["hooks"]["resid_post.0"]
    assert mask["longer_than"] == pytest.approx(10 * about["median_norm"])
    assert mask["outliers"] == about["outliers"]
    assert mask["outliers"]["share_of_square"] > 0.98
    sae = load_sae(folder / "members/l1-1/step-000000300")
    assert sae.longest == mask["longer_than"]
    assert "leave x as it is there" in mask["rule"]


def load_config(folder):
    import json

    return json.loads(next((folder / "members").glob("*/step-000000300/cfg.json")).read_text())


@pytest.mark.slow
def test_on_the_embedded_model(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    overrides = {
        "name": "logged", "corpus.max_tokens": 60_000, "activations.hooks": ["resid_post.3"],
        "activations.chunk_sequences": 32, "sae.features": 256, "model.matmul": "fp32", "training.batch_tokens": 512,
        "training.lr": 2e-3, "training.lr_warmup_steps": 10, "training.checkpoint_every": 1000,
    }  # fmt: skip
    for scaling, l1 in {"none": 200.0, "dataset": 2.0, "token": 2.0}.items():
        overrides[f"variants.{scaling}"] = {"sae": {"scaling": scaling}, "training": {"l1": [l1]}}
    recipe, folder, _ = trained(overrides, tmp_path)
    torch.manual_seed(0)
    found, pairs = compared(recipe, folder)
    assert found["outliers"]["tokens"] == 0
    assert [logged["variant"] for logged, _ in pairs] == ["none", "dataset", "token"]
    for logged, evaluated in pairs:
        # position 0 is trained on and not evaluated: one token in 256; unscaled, the L0 differs by more
        assert logged["explained_variance"] == pytest.approx(evaluated["explained_variance"], abs=0.02)
        assert logged["l0"] == pytest.approx(evaluated["l0"], rel=0.05 if logged["variant"] == "none" else 0.03)


@pytest.mark.parametrize("more", [{"sae__nonlinearity": "tanh_relu"}, {"sae__scaling": "token"}])
def test_with_noise_what_is_logged_is_what_the_saved_dictionary_gives(overrides, tmp_path, more):
    """Not what the noisy pass gave: more features are active there."""
    more = {"training__l1": [0.3], "training__batch_tokens": 256, "sae__noise": 1.0, "model__matmul": "fp32", **more}
    recipe, folder, _ = trained(overrides, tmp_path, **more)
    _, [(logged, evaluated)] = compared(recipe, folder)
    assert logged["l0"] == pytest.approx(evaluated["l0"], rel=0.05)
    assert logged["explained_variance"] == pytest.approx(evaluated["explained_variance"], abs=0.03)
    assert logged["noisy_l0"] > 1.05 * logged["l0"]
    assert logged["noisy_l2_reconstruction_loss"] > logged["l2_reconstruction_loss"]
    assert logged["over_tokens"] == logged["noisy_over_tokens"] / 16
