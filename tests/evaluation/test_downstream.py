"""Cross-entropy with something spliced in: against whole passes, for every family; identity costs nothing."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import FAMILIES, VOCABULARY, WIDTH, tiny_model_folder

from unmix.config import ModelConfig
from unmix.dictionary.model import new_dictionary
from unmix.evaluation import memory
from unmix.evaluation.downstream import Downstream, Effect, ablations
from unmix.evaluation.splice import error_of, splice, with_feature
from unmix.lm.model import load_language_model

HOOKS = ["resid_pre.0", "resid_pre.1", "resid_post.0", "resid_post.2", "attn_out.1", "mlp_out.1"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return load_language_model(ModelConfig(name=str(tiny_model_folder(request.param))))


def ids(sequences=4, length=12):
    found = torch.randint(1, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(0))
    found[:, 0] = 0
    return found


def alone(ids_NT):
    """Each sequence is a document."""
    return torch.arange(len(ids_NT))[:, None].expand(ids_NT.shape)


def small_sae():
    sae = new_dictionary(WIDTH, 40, 0.3, 0)
    with torch.no_grad():
        sae.b_dec.fill_(0.1)
    return sae


def slow_ce(model, ids_NT, hook, replacement):
    """A whole pass, log-softmax in float64, one token at a time."""
    with splice(model.model, hook, replacement):
        logits = model.logits(ids_NT).double()
    return [
        [-float(torch.log_softmax(logits[n, t], 0)[ids_NT[n, t + 1]]) for t in range(1, ids_NT.shape[1] - 1)]
        for n in range(len(ids_NT))
    ]


@pytest.mark.parametrize("hook", HOOKS)
def test_skipping_the_blocks_before_the_hook_changes_nothing(model, hook):
    sae = small_sae()
    downstream = Downstream(model, hook, {"sae": sae, **ablations(torch.ones(WIDTH))}, skip=1)
    downstream.add(ids()[:1], alone(ids())[:1])
    downstream.add(ids()[1:], alone(ids())[1:])
    got = downstream.metrics()
    base = torch.tensor(slow_ce(model, ids(), hook, torch.clone))
    assert got["ce_untouched"] == pytest.approx(base.mean().item(), rel=1e-5)
    assert got["tokens"] == base.numel()
    for name, replacement in (("sae", sae), ("zero", torch.zeros_like), ("mean", torch.ones_like)):
        ce = torch.tensor(slow_ce(model, ids(), hook, replacement))
        row = got["replacements"][name]
        assert row["ce"] == pytest.approx(ce.mean().item(), rel=1e-4)
        assert row["delta_ce"] == pytest.approx((ce - base).mean().item(), abs=1e-4)
        error = (ce - base).mean(1).std() / len(ce) ** 0.5
        assert row["delta_ce_standard_error"] == pytest.approx(error.item(), abs=1e-4)
    with torch.no_grad():  # and the model is whole again
        assert torch.allclose(model.logits(ids()).double(), model.model(ids()).logits.double())


def standard_error(deltas_NT, documents_NT):
    effect, zeros = Effect(), torch.zeros(deltas_NT.shape, dtype=torch.float64)
    for one, documents in zip(deltas_NT, documents_NT, strict=True):
        effect.add(one[None], zeros[:1], zeros[:1], documents[None])
    found = effect.metrics()
    assert found["delta_ce"] == pytest.approx(deltas_NT.mean().item())
    return found["delta_ce_standard_error"]


def test_rows_of_one_document_that_cost_alike_count_once():
    cost_G = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    of_documents = cost_G.std().item() / 9**0.5
    for rows in (1, 7):  # of each document; as independent sequences they would be √7 times too sure
        deltas_NT = cost_G.repeat_interleave(rows)[:, None].expand(-1, 5)
        documents_NT = torch.arange(9).repeat_interleave(rows)[:, None].expand(-1, 5)
        assert standard_error(deltas_NT, documents_NT) == pytest.approx(of_documents)


def test_a_document_that_ends_within_a_row_is_not_mixed_with_the_next():
    cost_G = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    flat = torch.arange(8).repeat_interleave(5)  # rows of 4 predictions, documents of 5
    assert standard_error(cost_G[flat].view(10, 4), flat.view(10, 4)) == pytest.approx(cost_G.std().item() / 8**0.5)


def test_the_error_is_that_of_repeated_samples_of_documents_of_unlike_length():
    generator = torch.Generator().manual_seed(2)
    means, errors = [], []
    for _ in range(400):
        length_G = torch.randint(1, 20, (60,), generator=generator)
        cost_G = torch.randn(60, dtype=torch.float64, generator=generator) + length_G / 10
        documents_1T = torch.arange(60).repeat_interleave(length_G)[None]
        means.append(cost_G[documents_1T].mean().item())
        errors.append(standard_error(cost_G[documents_1T], documents_1T))
    assert torch.tensor(errors).mean() == pytest.approx(torch.tensor(means).std().item(), rel=0.1)


def test_a_single_document_has_no_error():
    assert math.isnan(standard_error(torch.rand(4, 5, dtype=torch.float64), torch.zeros(4, 5, dtype=torch.int64)))


def test_pieces_of_positions_change_no_number(monkeypatch):
    model = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    found = []
    for size in (1, 5 * 4 * VOCABULARY, 2**24):  # one position, five, all
        monkeypatch.setattr(memory, "PIECE", size)
        downstream = Downstream(model, "resid_post.0", {"sae": small_sae()}, skip=1)
        downstream.add(ids(), alone(ids()))
        found.append(downstream.metrics())
    assert found[0] == found[1] == found[2]


def test_identity_costs_nothing(model):
    downstream = Downstream(model, "resid_post.1", {"identity": torch.clone}, skip=1)
    downstream.add(ids(), alone(ids()))
    row = downstream.metrics()["replacements"]["identity"]
    assert row["delta_ce"] == pytest.approx(0, abs=1e-5)
    assert row["kl"] == pytest.approx(0, abs=1e-5)


def test_kl_is_the_kl(model):
    sae = small_sae()
    downstream = Downstream(model, "resid_post.0", {"sae": sae}, skip=1)
    downstream.add(ids(), alone(ids()))
    with torch.no_grad():
        p = torch.log_softmax(model.logits(ids())[:, 1:-1].double(), -1)
        with splice(model.model, "resid_post.0", sae):
            q = torch.log_softmax(model.logits(ids())[:, 1:-1].double(), -1)
    want = F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean().item()
    assert downstream.metrics()["replacements"]["sae"]["kl"] == pytest.approx(want, abs=1e-5)


def test_what_is_spliced_adds_up():
    """x̂ + (x - x̂) = x, and a feature at factor 1 changes nothing, at 0 takes f_i W_dec_i out."""
    sae, x = small_sae(), torch.randn(3, 5, WIDTH)
    torch.testing.assert_close(sae(x) + error_of(sae)(x), x)
    torch.testing.assert_close(with_feature(sae, 7, 1.0)(x), x)
    f = sae.encode(x)
    torch.testing.assert_close(with_feature(sae, 7, 0.0)(x), x - f[..., 7:8] * sae.W_dec[7])
    torch.testing.assert_close(with_feature(sae, 7, 3.0)(x), x + 2 * f[..., 7:8] * sae.W_dec[7])
    without = f.clone()
    without[..., 7] = 0  # the error is that of all features
    torch.testing.assert_close(with_feature(sae, 7, 0.0)(x), sae.decode(without) + error_of(sae)(x))


def test_the_model_is_whole_again_after_an_exception():
    model = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    before = model.logits(ids())

    def fail(x):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="middle"), splice(model.model, "resid_post.0", fail):
        model.logits(ids())
    assert torch.equal(model.logits(ids()), before)
