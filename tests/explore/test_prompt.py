"""A text in tokens, and the features of each."""

import math

import pytest
import torch
from far_tensor import far
from tiny_models import CONTEXT, EOT, WIDTH, tiny_model_folder

from unmix.activations.mask import Mask
from unmix.config import CorpusConfig, MaskConfig, ModelConfig
from unmix.corpus.tokens import load_tokens
from unmix.corpus.tokens import special_ids as special_of_tokens
from unmix.dictionary.model import new_dictionary
from unmix.dictionary.nonlinearities import AbsTopK
from unmix.errors import UserError
from unmix.explore.prompt import LONGEST, prompt_ids, read_prompt, separator_id, special_ids
from unmix.lm.model import load_language_model

HOOK, TEXT = "resid_post.1", "def of(self): return the world"


@pytest.fixture(scope="module")
def lm():
    return load_language_model(ModelConfig(name=str(tiny_model_folder())))


def test_it_begins_as_rows_do_in_training(lm, tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    text = f"one {EOT} naïve 中文 🙂\n" * 3
    for n in range(20):
        (tmp_path / f"{n}.txt").write_text(text + "\n" * n)
    tokens = load_tokens(CorpusConfig(source=str(tmp_path)), lm.tokenizer, 16, "held_out")
    assert prompt_ids(lm, text).ids_T[:16].tolist() == tokens.ids_NT[0].tolist()
    assert special_ids(lm.tokenizer) == special_of_tokens(lm.tokenizer, tokens)
    assert separator_id(lm.tokenizer) == 0


def test_a_text_yields_no_special_token_but_the_first(lm):
    ids_T = prompt_ids(lm, f"a{EOT}b").ids_T
    assert (ids_T == 0).nonzero().tolist() == [[0]]
    assert lm.tokenizer.decode(ids_T[1:]) == f"a{EOT}b"


def test_it_says_when_a_text_is_cut(lm):
    assert prompt_ids(lm, "") == (pytest.approx(torch.tensor([0])), False)
    whole = prompt_ids(lm, "x" * (CONTEXT - 1))
    assert (len(whole.ids_T), whole.truncated) == (CONTEXT, False)
    cut = prompt_ids(lm, "x" * CONTEXT)
    assert (len(cut.ids_T), cut.truncated) == (CONTEXT, True)
    assert len(prompt_ids(lm, "x" * 40, longest=20).ids_T) == 20
    assert LONGEST == 512


def test_values_are_the_dictionarys(lm):
    sae = new_dictionary(WIDTH, 48, 2.0, 0, AbsTopK(5, weigh_by_norm=False))
    read = read_prompt(lm, HOOK, sae, TEXT)
    x_TD = lm.activations(read.ids_T[None], [HOOK])[HOOK][0]
    f_TF = sae.encode(x_TD)
    dense_TF = torch.zeros_like(f_TF)
    for t, active in enumerate(read.features):
        assert [abs(value) for _, value in active] == sorted((abs(value) for _, value in active), reverse=True)
        for feature, value in active:
            dense_TF[t, feature] = value
    assert torch.equal(dense_TF, f_TF)
    assert (f_TF < 0).any()
    assert torch.allclose(read.norm_T.float(), x_TD.norm(dim=1))
    error_T = (x_TD - sae(x_TD)).square().sum(1) / x_TD.square().sum(1)
    assert torch.allclose(read.error_T.float(), error_T, rtol=1e-4)
    assert read.masked_T.tolist() == [True] + [False] * (len(read.ids_T) - 1)


def test_what_an_evaluation_leaves_out_is_masked(lm):
    sae = new_dictionary(WIDTH, 48, 2.0, 0)
    norm_T = read_prompt(lm, HOOK, sae, TEXT).norm_T
    bound = norm_T[1:].sort().values[-3].item()
    mask = Mask(MaskConfig(special=True, norm_above=10), special_ids(lm.tokenizer), bound / 10)
    masked_T = read_prompt(lm, HOOK, sae, TEXT, mask=mask).masked_T
    assert masked_T.tolist() == [True, *(norm_T[1:] > bound * (1 + 1e-6)).tolist()]
    assert masked_T[1:].sum() == 2


def test_a_token_of_length_0_has_no_error(lm, monkeypatch):
    sae = new_dictionary(WIDTH, 48, 2.0, 0)
    monkeypatch.setattr(type(lm), "activations", lambda self, ids, hooks: {HOOK: torch.zeros(*ids.shape, WIDTH)})
    assert all(math.isnan(error) for error in read_prompt(lm, HOOK, sae, TEXT).error_T)


def test_a_dictionary_of_another_width_is_refused(lm):
    with pytest.raises(UserError, match=f"width 8, and {HOOK} of .* has {WIDTH}"):
        read_prompt(lm, HOOK, new_dictionary(8, 16, 1.0, 0), TEXT)


def test_a_tokenizer_of_another_model_is_refused(lm, monkeypatch):
    monkeypatch.setattr(type(lm), "vocabulary", 50)
    with pytest.raises(UserError, match=r"outside the vocabulary of .*, 50"):
        prompt_ids(lm, TEXT)


def test_the_activations_of_a_model_on_a_gpu_are_brought_to_the_dictionary(lm, monkeypatch):
    sae = new_dictionary(WIDTH, 48, 2.0, 0)
    mask = Mask(MaskConfig(special=True, norm_above=10), special_ids(lm.tokenizer), 1.0)
    wanted, inner = read_prompt(lm, HOOK, sae, TEXT, mask=mask), type(lm).activations

    def on_gpu(self, ids_NT, hooks):
        return {hook: far(x_NTD) for hook, x_NTD in inner(self, ids_NT, hooks).items()}

    monkeypatch.setattr(type(lm), "activations", on_gpu)
    found = read_prompt(lm, HOOK, sae, TEXT, mask=mask)
    assert found.features == wanted.features
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True) if isinstance(a, torch.Tensor))
