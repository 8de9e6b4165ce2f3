"""A scale per feature: found exactly where shrinkage is one, and never a worse fit on the tokens it was made for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import make

from unmix.cli import main
from unmix.corpus.tokens import load_tokens, sample, special_ids
from unmix.dictionary.files import metadata
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.per_token import ByLength, LayerNorm
from unmix.errors import UserError
from unmix.evaluation import command
from unmix.evaluation.debias import LARGEST, debias
from unmix.evaluation.subject import find_subject
from unmix.lm.model import load_language_model
from unmix.training import run


def test_known_shrinkage_is_undone():
    truth = new_dictionary(16, 12, 1.0, 0)
    x = torch.randn(4000, 16)
    target = truth(x).detach()
    shrink = torch.linspace(0.4, 0.9, 12)

    class Frozen(Dictionary):
        def encode(self, y):  # the code of x, whatever is asked for: the support is frozen
            return truth.encode(x)

    with torch.no_grad():
        shrunk = Frozen(truth.weights | {"W_dec": truth.W_dec * shrink[:, None]})
    refitted = debias(shrunk, [target])
    torch.testing.assert_close(refitted.W_dec.detach(), truth.W_dec.detach(), rtol=2e-2, atol=2e-2)


def test_it_never_fits_its_own_tokens_worse_and_leaves_the_support_alone():
    sae = new_dictionary(8, 40, 0.3, 1)
    batches = [torch.randn(300, 8) for _ in range(3)]
    x = torch.cat(batches)
    refitted = debias(sae, batches)
    assert (refitted(x) - x).square().sum() < (sae(x) - x).square().sum()
    assert torch.equal(refitted.encode(x), sae.encode(x))


@pytest.mark.parametrize("per_token", [ByLength(), LayerNorm()])
def test_known_shrinkage_is_undone_where_each_token_is_scaled(per_token):
    """x = T⁻¹(f W_dec) of a dictionary whose rows have no mean; all features shrunk, f unchanged."""
    draw = torch.Generator().manual_seed(4)
    W_FD = torch.randn(12, 16, generator=draw)
    W_FD = (W_FD - W_FD.mean(1, keepdim=True)) / W_FD.norm(dim=1, keepdim=True)
    code_BF = torch.rand(3000, 12, generator=draw) * (torch.rand(3000, 12, generator=draw) < 0.3)
    u_BD = code_BF @ W_FD
    x_BD = u_BD * (1 + 9 * torch.rand(3000, 1, generator=draw)) + (per_token == LayerNorm())
    x_BD = torch.cat([x_BD, torch.zeros(3, 16)])  # and tokens that say nothing

    class Frozen(Dictionary):
        def encode(self, y):  # what a token's code is once it is scaled as T scales it
            _, scale, shift = per_token.take(y)
            exact = (y if shift is None else y - shift) / scale.clamp_min(1e-30)
            return (exact @ torch.linalg.pinv(W_FD)).clamp_min(0) * (scale > 0)

    weights = {"W_enc": W_FD.T, "b_enc": torch.zeros(12), "W_dec": W_FD * 0.4, "b_dec": torch.zeros(16)}
    refitted = debias(Frozen(weights, per_token=per_token), [x_BD])
    torch.testing.assert_close(refitted.W_dec.detach(), W_FD, rtol=2e-2, atol=2e-2)


def test_a_skip_transcoder_is_refused():
    sae = new_dictionary(4, 8, 0.3, 1).changed({"W_skip": torch.zeros(4, 4)})
    with pytest.raises(UserError, match="W_skip cannot be refitted"):
        debias(sae, [])


def test_a_feature_that_never_fires_keeps_its_row():
    sae = new_dictionary(8, 40, 0.3, 1)
    with torch.no_grad():
        sae.b_enc[5] = -100
    refitted = debias(sae, [torch.randn(300, 8)])
    torch.testing.assert_close(refitted.W_dec[5], sae.W_dec[5])


def test_too_large_is_said():
    shapes = {"W_enc": (1, LARGEST + 1), "b_enc": (LARGEST + 1,), "W_dec": (LARGEST + 1, 1), "b_dec": (1,)}
    sae = Dictionary({name: torch.zeros(shape) for name, shape in shapes.items()})
    with pytest.raises(UserError, match="refitting 16385 features"):
        debias(sae, [])


# ------------------------------------------------------------------------------- what `unmix evaluate --debias` reads

HOOK = "resid_post.0"


@pytest.fixture
def chats(overrides):
    """A model, and training tokens of which four in ten count."""
    lm = load_language_model(make(overrides).model)
    tokens = load_tokens(make(overrides).corpus, lm.tokenizer, 16, "train")
    kept_NT = np.random.default_rng(0).random(tokens.ids_NT.shape) < 0.4
    kept_NT[:, 0] = False
    return lm, replace(tokens, kept_NT=kept_NT)


@pytest.mark.parametrize("special", [True, False])
def test_it_is_fitted_to_a_sample_of_what_was_trained_on(chats, special, tmp_path, monkeypatch):
    """Of all rows, not the first ones, and of those the tokens that training counts."""
    (lm, tokens), read = chats, []
    monkeypatch.setattr(command, "DEBIAS_TOKENS", 1500)
    monkeypatch.setattr(command, "refit", lambda sae, batches: read.extend(batches) or sae)
    sae = new_dictionary(lm.width, 24, 0.5, 0)
    command._debiased({"a": sae}, lm, tokens, HOOK, tmp_path, None, 7, special)
    rows = len(tokens.ids_NT) * 1500 // tokens.activations
    rows_N = np.sort(sample(len(tokens.ids_NT))[:rows])
    assert rows < len(tokens.ids_NT) / 2
    assert rows_N[-1] > len(tokens.ids_NT) * 0.8
    ids_NT = torch.from_numpy(tokens.ids_NT[rows_N].astype(np.int64))
    marks = special_ids(lm.tokenizer, tokens)
    kept_NT = torch.from_numpy(tokens.kept_NT[rows_N])
    assert (kept_NT & torch.isin(ids_NT, torch.tensor(marks))).any(), "no separator counts, so none can be left out"
    if special:
        kept_NT &= ~torch.isin(ids_NT, torch.tensor(marks))
    torch.testing.assert_close(torch.cat(read), lm.activations(ids_NT, [HOOK])[HOOK][kept_NT])
    about = metadata(tmp_path / "debiased" / "a")
    assert about["debiased_on_tokens"] == int(kept_NT.sum())
    assert 0.9 * 1500 < about["debiased_on_tokens"] < 1.1 * 1500
    assert about.get("mask", {}).get("special_ids") == (marks if special else None)


def test_a_dictionary_that_was_trained_on_none_of_it_is_refused(chats, tmp_path):
    lm, tokens = chats
    sae = new_dictionary(lm.width, 24, 0.5, 0)
    sae.longest = 1e-9
    with pytest.raises(UserError, match=r"--debias: short was trained on none of [\d,]+ tokens of the train split"):
        command._debiased({"short": sae}, lm, tokens, HOOK, tmp_path, None)


def test_what_training_left_out_is_left_out_of_the_refit_and_of_its_own_evaluation(overrides, tmp_path, monkeypatch):
    """From the command line, of a run whose mask leaves out special tokens."""
    asked = []

    def special(*words, **more):
        asked.append(words[-1])
        return real(*words, **more)

    real = command._debiased
    monkeypatch.setattr(command, "_debiased", special)
    mask = {"special": True, "norm_above": 3.0}
    run.sweep(make(overrides, training__l1=[1.0], training__steps=5, training__mask=mask), tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--tokens", "300", "--ce-tokens", "100", "--debias"]) == 0
    assert asked == [True]
    folder = tmp_path / "run" / "debiased" / "l1-1"
    about = metadata(folder)["mask"]
    assert about["rule"].startswith("special tokens and tokens with norms above ")
    assert about["special_ids"] == [0]
    assert find_subject(folder, model=None, corpus=None, hook=None).trained.special
