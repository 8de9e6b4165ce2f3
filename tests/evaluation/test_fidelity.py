"""Every metric against a slow implementation written from its equation in float64, at several batch sizes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.evaluation.fidelity import Activations, Fidelity, redundancy


def random_sae(D: int = 6, F: int = 20, seed: int = 0) -> Dictionary:
    sae = new_dictionary(D, F, 0.7, seed).double()
    with torch.no_grad():
        sae.b_enc.normal_(generator=torch.Generator().manual_seed(seed + 1))
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(seed + 2))
    return sae


def measure(sae, x_BD, batch):
    activations, fidelity = Activations(x_BD.shape[1]), Fidelity(sae)
    with torch.no_grad():
        for part in x_BD.split(batch):
            activations.add(part)
            f = sae.encode(part)
            fidelity.add(part, f, sae.decode(f))
    return fidelity.metrics(activations), activations


def slow(sae, x_BD):
    """Token by token, from the equations."""
    n, mu = len(x_BD), x_BD.mean(0)
    rows = []
    with torch.no_grad():
        for x in x_BD:
            f = torch.clamp(x @ sae.W_enc + sae.b_enc, min=0)
            y = f @ sae.W_dec + sae.b_dec
            rows.append((x, f, y))
    error = sum(float(((y - x) ** 2).sum()) for x, _, y in rows)
    l0 = [int((f > 0).sum()) for _, f, _ in rows]
    active = sum((f > 0).long() for _, f, _ in rows)
    return {
        "explained_variance": 1 - error / sum(float(((x - mu) ** 2).sum()) for x, _, _ in rows),
        "normalised_mse": error / sum(float((x**2).sum()) for x, _, _ in rows),
        "cosine": sum(float(x @ y / x.norm() / y.norm()) for x, _, y in rows) / n,
        "norm_ratio": sum(float(y.norm() / x.norm()) for x, _, y in rows) / n,
        "reconstruction_bias": sum(float(y @ y) for _, _, y in rows) / sum(float(x @ y) for x, _, y in rows),
        "l0": sum(l0) / n,
        "l1": sum(float((f * sae.W_dec.detach().norm(dim=1)).sum()) for _, f, _ in rows) / n,
        "dead": float((active == 0).double().mean()),
        "above_1_percent": float((active / n > 0.01).double().mean()),
        "above_10_percent": float((active / n > 0.1).double().mean()),
    }


@settings(deadline=None, max_examples=25)
@given(n=st.integers(3, 60), batch=st.integers(1, 60), seed=st.integers(0, 1000))
def test_every_metric_agrees_with_its_equation_at_any_batch_size(n, batch, seed):
    x = torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 1
    sae = random_sae(seed=seed)
    got, _ = measure(sae, x, batch)
    for name, want in slow(sae, x).items():
        assert got[name] == pytest.approx(want, rel=1e-9), name
    assert got["tokens"] == n


class Predicts:
    """Answers a fixed function of x; stands in for an SAE."""

    W_dec = torch.ones(3, 6)
    features = 3


def predict(answer, x):
    activations, fidelity = Activations(6), Fidelity(Predicts())
    activations.add(x)
    fidelity.add(x, torch.ones(len(x), 3), answer)
    return fidelity.metrics(activations)


def test_predicting_the_mean_explains_nothing_and_identity_everything():
    x = torch.randn(500, 6, dtype=torch.float64) + 5
    assert predict(x.mean(0).expand_as(x), x)["explained_variance"] == pytest.approx(0, abs=1e-9)
    identity = predict(x, x)
    assert identity["explained_variance"] == 1
    assert identity["cosine"] == pytest.approx(1)
    assert identity["reconstruction_bias"] == pytest.approx(1)
    assert predict(0.8 * x, x)["reconstruction_bias"] == pytest.approx(0.8)


def test_a_dictionary_that_predicts_the_mean_explains_nothing_at_any_batch_size():
    x = torch.randn(500, 6, dtype=torch.float64) * torch.linspace(1, 9, 500)[:, None].double() + 40
    sae = random_sae()
    with torch.no_grad():
        sae.W_dec.zero_()
        sae.b_dec.copy_(x.mean(0))
    for batch in (1, 7, 500):
        assert measure(sae, x, batch)[0]["explained_variance"] == pytest.approx(0, abs=1e-9)


def test_pca_is_the_best_linear_reconstruction_of_its_rank():
    x = torch.randn(400, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 2
    activations = Activations(6)
    for part in x.split(33):
        activations.add(part)
    centred = x - x.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    for k, got in enumerate(activations.pca_explained_variance().tolist()):
        error = centred - (u[:, :k] * s[:k]) @ v[:k]
        assert got == pytest.approx(1 - float(error.square().sum() / centred.square().sum()), abs=1e-9)


def test_percentiles_of_l0_are_counts_that_occur():
    sae = random_sae()
    x = torch.randn(999, 6, dtype=torch.float64)
    got, _ = measure(sae, x, 100)
    l0 = sorted(int((f > 0).sum()) for f in sae.encode(x))
    for percent in (5, 50, 95):
        assert got["l0_percentiles"][str(percent)] == l0[math.ceil(999 * percent / 100) - 1]


def test_twins_are_seen():
    sae = new_dictionary(8, 10, 1.0, 0)
    with torch.no_grad():
        sae.W_dec[3] = 2 * sae.W_dec[7]
    found = redundancy(sae)
    assert found["max_decoder_cosine_above_0.9"] == pytest.approx(0.2)


@pytest.mark.parametrize("batch", [3, 50])
def test_what_lies_along_the_all_ones_direction_is_what_subtracting_each_tokens_mean_takes_out(batch):
    x_BD = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 0.7
    centred_BD = x_BD - x_BD.mean(1, keepdim=True)
    _, activations = measure(random_sae(), x_BD.double(), batch)
    lost = 1 - centred_BD.square().sum().item() / x_BD.square().sum().item()
    assert activations.along_ones == pytest.approx(lost, rel=1e-5)
    _, activations = measure(random_sae(), centred_BD.double(), batch)
    assert activations.along_ones == pytest.approx(0, abs=1e-12)
    _, activations = measure(random_sae(), torch.zeros(9, 6, dtype=torch.float64), 9)
    assert math.isnan(activations.along_ones)
