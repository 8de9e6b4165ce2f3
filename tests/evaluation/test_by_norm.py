"""Every number by norm against a slow implementation written from its equation in float64, at several batch sizes."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.evaluation.by_norm import ByNorm

D, F = 6, 24
CLOSE = 2e-6  # what is kept is float32


def random_sae(seed: int = 0, sparse: float = 0.0) -> Dictionary:
    sae = new_dictionary(D, F, 0.7, seed).double()
    with torch.no_grad():
        sae.b_enc.normal_(generator=torch.Generator().manual_seed(seed + 1)).sub_(sparse)
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(seed + 2))
    return sae


def tokens(n, seed=0):
    """Lengths that spread over two orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, dtype=torch.float64, generator=generator)
    return x * torch.exp(torch.randn(n, 1, dtype=torch.float64, generator=generator)) + 0.5


def measure(sae, x_BD, batch, mean_D=None):
    found = ByNorm(sae.W_dec.norm(dim=1), x_BD.mean(0) if mean_D is None else mean_D)
    with torch.no_grad():
        for part in x_BD.split(batch):
            f = sae.encode(part)
            found.add(part, f, sae.decode(f))
    return found.metrics()


def slow(sae, x_BD, mu):
    """Token by token, from the equations."""
    rows = []
    with torch.no_grad():
        for at, x in enumerate(x_BD):
            f = torch.clamp(x @ sae.W_enc + sae.b_enc, min=0)
            y = f @ sae.W_dec + sae.b_dec
            rows.append(
                {
                    "at": at,
                    "norm": math.sqrt(sum(v * v for v in x.tolist())),
                    "error": float(((y - x) ** 2).sum()),
                    "centred": float(((x - mu) ** 2).sum()),
                    "cosine": float(x @ y / x.norm() / y.norm()),
                    "ratio": float(y.norm() / x.norm()),
                    "l0": int((f > 0).sum()),
                    "l1": sum(float(f[i]) * float(sae.W_dec[i].norm()) for i in range(F)),
                    "f_sum": float(f.sum()),
                }
            )
    rows.sort(key=lambda row: (row["norm"], row["at"]))
    n, one = len(rows), math.ceil(len(rows) / 100)
    everything = {name: math.fsum(row[name] for row in rows) for name in ("error", "l1")}

    def of(part):
        def total(name):
            return math.fsum(row[name] for row in part)

        return {
            "norm_from": part[0]["norm"],
            "norm_to": part[-1]["norm"],
            "tokens": len(part),
            "explained_variance": 1 - total("error") / total("centred"),
            "normalised_mse": total("error") / math.fsum(row["norm"] ** 2 for row in part),
            "cosine": total("cosine") / len(part),
            "norm_ratio": total("ratio") / len(part),
            "share_of_loss": total("error") / everything["error"],
            "share_of_penalty": total("l1") / everything["l1"],
            "l0": total("l0") / len(part),
            "l1": total("l1") / len(part),
            "f_sum": total("f_sum") / len(part),
        }, part

    deciles = [of(rows[i * n // 10 : (i + 1) * n // 10]) for i in range(10)]
    groups = {
        "bottom 1 %": of(rows[:one]),
        "the rest": of(rows[one : n - one]),
        "top 1 %": of(rows[n - one :]),
    }
    return deciles, groups


@settings(deadline=None, max_examples=20)
@given(n=st.integers(10, 320), batch=st.integers(1, 320), seed=st.integers(0, 1000))
def test_every_number_agrees_with_its_equation_at_any_batch_size(n, batch, seed):
    x, sae, mu = tokens(n, seed), random_sae(seed), torch.full((D,), 0.3, dtype=torch.float64)
    got = measure(sae, x, batch, mu)
    deciles, groups = slow(sae, x, mu)
    assert got["tokens"] == n
    assert "none" in got["mask"]
    for row, (want, _) in zip(got["deciles"], deciles, strict=True):
        assert row.keys() == want.keys()
        for name, value in want.items():
            assert row[name] == pytest.approx(value, rel=CLOSE, abs=CLOSE), name
    for group, (want, part) in groups.items():
        row = got["groups"][group]
        for name, value in want.items():
            assert row[name] == pytest.approx(value, rel=CLOSE, abs=CLOSE), (group, name)
        for name in ("l0", "l1"):
            edges, share = got[f"{name}_edges"], row[f"{name}_proportions"]
            assert len(share) == len(edges) - 1
            last = len(share) - 1
            counts = [0] * len(share)
            for value in (np.float32(row[name]) for row in part):
                bins = [i for i in range(last) if edges[i] <= value < edges[i + 1]]
                counts[bins[0] if bins else last] += 1
            assert share == pytest.approx([count / len(part) for count in counts])
    assert sum(row["share_of_loss"] for row in got["deciles"]) == pytest.approx(1)
    assert sum(row["tokens"] for row in got["groups"].values()) == n


def test_the_numbers_do_not_depend_on_how_tokens_were_batched():
    sae, x = random_sae().float(), tokens(1_003).float()
    with torch.no_grad():
        f = sae.encode(x)
        x_hat = sae.decode(f)
    found = []
    for batch in (1_003, 100, 7, 1):
        by_norm = ByNorm(sae.W_dec.norm(dim=1), x.mean(0))
        for part in zip(x.split(batch), f.split(batch), x_hat.split(batch), strict=True):
            by_norm.add(*part)
        found.append(by_norm.metrics())
    assert found[1:] == found[:1] * 3


def test_the_order_decides_between_equal_norms():
    """Every token has norm 1: decile i and the last 1 % are told by the feature each token turns on."""
    x = torch.eye(D).repeat(50, 1)
    f = torch.zeros(300, F)
    f[torch.arange(300), 0] = torch.arange(1.0, 301.0)
    for batch in (300, 11):
        found = ByNorm(torch.ones(F), torch.zeros(D))
        for part, part_f in zip(x.split(batch), f.split(batch), strict=True):
            found.add(part, part_f, part)
        got = found.metrics()
        assert [row["f_sum"] for row in got["deciles"]] == [15.5 + 30 * i for i in range(10)]
        assert [row["f_sum"] for row in got["groups"].values()] == [2, 150.5, 299]


def test_long_tokens_take_the_loss():
    """1 % of tokens, 100 times as long, reconstructed as badly as the rest in proportion: 10,000 x 1 % of the loss."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2_000, 64, generator=generator)
    x[::100] *= 100
    found = ByNorm(torch.ones(F), torch.zeros(64))
    found.add(x, torch.ones(2_000, F), 0.9 * x)
    top = found.metrics()["groups"]["top 1 %"]
    assert top["tokens"] == 20
    assert top["share_of_loss"] == pytest.approx(100 / (100 + 0.99), rel=0.05)
    assert top["norm_ratio"] == pytest.approx(0.9)
    assert top["cosine"] == pytest.approx(1)
    assert top["explained_variance"] == pytest.approx(0.99)


def test_zeros_have_a_bin_of_their_own():
    x, sae = tokens(500), random_sae(sparse=6.0)
    got = measure(sae, x, 100)
    with torch.no_grad():
        silent = (sae.encode(x) > 0).sum(1) == 0
    assert 0 < silent.double().mean() < 1
    for name in ("l0", "l1"):
        zeros = sum(row[f"{name}_proportions"][0] * row["tokens"] for row in got["groups"].values())
        assert zeros == pytest.approx(int(silent.sum()))
        assert all(sum(row[f"{name}_proportions"]) == pytest.approx(1) for row in got["groups"].values())
    assert all(isinstance(edge, int) for edge in got["l0_edges"])


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("silent", [False, True])
def test_what_cannot_be_said_is_null(n, silent):
    x = tokens(n)
    found = ByNorm(torch.ones(F), torch.zeros(D))
    if n:
        found.add(x, torch.zeros(n, F) if silent else torch.ones(n, F), torch.zeros(n, D) if silent else x)
    got = json.loads(json.dumps(found.metrics(), allow_nan=False))
    assert sum(row["tokens"] for row in got["deciles"]) == n
    empty = [row for row in got["deciles"] if not row["tokens"]]
    assert all(
        value is None for row in empty for name, value in row.items() if "share" not in name and name != "tokens"
    )
    assert (got["groups"]["top 1 %"]["share_of_penalty"] is None) == (silent or not n)


def test_a_token_that_is_zero_counts_as_0():
    x = torch.zeros(10, D)
    found = ByNorm(torch.ones(F), torch.zeros(D))
    found.add(x, torch.ones(10, F), torch.ones(10, D))
    row = found.metrics()["deciles"][0]
    assert (row["cosine"], row["norm_ratio"], row["explained_variance"]) == (0, 0, None)
