"""`attn_out` and `mlp_out` in Python are what the block adds, or are refused, as on the command line."""

import pytest
import torch
from tiny_models import tiny_model_folder

from unmix import splice
from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.lm.model import LanguageModel, load_language_model

NAMES = ["mlp_out.1", "blocks.1.hook_mlp_out", "attn_out.1", "blocks.1.hook_resid_mid"]


def tiny(family: str) -> LanguageModel:
    return load_language_model(ModelConfig(name=str(tiny_model_folder(family))))


@pytest.mark.parametrize("family", ["openai-gpt", "gemma4_text"])
@pytest.mark.parametrize("name", NAMES)
def test_what_the_block_does_not_add_is_neither_read_nor_replaced(family, name):
    lm = tiny(family)
    with pytest.raises(UserError, match="is not resid_post"):
        lm.activations(lm.few_ids(), ["resid_post.0", name])
    with pytest.raises(UserError, match="is not resid_post"):
        splice(lm.model, name, torch.zeros_like).__enter__()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def passes(lm: LanguageModel, monkeypatch) -> list[int]:
    """Grows by one with every pass of the model."""
    found: list[int] = []
    plain = type(lm.model).forward
    monkeypatch.setattr(type(lm.model), "forward", lambda self, *a, **k: found.append(1) or plain(self, *a, **k))
    return found


def test_a_model_is_checked_once(monkeypatch):
    lm = tiny("gpt2")
    ran = passes(lm, monkeypatch)
    for _ in range(3):
        lm.activations(lm.few_ids(), ["mlp_out.1"])
    assert len(ran) == 4
    with splice(lm.model, "mlp_out.1", torch.zeros_like):
        pass
    assert len(ran) == 4
    with splice(lm.model, "resid_post.1", torch.zeros_like):
        pass
    assert len(ran) == 4  # of the residual stream there is nothing to check


def test_what_is_spliced_in_is_not_taken_for_the_models_own(monkeypatch):
    """Within a splice a block seems to add something else; that is not refused."""
    lm = tiny("gpt2")
    with splice(lm.model, "resid_post.1", torch.zeros_like):
        assert lm.activations(lm.few_ids(), ["mlp_out.1"])["mlp_out.1"].any()
        with splice(lm.model, "attn_out.1", torch.zeros_like):
            assert not lm.activations(lm.few_ids(), ["attn_out.1"])["attn_out.1"].any()
