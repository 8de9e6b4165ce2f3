"""The evaluation against SAELens' own (`sae_lens.evals.run_evals`): the same model, rows and dictionaries.

    L0, explained variance     over every token but special ones                      1e-5 of the number
    CE                         untouched, and with x̂ in the place of x                5e-3

Special tokens are skipped by both: they are not counted and keep x. SAELens leaves out predictions that are made from
them; here only those of the BOS in front are, so that in rows with separators the cross-entropies are of a few others.

benchmarks/.venv/bin/python -m pytest -m peers tests/evaluation
"""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tiny_models import WIDTH, tiny_model_folder
from tiny_run import write_texts

from unmix.config import CorpusConfig, MaskConfig, ModelConfig
from unmix.corpus.tokens import load_tokens, sample
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.nonlinearities import Gated, JumpRelu, Relu, TopK
from unmix.dictionary.per_token import ByLength
from unmix.evaluation.evaluate import evaluate
from unmix.lm.hooks import module_path
from unmix.lm.model import load_language_model

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
T, N, AT_ONCE, F = 32, 48, 6, 40
MASK = MaskConfig(special=True, norm_above=None)
KINDS = {
    "relu": Relu(), "topk": TopK(5, weigh_by_norm=False), "jumprelu": JumpRelu(), "gated": Gated(), "of length": Relu()
}  # fmt: skip


def dictionary(kind, x_BD):
    """One that explains some of x: features along random directions, and the mean as b_dec."""
    draw = torch.Generator().manual_seed(3)
    phi = KINDS[kind]
    w = new_dictionary(WIDTH, F, 1.0, 0, phi).weights
    W_dec = torch.randn(F, WIDTH, generator=draw)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    length = x_BD.norm(dim=1).mean() / WIDTH**0.5 if kind == "of length" else 1.0
    mean_D = x_BD.mean(0) / length
    w |= {"W_enc": 0.4 * W_dec.T.contiguous(), "W_dec": W_dec, "b_dec": mean_D, "b_enc": -0.4 * W_dec @ mean_D}
    spread = ((x_BD - x_BD.mean(0)) @ w["W_enc"]).std()
    own = {"threshold": 0.3 * spread * torch.ones(F), "b_mag": w["b_enc"].clone(), "r_mag": torch.zeros(F)}
    w |= {name: own[name] for name in own.keys() & w.keys()}
    return Dictionary(w, phi, per_token=ByLength() if kind == "of length" else None)


class SameRows:
    """Stands in for their store of activations: rows of ids, some at a time, over and over from the first."""

    context_size, store_batch_size_prompts = T, AT_ONCE

    def __init__(self, ids_NT):
        self.ids_NT, self.at = ids_NT, 0

    def reset_input_dataset(self):
        self.at = 0

    def get_batch_tokens(self, rows):
        self.at += rows
        return self.ids_NT[self.at - rows : self.at]


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2"])
def lm(request):
    return load_language_model(ModelConfig(name=str(tiny_model_folder(request.param)), matmul="fp32"))


@pytest.fixture
def tokens(lm, tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    config = CorpusConfig(source=str(write_texts(tmp_path / "texts")), held_out_fraction=0.5)
    return load_tokens(config, lm.tokenizer, T, "held_out")


@pytest.mark.parametrize("hook", ["resid_post.1", "mlp_out.0"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers(kind, hook, lm, tokens, tmp_path):
    evals = pytest.importorskip("sae_lens.evals")
    from sae_lens import SAE
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.training.activation_scaler import ActivationScaler

    ids_NT = torch.from_numpy(tokens.ids_NT[sample(len(tokens.ids_NT))[:N]].astype("int64"))
    assert len(ids_NT) == N
    special_NT = ids_NT == 0
    assert special_NT[:, 0].all()
    assert special_NT[:, 1:].any()
    sae = dictionary(kind, lm.activations(ids_NT, [hook])[hook][~special_NT])
    ours = evaluate(lm, tokens, hook, {"it": sae}, fidelity_tokens=N * T, ce_tokens=N * T, mask=MASK)
    row = ours["saes"]["it"]

    path = module_path(lm.model, hook).removesuffix(".output")
    save_sae(sae, tmp_path / "sae", model=lm.name, hook=path, context=T, more={})
    asked = evals.EvalConfig(
        batch_size_prompts=AT_ONCE,
        n_eval_reconstruction_batches=N // AT_ONCE,
        compute_ce_loss=True,
        n_eval_sparsity_variance_batches=N // AT_ONCE,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    model = HookedProxyLM(deepcopy(lm.model), lm.tokenizer)
    theirs, _ = evals.run_evals(
        SAE.load_from_disk(str(tmp_path / "sae")), SameRows(ids_NT), model, ActivationScaler(), asked
    )

    assert row["tokens"] == int((~special_NT).sum())
    assert row["l0"] > 1
    assert row["l0"] == pytest.approx(theirs["sparsity"]["l0"], rel=1e-5)
    variance = theirs["reconstruction_quality"]["explained_variance"]
    assert abs(variance) > 0.02
    assert row["explained_variance"] == pytest.approx(variance, rel=1e-5)
    found = theirs["model_performance_preservation"]
    assert ours["ce_untouched"] == pytest.approx(found["ce_loss_without_sae"], abs=5e-3)
    assert row["ce"] == pytest.approx(found["ce_loss_with_sae"], abs=5e-3)


def test_cross_entropy_is_the_same_where_no_document_ends(lm, tokens, tmp_path):
    """In rows without a separator both count the same predictions."""
    evals = pytest.importorskip("sae_lens.evals")
    from sae_lens import SAE
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.training.activation_scaler import ActivationScaler

    order_N = sample(len(tokens.ids_NT))
    whole = [n for n in order_N if not (tokens.ids_NT[n, 1:] == 0).any()]
    ids_NT = torch.from_numpy(tokens.ids_NT[whole[:24]].astype("int64"))
    few = replace(tokens, ids_NT=tokens.ids_NT[whole[:24]])
    hook = "resid_post.1"
    sae = dictionary("relu", lm.activations(ids_NT, [hook])[hook][:, 1:].flatten(0, 1))
    ours = evaluate(lm, few, hook, {"it": sae}, fidelity_tokens=24 * T, ce_tokens=24 * T, mask=MASK)
    path = module_path(lm.model, hook).removesuffix(".output")
    save_sae(sae, tmp_path / "sae", model=lm.name, hook=path, context=T, more={})
    asked = evals.EvalConfig(batch_size_prompts=24, n_eval_reconstruction_batches=1, compute_ce_loss=True)
    model = HookedProxyLM(deepcopy(lm.model), lm.tokenizer)
    theirs, _ = evals.run_evals(
        SAE.load_from_disk(str(tmp_path / "sae")), SameRows(ids_NT), model, ActivationScaler(), asked
    )
    found = theirs["model_performance_preservation"]
    assert ours["ce_untouched"] == pytest.approx(found["ce_loss_without_sae"], abs=2e-6)
    assert ours["saes"]["it"]["ce"] == pytest.approx(found["ce_loss_with_sae"], abs=2e-6)
