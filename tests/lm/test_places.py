"""Hooks of modules that are no language model of `transformers`: by path, or by TransformerLens' names."""

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

import unmix
from unmix.errors import UserError


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class Hooked(nn.Module):
    """As TransformerLens lays a model out: hook points that give what goes through them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        block = nn.Module()
        block.hook_resid_post = nn.Identity()
        self.blocks = nn.ModuleList([block])

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        found: Tensor = self.blocks[0].hook_resid_post(self.embed(input))
        return found


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3)])
def test_any_module_by_its_path(network: nn.Module, shape: tuple[int, ...]):
    x = torch.randn(shape)
    before = network(x)
    with unmix.splice(network, "1", torch.zeros_like):
        inside = network(x)
    assert torch.equal(inside, network[2](torch.zeros(*shape[:-1], 4)))
    assert torch.equal(network(x), before)


def test_a_path_that_is_not_there_is_one_line(network: nn.Module):
    with pytest.raises(UserError, match="Sequential has no module '7'; give the path of one, such as"):
        unmix.splice(network, "7", torch.zeros_like).__enter__()


@pytest.mark.parametrize("hook", ["resid_post.0", "blocks.0.hook_resid_post"])
def test_a_model_that_has_transformer_lens_hook_points(hook: str):
    model, ids = Hooked(), torch.tensor([[1, 2, 3]])
    with unmix.splice(model, hook, lambda x: x * 2):
        assert torch.equal(model(ids), model.embed(ids) * 2)


class Named(nn.Module):
    """Calls its parts by name, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(factor=2.0, x=x)
        return found


class Scaled(nn.Module):
    """x times a factor."""

    def forward(self, x: Tensor, factor: float) -> Tensor:
        return x * factor


def test_the_input_of_a_module_that_is_called_by_name():
    """It was a KeyError: 'hidden_states'."""
    model, x = Named(), torch.ones(2, 3, 4)
    with unmix.splice(model, "inner.input", lambda x: x + 1):
        assert torch.equal(model(x), torch.full((2, 3, 4), 4.0))
    assert torch.equal(model(x), torch.full((2, 3, 4), 2.0))
    model.inner.forward = lambda factor, x: x * factor
    model.forward = lambda x: model.inner(factor=2.0)
    with unmix.splice(model, "inner.input", torch.clone), pytest.raises(UserError, match="is called with factor alone"):
        model(x)


def test_blocks_of_a_model_with_an_encoder_and_a_decoder_are_not_counted():
    """resid_post.1 was the encoder's, whoever meant the decoder's; paths say which."""
    config = T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=32, decoder_start_token_id=0)
    model, ids = T5ForConditionalGeneration(config).eval(), torch.tensor([[3, 4, 5]])
    with pytest.raises(UserError, match=r"has blocks in its encoder and in its decoder, .* name hooks by module path"):
        unmix.splice(model, "resid_post.1", torch.zeros_like).__enter__()
    before = model(input_ids=ids, decoder_input_ids=ids).logits
    with unmix.splice(model, "encoder.block.1.output", torch.zeros_like):
        assert not torch.equal(model(input_ids=ids, decoder_input_ids=ids).logits, before)
