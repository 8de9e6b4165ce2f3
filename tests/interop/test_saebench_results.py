"""Evaluations as SAEBench's results, from the command line; and what its own classes make of them."""

import json
import math
import os
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import WIDTH
from tiny_run import make

from unmix.cli import main
from unmix.config import EVERY_TOKEN
from unmix.corpus.tokens import load_tokens
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.dictionary.nonlinearities import TopK
from unmix.evaluation.evaluate import evaluate
from unmix.interop.saebench import for_saebench
from unmix.lm.model import load_language_model
from unmix.training import run

HOOK = "resid_post.0"
FEW = ["--tokens", "300", "--ce-tokens", "100"]
GROUPS = {
    "model_behavior_preservation": {"kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"},
    "model_performance_preservation": {
        "ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae",
    },
    "reconstruction_quality": {"explained_variance", "explained_variance_legacy", "mse", "cossim"},
    "shrinkage": {"l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"},
    "sparsity": {"l0", "l1"},
    "token_stats": {"total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"},
    "misc_metrics": {
        "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent", "average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim",
        "frac_alive",
    },
}  # fmt: skip
"""What CoreMetricCategories of SAEBench 0.6.0 asks for."""


@pytest.fixture
def own(overrides, tmp_path):
    run.sweep(make(overrides, training__l1=[1.0, 3.0], training__steps=20), tmp_path / "own")
    return tmp_path / "own"


def results(folder):
    return {path.name: json.loads(path.read_text()) for path in sorted((folder / "core").iterdir())}


def test_a_runs_evaluation_is_written_as_saebench_has_it(own, tmp_path, capsys):
    assert main(["evaluate", str(own), *FEW]) == 0
    capsys.readouterr()
    assert main(["convert", str(own), str(tmp_path / "bench"), "--to", "saebench"]) == 0
    written = results(tmp_path / "bench")
    assert capsys.readouterr().out.split() == [str(tmp_path / "bench/core" / name) for name in written]
    assert list(written) == [f"l1-{n}_custom_sae_eval_results.json" for n in (1, 3)]
    [ours] = json.loads((own / "evaluation.json").read_text())["hooks"]
    for (name, row), found in zip(ours["saes"].items(), written.values(), strict=True):
        metrics = found["eval_result_metrics"]
        assert {group: set(of) for group, of in metrics.items()} == GROUPS
        assert metrics["reconstruction_quality"]["explained_variance"] == row["explained_variance"]
        assert metrics["sparsity"] == {"l0": row["l0"], "l1": row["l1"]}
        assert metrics["model_performance_preservation"]["ce_loss_without_sae"] == ours["ce_untouched"]
        kl, zero = row["kl"], ours["baselines"]["zero"]["kl"]
        assert metrics["model_behavior_preservation"]["kl_div_score"] == pytest.approx(1 - kl / zero)
        assert metrics["misc_metrics"]["frac_alive"] == 1 - row["dead"]
        assert all(math.isfinite(value) for of in metrics.values() for value in of.values())
        about = found["eval_result_unstructured"]
        assert about["explained_variance"].startswith("1 - Σ")
        minus = {key for of in metrics.values() for key, value in of.items() if value == -1}
        assert minus == set(about["not_measured"])
        assert found["eval_config"]["context_size"] == 16
        assert found["sae_lens_release_id"] == name
        cfg = found["sae_cfg_dict"]
        assert (cfg["d_sae"], cfg["d_in"], cfg["hook_name"]) == (row["features"], WIDTH, "blocks.0.hook_resid_post")
        assert cfg["training_tokens"] == 20 * 48
        assert os.sep not in cfg["model_name"] + found["eval_config"]["dataset"]  # paths of this machine


def test_foreign_and_refitted_dictionaries_are_written_too(own, overrides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sae = new_dictionary(WIDTH, 24, 1.0, 0, TopK(5, weigh_by_norm=False))
    save_sae(sae, tmp_path / "other/sae", model="gpt2", hook="resid_post.0", context=16, more={})
    words = ["--model", overrides["model.name"], "--corpus", overrides["corpus.source"], *FEW]
    assert main(["evaluate", "own", "other/sae", *words]) == 0
    assert main(["convert", "comparison", "bench", "--to", "saebench"]) == 0
    found = results(tmp_path / "bench")
    assert list(found) == [f"{name}_custom_sae_eval_results.json" for name in ("own_l1-1", "own_l1-3", "sae")]
    assert found["sae_custom_sae_eval_results.json"]["sae_cfg_dict"]["architecture"] == "topk"
    assert main(["evaluate", "other/sae", *words, "--debias"]) == 0
    assert main(["convert", "other/sae", "debiased", "--to", "saebench"]) == 0
    assert len(results(tmp_path / "debiased")) == 2


def test_what_is_missing_is_one_line_and_writes_nothing(own, tmp_path, capsys):
    def refused(*words):
        assert main(["convert", *map(str, words)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line

    (own / "evaluation.json").unlink(missing_ok=True)
    to = ["--to", "saebench"]
    assert f"`unmix evaluate {own}` writes it" in refused(own, tmp_path / "x", *to)
    (own / "evaluation.json").write_text('{"hooks": 1}')
    assert "was not written by this version" in refused(own, tmp_path / "x", *to)
    assert "takes one" in refused(own, own, tmp_path / "x", *to)
    assert "are of the evaluation already" in refused(own, tmp_path / "x", *to, "--hook", "resid_post.0")
    assert "--set a is only for --to neuronpedia" in refused(own, tmp_path / "x", *to, "--set", "a")
    assert "exists" in refused(own, own, *to)
    assert not (tmp_path / "x").exists()


@pytest.mark.peers
def test_saebench_reads_what_is_written(own, tmp_path):
    outputs = pytest.importorskip("sae_bench.evals.core.eval_output")
    graphs = pytest.importorskip("sae_bench.sae_bench_utils.graphing_utils")
    from pydantic import TypeAdapter

    assert main(["evaluate", str(own), *FEW]) == 0
    assert main(["convert", str(own), str(tmp_path / "bench"), "--to", "saebench"]) == 0
    paths = sorted((tmp_path / "bench/core").iterdir())
    for path in paths:
        read = TypeAdapter(outputs.CoreEvalOutput).validate_json(path.read_text())
        assert (
            read.eval_result_metrics.sparsity.l0
            == json.loads(path.read_text())["eval_result_metrics"]["sparsity"]["l0"]
        )
    for name, row in graphs.get_eval_results([str(path) for path in paths]).items():
        assert name.startswith("l1-")
        assert {"l0", "explained_variance", "ce_loss_score", "sae_class", "d_sae", "train_tokens"} <= row.keys()


class Given:
    """In the place of its activation store: these tokens, in one batch."""

    def __init__(self, ids_NT):
        self.ids_NT, self.context_size = ids_NT, ids_NT.shape[1]

    def get_batch_tokens(self, n):
        return self.ids_NT


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_its_sums_and_ours_agree_on_the_same_tokens_but_for_explained_variance(overrides):
    """Position 0 left out of both, nothing masked. Theirs calls a dictionary that predicts μ good; ours gives it 0."""
    core = pytest.importorskip("sae_bench.evals.core.main", reason="sae-bench is not installed")
    bridge = pytest.importorskip("transformer_lens.model_bridge")
    recipe = make(overrides)
    lm = load_language_model(recipe.model)
    tokens = load_tokens(recipe.corpus, lm.tokenizer, 16, "train")
    ids_NT = np.random.default_rng(0).integers(1, 256, (24, 16))
    ids_NT[:, 0] = tokens.bos_id
    tokens = replace(tokens, ids_NT=ids_NT, kept_NT=None)
    mean = lm.activations(torch.from_numpy(ids_NT), [HOOK])[HOOK][:, 1:].flatten(0, 1).mean(0)
    sae = new_dictionary(WIDTH, 24, 1.0, 0)
    means = sae.changed({"W_dec": torch.full_like(sae.W_dec, 1e-9), "b_dec": mean})
    rows = evaluate(
        lm, tokens, HOOK, {"sae": sae, "means": means}, fidelity_tokens=ids_NT.size, ce_tokens=ids_NT.size,
        mask=EVERY_TOKEN,
    )["saes"]  # fmt: skip
    model = bridge.TransformerBridge.boot_transformers(
        lm.name, device="cpu", tokenizer=lm.tokenizer, hf_model=deepcopy(lm.model)
    )
    every = dict.fromkeys(["compute_l2_norms", "compute_sparsity_metrics", "compute_variance_metrics"], True) | {
        "compute_featurewise_density_statistics": True
    }
    store, theirs = Given(torch.from_numpy(ids_NT)), {}
    for name, one in {"sae": sae, "means": means}.items():
        given = for_saebench(one, model="gpt2", hook=HOOK, context=16)
        with torch.no_grad():
            theirs[name], _ = core.get_sparsity_and_variance_metrics(
                given, model, store, n_batches=1, eval_batch_size_prompts=24, model_kwargs={},
                ignore_tokens={tokens.bos_id}, **every,
            )  # fmt: skip
            theirs[name] |= core.get_downstream_reconstruction_metrics(
                given, model, store, compute_kl=True, compute_ce_loss=True, n_batches=1, eval_batch_size_prompts=24,
                ignore_tokens={tokens.bos_id},
            )  # fmt: skip
    for ours, key in (("l0", "l0"), ("l1", "l1"), ("cosine", "cossim"), ("norm_ratio", "l2_ratio")):
        assert theirs["sae"][key] == pytest.approx(rows["sae"][ours], rel=1e-5)
    assert theirs["sae"]["relative_reconstruction_bias"] == pytest.approx(rows["sae"]["reconstruction_bias"], rel=1e-4)
    assert theirs["sae"]["ce_loss_with_sae"] == pytest.approx(rows["sae"]["ce"], abs=1e-4)
    assert rows["means"]["explained_variance"] == pytest.approx(0, abs=1e-5)
    assert theirs["means"]["explained_variance"] > 0.01
