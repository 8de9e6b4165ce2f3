"""Decoder neighbours, matches between dictionaries, effects on the logits: against plain products."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, WIDTH, tiny_model_folder

from unmix.config import ModelConfig
from unmix.dictionary.model import new_dictionary
from unmix.explore import geometry, logits
from unmix.explore.largest import largest
from unmix.lm.model import load_language_model


def test_the_k_largest_with_ties_by_their_place():
    values = np.array([[1, 3, 3, 2, 3], [0, 0, 0, 0, 0], [5, np.nan, 4, -1, 4]], dtype=np.float32)
    columns, found = largest(values, 3)
    assert columns.tolist() == [[1, 2, 4], [0, 1, 2], [0, 2, 4]]
    assert found.tolist() == [[3, 3, 3], [0, 0, 0], [5, 4, 4]]
    columns, found = largest(values[:, :2], 3)
    assert columns.tolist() == [[1, 0, -1], [0, 1, -1], [0, -1, -1]]
    rng = np.random.default_rng(0)
    many = rng.integers(0, 9, (20, 60)).astype(np.float32)
    expected = [sorted(range(60), key=lambda n, row=row: (-row[n], n))[:7] for row in many]
    assert largest(many, 7)[0].tolist() == expected


def cosines(a, b):
    a, b = (w / w.norm(dim=1, keepdim=True) for w in (a.double(), b.double()))
    return (a @ b.T).numpy()


@pytest.mark.parametrize("piece", [2**26, 4 * 30 * 7])
def test_neighbours_and_matches(monkeypatch, piece):
    monkeypatch.setattr(geometry, "PIECE", piece)
    one, other = new_dictionary(8, 30, 0.5, 0), new_dictionary(8, 22, 1.5, 1)
    a, b = one.W_dec.detach(), other.W_dec.detach()
    own = cosines(a, a)
    np.fill_diagonal(own, -np.inf)
    near = geometry.neighbours(geometry.unit_rows(one), k=4)
    assert near.features_FK.tolist() == np.argsort(-own, axis=1)[:, :4].tolist()
    np.testing.assert_allclose(near.cosines_FK, -np.sort(-own, axis=1)[:, :4], atol=1e-6)
    there, back = geometry.matches(geometry.unit_rows(one), geometry.unit_rows(other))
    across = cosines(a, b)
    assert there.features_F.tolist() == across.argmax(1).tolist()
    assert back.features_F.tolist() == across.argmax(0).tolist()
    np.testing.assert_allclose(there.cosines_F, across.max(1), atol=1e-6)
    np.testing.assert_allclose(back.cosines_F, across.max(0), atol=1e-6)


def test_a_dictionary_of_one_feature_has_no_neighbour():
    found = geometry.neighbours(geometry.unit_rows(new_dictionary(8, 1, 0.5, 0)))
    assert (found.features_FK == -1).all()


def test_a_row_of_length_0_has_no_direction():
    sae = new_dictionary(8, 5, 0.5, 0)
    with torch.no_grad():
        sae.W_dec[2] = 0
    rows = geometry.unit_rows(sae)
    assert rows.isfinite().all()
    assert geometry.neighbours(rows, 2).cosines_FK[2].tolist() == [0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_are_what_moves_the_logits(family):
    """By the model's own last steps: the derivative of its logits along a feature, at an x of mean 0 in D and far away
    from it, where the norm's own derivative has no part along the feature."""
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if "norm" in name or "ln_f" in name:
                weight.add_(torch.rand_like(weight))
    out = logits.readout(lm)
    assert out is not None
    assert out.centred == (family in ("gpt2", "gpt_neox", "opt", "phi"))
    sae = new_dictionary(WIDTH, 5, 1.0, 0)
    found = logits.effects(sae, out, k=6)
    norm = final_norm(lm)
    for i, d in enumerate(sae.W_dec.detach()):
        x = torch.randn(WIDTH)
        x = x - x.mean()
        e = d - d.mean() if out.centred else d
        x = x - (x @ e) / (e @ e) * e  # no part along the feature: the length of x stays, to first order
        y, moved = (lm.model.get_output_embeddings()(norm((x + s * d)[None, None]))[0, 0].double() for s in (0, 1e-3))
        effect = (moved - y) / 1e-3 * x.norm() / WIDTH**0.5
        effect = effect - effect.mean()
        by_effect = effect.argsort(descending=True)
        assert set(found.plus_FK[i].tolist()) >= set(by_effect[:4].tolist())
        assert set(found.minus_FK[i].tolist()) >= set(by_effect[-4:].tolist())
        np.testing.assert_allclose(found.plus_values_FK[i], effect[found.plus_FK[i]], rtol=0.02, atol=0.01)
        np.testing.assert_allclose(found.minus_values_FK[i], effect[found.minus_FK[i]], rtol=0.02, atol=0.01)
        assert (np.diff(found.plus_values_FK[i]) <= 0).all()
        assert (np.diff(found.minus_values_FK[i]) >= 0).all()


def test_logits_that_have_no_token_are_left_out():
    """Some models have more rows than their tokenizer has tokens, all alike, as Qwen's."""
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    weight = lm.model.get_output_embeddings().weight
    V, sae = 200, new_dictionary(WIDTH, 5, 1.0, 0)
    there = {str(i): i for i in (*range(V), *range(288, 300))}  # some that the model lacks
    small = replace(lm, tokenizer=SimpleNamespace(get_vocab=lambda: there))
    with torch.no_grad():
        weight[V:] = 9.0 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    assert (logits.effects(sae, logits.readout(lm)).plus_FK >= V).any()
    out = logits.readout(small)
    found = logits.effects(sae, out)
    rows_FV = (sae.W_dec.detach() - sae.W_dec.detach().mean(1, keepdim=True)) @ (out.gain_D * weight[:V].detach()).T
    effect_FV = (rows_FV - rows_FV.mean(1, keepdim=True)).numpy()
    np.testing.assert_array_equal(found.plus_FK, np.argsort(-effect_FV, axis=1)[:, : logits.NAMED])
    np.testing.assert_array_equal(found.minus_FK, np.argsort(effect_FV, axis=1)[:, : logits.NAMED])
    np.testing.assert_allclose(found.plus_values_FK[:, 0], effect_FV.max(1), rtol=1e-4)
    many = logits.effects(sae, out, k=V + 3)
    assert [sorted(row) for row in many.minus_FK.tolist()] == 5 * [[-1, -1, -1, *range(V)]]


def final_norm(lm):
    names = ("ln_f", "final_layer_norm", "final_layernorm", "norm")
    [found] = [
        module
        for path, module in lm.model.named_modules()
        if path.rpartition(".")[2] in names and len(path.split(".")) <= (3 if "decoder" in path else 2)
    ]
    return found


def test_a_hook_off_the_residual_stream_has_no_effects():
    assert logits.attributed("resid_post.3")
    assert logits.attributed("blocks.3.hook_mlp_out")
    assert not logits.attributed("transformer.h.0.mlp.c_fc")


def test_a_model_without_a_norm_before_the_logits_has_no_readout(monkeypatch):
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    monkeypatch.setattr(lm.model.transformer.ln_f, "forward", lambda x: torch.tanh(x))
    assert logits.readout(lm) is None
