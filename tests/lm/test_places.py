"""Hooks of modules that are no language model of `transformers`: by path, or by TransformerLens' names."""

import pytest
import torch
from torch import Tensor, nn

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
