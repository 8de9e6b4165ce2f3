"""Norms against the activations themselves; planted long tokens are named, and only they."""

import numpy as np
import pytest
import torch
from far_tensor import far
from tiny_models import LAYERS, tiny_model_folder

from unmix.config import ModelConfig
from unmix.corpus.tokens import Tokens, sample
from unmix.evaluation.norms import norms, table
from unmix.lm.model import load_language_model
from unmix.report.norms import heat_map

PLANTED = (17, 42)


def tokens(sequences=40, length=30):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 200, size=(sequences, length)).astype(np.uint16)
    ids[np.isin(ids, PLANTED)] = 3
    ids[:, 0] = 0
    for n, planted in enumerate(PLANTED * 6):  # 12 of 1,200: the top 1 %
        ids[n, 5 + n] = planted
    return Tokens(ids, "train", 1, 1, "f", 0)


@pytest.fixture(scope="module")
def model():
    loaded = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    with torch.no_grad():
        loaded.model.transformer.wte.weight[list(PLANTED)] *= 100
    yield loaded
    with torch.no_grad():
        loaded.model.transformer.wte.weight[list(PLANTED)] /= 100


def test_exactly_the_planted_tokens_are_named(model):
    found = norms(model, tokens(), 1200)
    assert list(found["hooks"]) == ["resid_pre.0", *(f"resid_post.{i}" for i in range(LAYERS))]
    for row in found["hooks"].values():
        assert {t["id"] for t in row["top_tokens"]} == set(PLANTED)
        assert sum(t["in_top"] for t in row["top_tokens"]) == 12
        assert row["share_of_square_in_top"] > 0.9
        assert all(t["lift"] == pytest.approx(100, rel=0.1) for t in row["top_tokens"])


def test_the_recipes_hooks_have_their_rows_and_the_map_stays_the_residual_streams(model):
    found = norms(model, tokens(), 300, ["mlp_out.1", "resid_post.1"])
    assert list(found["hooks"])[-1] == "mlp_out.1"
    assert len(found["hooks"]) == LAYERS + 2
    x = model.activations(torch.from_numpy(tokens().ids_NT[sample(40)[:10]].astype(np.int64)), ["mlp_out.1"])[
        "mlp_out.1"
    ]
    assert found["hooks"]["mlp_out.1"]["mean_norm"] == pytest.approx(x.norm(dim=-1).mean().item(), rel=1e-5)
    residual = {**found, "hooks": {k: v for k, v in found["hooks"].items() if k != "mlp_out.1"}}
    assert heat_map(found) == heat_map(residual)


def test_numbers_are_those_of_the_activations(model):
    found = norms(model, tokens(), 1200, batch_sequences=7)
    x = model.activations(torch.from_numpy(tokens().ids_NT.astype(np.int64)), ["resid_post.1"])["resid_post.1"]
    norm = x.norm(dim=-1).flatten().numpy()
    row = found["hooks"]["resid_post.1"]
    assert row["mean_norm"] == pytest.approx(norm.mean(), rel=1e-5)
    assert row["quantiles"]["0.99"] == pytest.approx(np.quantile(norm, 0.99), rel=1e-5)
    assert sum(row["proportions"]) == pytest.approx(1)
    first = row["places"]["first position"]
    assert first["tokens"] == 40
    assert first["mean_over_median"] == pytest.approx(norm.reshape(40, 30)[:, 0].mean() / np.median(norm), rel=1e-5)
    assert "resid_post.1" in table(found)


def test_norms_of_a_model_on_a_gpu_are_brought_here(model, monkeypatch):
    wanted, inner = norms(model, tokens(), 300), type(model).activations

    def on_gpu(self, ids_NT, hooks):
        return {hook: far(x_NTD) for hook, x_NTD in inner(self, ids_NT, hooks).items()}

    monkeypatch.setattr(type(model), "activations", on_gpu)
    assert norms(model, tokens(), 300) == wanted
