"""Transcoders: x is read at one hook, y at another, and ŷ is put where y was."""

import json

import pytest
import torch
from interop.looks import LOOKS, Weights
from tiny_models import CONTEXT, LAYERS, VOCABULARY, WIDTH, tiny_tokenizer
from tiny_run import write_texts
from transformers import GPT2Config, GPT2LMHeadModel

import unmix
from unmix.cli import main
from unmix.config import CorpusConfig, ModelConfig
from unmix.corpus.tokens import load_tokens, sample
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.errors import UserError
from unmix.evaluation.downstream import Downstream, Seen
from unmix.lm.hooks import find_place
from unmix.lm.model import load_language_model

LAYER, FEATURES = 1, 4 * WIDTH
IN, OUT = f"transformer.h.{LAYER}.ln_2", f"mlp_out.{LAYER}"
MEASURED = ["--tokens", "600", "--ce-tokens", "300"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 whose MLPs are relu layers, and so transcoders."""
    at = tmp_path_factory.mktemp("relu-gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=CONTEXT, activation_function="relu",
        bos_token_id=0, eos_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    for block in model.transformer.h:
        torch.nn.init.normal_(block.mlp.c_fc.bias)
        torch.nn.init.normal_(block.mlp.c_proj.bias)
        torch.nn.init.normal_(block.ln_2.bias)
    model.save_pretrained(at)
    tiny_tokenizer().save_pretrained(at)
    return at


@pytest.fixture(scope="module")
def mlp(folder):
    """The MLP of block LAYER as a dictionary."""
    own = GPT2LMHeadModel.from_pretrained(folder).transformer.h[LAYER].mlp
    w = {"W_enc": own.c_fc.weight, "b_enc": own.c_fc.bias, "W_dec": own.c_proj.weight, "b_dec": own.c_proj.bias}
    return Dictionary({name: weight.detach().clone() for name, weight in w.items()})


@pytest.fixture
def words(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return ["--model", str(folder), "--corpus", str(write_texts(tmp_path / "texts")), *MEASURED]


def saved(sae, at, hook=IN, hook_out=OUT):
    save_sae(sae, at, model="gpt2", hook=hook, context=16, more={}, hook_out=hook_out, transcoder=True)
    return at


def evaluated(at):
    [result] = json.loads((at / "evaluation.json").read_text())["hooks"]
    return result


@pytest.mark.parametrize("hook", [IN, f"h.{LAYER}.mlp.input", f"blocks.{LAYER}.mlp.hook_in"])
def test_the_mlp_itself_is_a_perfect_transcoder(hook, mlp, words, tmp_path, capsys):
    at = saved(mlp, tmp_path / "mlp", hook=hook)
    assert main(["evaluate", str(at), *words]) == 0
    result = evaluated(at)
    assert (result["hook"], result["hook_in"], result["hook_out"]) == (f"{hook} -> {OUT}", hook, OUT)
    assert f"{hook} -> {OUT} of" in capsys.readouterr().out
    row = result["saes"]["mlp"]
    assert row["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert (row["cosine"], row["norm_ratio"]) == (pytest.approx(1, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert row["delta_ce"] == pytest.approx(0, abs=1e-5)
    assert row["kl"] == pytest.approx(0, abs=1e-5)
    assert abs(result["baselines"]["zero"]["delta_ce"]) > 0.01  # what is replaced matters


def test_every_number_is_that_of_y(mlp, folder, words, tmp_path):
    """Against sums taken here, and a model whose MLP is replaced by hand."""
    sae = mlp.changed({"W_dec": 0.5 * mlp.W_dec.detach(), "b_enc": mlp.b_enc.detach() - 0.3})
    at = saved(sae, tmp_path / "half")
    assert main(["evaluate", str(at), *words, "--mask", "none"]) == 0
    result = evaluated(at)
    row = result["saes"]["half"]
    lm = load_language_model(ModelConfig(name=str(folder)))
    tokens = load_tokens(CorpusConfig(source=words[3]), lm.tokenizer, 16, "held_out", say=lambda text: None)
    ids_NT = torch.from_numpy(tokens.ids_NT[sample(len(tokens.ids_NT))].astype("int64"))
    taken_NT, few_NT = ids_NT[: 600 // 16], ids_NT[: 300 // 16]
    found = lm.activations(taken_NT, [IN, OUT])
    x_BD, y_BE = (found[name][:, 1:].flatten(0, 1).double() for name in (IN, OUT))
    with torch.no_grad():
        f_BF = (x_BD @ sae.W_enc.double() + sae.b_enc.double()).relu()
        error = (f_BF @ sae.W_dec.double() + sae.b_dec.double() - y_BE).square().sum()
    assert row["tokens"] == len(y_BE)
    variance = (y_BE - y_BE.mean(0)).square().sum()
    assert row["explained_variance"] == pytest.approx(1 - (error / variance).item(), abs=1e-5)
    assert row["l0"] == pytest.approx((f_BF > 0).sum().item() / len(y_BE), abs=0.01)
    own = lm.model.transformer.h[LAYER].mlp
    with torch.no_grad():
        own.register_forward_hook(lambda _, given, y: sae(given[0]))
        logits_NTV = lm.model(few_NT).logits[:, 1:-1]
    ce = torch.nn.functional.cross_entropy(logits_NTV.flatten(0, 1), few_NT[:, 2:].flatten())
    assert row["ce"] == pytest.approx(ce.item(), abs=1e-5)
    assert row["delta_ce"] == pytest.approx(ce.item() - result["ce_untouched"], abs=1e-5)
    assert abs(row["delta_ce"]) > 0.01


def test_saes_and_transcoders_stand_side_by_side(mlp, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(mlp, tmp_path / "transcoder")
    save_sae(new_dictionary(WIDTH, 24, 1.0, 0), tmp_path / "sae", model="gpt2", hook=IN, context=16, more={})
    assert main(["evaluate", "transcoder", "sae", *words]) == 0
    found = json.loads((tmp_path / "comparison/evaluation.json").read_text())["hooks"]
    assert [(one["hook"], list(one["saes"])) for one in found] == [(f"{IN} -> {OUT}", ["transcoder"]), (IN, ["sae"])]
    assert f"{IN} -&gt; {OUT}" in (tmp_path / "comparison/comparison.html").read_text()
    assert main(["convert", "comparison", "bench", "--to", "saebench"]) == 0
    about = json.loads((tmp_path / "bench/core/transcoder_custom_sae_eval_results.json").read_text())["sae_cfg_dict"]
    assert (about["architecture"], about["hook_name"], about["hook_layer"]) == ("transcoder", IN, LAYER)


def test_one_that_was_trained_on_rows_is_evaluated_in_the_model(folder, words, tmp_path):
    """Raw x in, raw ŷ out: what was learned on rows holds in the model that these came from."""
    lm = load_language_model(ModelConfig(name=str(folder)))
    tokens = load_tokens(CorpusConfig(source=words[3]), lm.tokenizer, 16, "train", say=lambda text: None)
    found = lm.activations(torch.from_numpy(tokens.ids_NT.astype("int64")), [IN, OUT])
    x_RD, y_RE = (found[name][:, 1:].flatten(0, 1) for name in (IN, OUT))
    run = unmix.sweep(
        activations=x_RD, targets=y_RE, hook=IN, l0=24, features=2 * FEATURES, steps=800, runs=tmp_path, quiet=True,
        training={"batch_tokens": 256, "lr": 3e-3, "selection": "fp32", "dense": "fp32", "border": 0.2},
    )  # fmt: skip
    [on_rows] = run.evaluation()["explained_variance"]
    at = run.members["l0-24"]
    assert main(["evaluate", str(at), *words, "--hook-out", OUT]) == 0
    result = evaluated(at)
    assert result["hook"] == f"{IN} -> {OUT}"
    [row] = result["saes"].values()
    assert on_rows > 0.6
    assert row["explained_variance"] == pytest.approx(on_rows, abs=0.1)
    assert main(["verify", str(at), *words[:4], "--hook-out", OUT]) == 0


def test_a_file_of_a_set_is_evaluated(words, tmp_path):
    at = LOOKS["circuit-tracer relu"](Weights(WIDTH, 24)).put(tmp_path / "set")
    assert main(["evaluate", str(at), *words, "--hook", IN]) == 0
    assert evaluated(at.with_suffix(""))["hook"] == f"{IN} -> {OUT}"


def test_blocks_before_both_hooks_are_skipped(mlp, folder):
    lm = load_language_model(ModelConfig(name=str(folder)))
    ids_NT = torch.arange(32)[None] + 1
    for hook, skipped in ((IN, LAYER), ("resid_pre.0", 0), (f"resid_post.{LAYER - 1}", LAYER)):
        seen = Seen(hook)
        downstream = Downstream(lm, OUT, {"zero": torch.zeros_like}, skip=1, seen=seen)
        downstream.add(ids_NT, torch.zeros_like(ids_NT))
        assert downstream.skipped == skipped
        assert torch.allclose(seen.x_NTD, lm.activations(ids_NT, [hook])[hook], atol=1e-5)


def test_what_cannot_be_is_one_line(mlp, words, tmp_path, capsys):
    def refused(*asked):
        assert main([*map(str, asked)]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    unsaid = saved(mlp, tmp_path / "unsaid", hook_out=None)
    assert refused("evaluate", unsaid, *words).endswith("give --hook-out HOOK")
    assert refused("verify", unsaid, *words[:4]).endswith("give --hook-out HOOK")
    assert main(["evaluate", str(unsaid), *words, "--hook-out", OUT]) == 0
    at = saved(mlp, tmp_path / "mlp")
    assert "comes after the one whose y is replaced" in refused("evaluate", at, *words, "--hook", "mlp_out.2")
    assert "--debias refits" in refused("evaluate", at, *words, "--debias")
    save_sae(new_dictionary(WIDTH, 24, 1.0, 0), tmp_path / "sae", model="gpt2", hook=IN, context=16, more={})
    assert "is for transcoders, and" in refused("evaluate", tmp_path / "sae", *words, "--hook-out", OUT)
    wide = Dictionary({**mlp.weights, "W_dec": torch.ones(FEATURES, 3), "b_dec": torch.ones(3)})
    assert f"activations of width 3, and {OUT}" in refused("evaluate", saved(wide, tmp_path / "wide"), *words)
    with pytest.raises(UserError, match="comes after"):
        _ = Seen(OUT).x_NTD


def test_an_input_that_several_modules_have_is_no_name(folder):
    lm = load_language_model(ModelConfig(name=str(folder)))
    assert find_place(lm.model, "h.2.mlp.input").module is lm.model.transformer.h[2].mlp
    with pytest.raises(UserError, match=f"the model has blocks 0 to {LAYERS - 1}"):
        find_place(lm.model, f"blocks.{LAYERS}.mlp.hook_in")
    for hook in ("mlp.input", ".input", "h.9.mlp.input"):
        with pytest.raises(UserError, match="unknown hook"):
            find_place(lm.model, hook)
