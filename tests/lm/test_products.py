"""Products in bf16: what they change, what they leave, on every family."""

import pytest
import torch
from tiny_models import FAMILIES, LAYERS, VOCABULARY, WIDTH, tiny_model_folder

from unmix.config import ModelConfig
from unmix.lm.model import load_language_model
from unmix.lm.products import multiply_in_bf16

IDS = torch.randint(0, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_float32_activations_that_moved_a_little(family):
    hooks = [f"resid_pre.{LAYERS - 1}", f"resid_post.{LAYERS - 1}", "mlp_out.0", "attn_out.0"]
    exact = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
    x = exact.activations(IDS, hooks)
    lm = multiply_in_bf16(load_language_model(ModelConfig(name=str(tiny_model_folder(family)))), IDS, hooks)
    found = lm.activations(IDS, hooks)
    assert lm.bf16_change.keys() == set(hooks)
    for hook in hooks:
        assert found[hook].dtype == torch.float32
        assert found[hook].shape == (3, 12, WIDTH)
        change = ((found[hook] - x[hook]).norm(dim=-1) / x[hook].norm(dim=-1)).median().item()
        assert lm.bf16_change[hook] == pytest.approx(change)
        assert 0 < change < 0.03, hook
    assert lm.fingerprint == exact.fingerprint


def test_the_output_head_keeps_its_weights_and_so_does_the_embedding_tied_to_it():
    folder = str(tiny_model_folder("gpt2"))
    exact = load_language_model(ModelConfig(name=folder))
    lm = multiply_in_bf16(load_language_model(ModelConfig(name=folder)), IDS, ["resid_post.0"])
    assert torch.equal(lm.model.get_output_embeddings().weight, exact.model.get_output_embeddings().weight)
    assert torch.equal(lm.model.get_input_embeddings().weight, exact.model.get_input_embeddings().weight)
    assert (lm.logits(IDS) - exact.logits(IDS)).norm() < 0.03 * exact.logits(IDS).norm()


def test_the_fast_gelu_is_that_of_the_model():
    from transformers.activations import NewGELUActivation

    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    [one, *_] = [module for module in lm.model.modules() if isinstance(module, NewGELUActivation)]
    assert "forward" in vars(one)
    x = torch.linspace(-8, 8, 1001)
    torch.testing.assert_close(one(x), NewGELUActivation.forward(one, x), rtol=1e-5, atol=1e-6)
