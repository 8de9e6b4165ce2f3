"""Models in the wrappers of other libraries, by stand-ins; the libraries: tests/interop/test_peers_models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, tiny_model_folder
from torch import Tensor, nn

import unmix
from unmix.config import ModelConfig
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.lm.model import LanguageModel, load_language_model
from unmix.lm.wrapped import language_model_of, module_of, place_name


class Envoy:
    """As nnsight's: no module, with the attributes of the one inside."""

    def __init__(self, module: nn.Module, name: str = "_module", **more: Any) -> None:
        self.__dict__ |= {name: module, **more}

    def __getattr__(self, name: str) -> Any:
        return getattr(next(found for found in self.__dict__.values() if isinstance(found, nn.Module)), name)


class Hook(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Bridge(nn.Module):
    """As a TransformerBridge of Gemma 2: what its MLP adds is behind a norm, under another name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        block = nn.Module()
        block.mlp, block.ln2_post, block.hook_out = nn.Linear(4, 4), nn.LayerNorm(4), Hook()
        block.ln2_post.hook_out = Hook()
        self.embed, self.blocks = nn.Embedding(11, 4), nn.ModuleList([block])
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=1))

    def get_hook_point(self, name: str) -> nn.Module | None:
        block = self.blocks[0]
        return {"blocks.0.hook_mlp_out": block.ln2_post.hook_out, "blocks.0.hook_resid_post": block.hook_out}.get(name)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        block, x = self.blocks[0], self.embed(input)
        found: Tensor = block.hook_out(x + block.ln2_post.hook_out(block.ln2_post(block.mlp(x))))
        return found


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2")), matmul="fp32"))


@pytest.mark.parametrize("name", ["_module", "_model"])
def test_the_module_in_a_wrapper_is_spliced(lm: LanguageModel, name: str):
    """Newer and older nnsight; nnterp's models are nnsight's."""
    sae, ids = new_dictionary(WIDTH, 24, 1.0, 0), torch.arange(1, 9)[None]
    plain = lm.logits(ids)
    with unmix.splice(lm.model, "mlp_out.1", sae):
        wanted = lm.logits(ids)
    with unmix.splice(Envoy(lm.model, name), "mlp_out.1", sae):
        assert torch.equal(lm.logits(ids), wanted)
    assert torch.equal(lm.logits(ids), plain)
    assert not torch.equal(wanted, plain)


def test_a_model_of_ours_is_spliced(lm: LanguageModel):
    assert module_of(lm) is lm.model
    with unmix.splice(lm, "resid_post.2", torch.zeros_like):
        assert lm.logits(torch.arange(1, 9)[None]).std(1).max() == 0  # the same at every position


def test_what_cannot_be_had_is_refused_by_name(lm: LanguageModel):
    for model in ("gpt2", Envoy, SimpleNamespace(model="gpt2")):
        with pytest.raises(UserError, match=f"^{type(model).__name__} is no model that runs here; give a torch module"):
            unmix.splice(model, "resid_post.0", torch.zeros_like).__enter__()
    empty = nn.Linear(3, 3, device="meta")
    with pytest.raises(UserError, match=r"^Envoy: its weights are not loaded; load them first \(nnsight: dispatch=T"):
        unmix.splice(Envoy(empty), "", torch.zeros_like).__enter__()
    with pytest.raises(UserError, match="unknown hook 'nowhere'"):
        unmix.splice(Envoy(lm.model), "nowhere", torch.zeros_like).__enter__()


@pytest.mark.parametrize("hook", ["mlp_out.0", "blocks.0.hook_mlp_out"])
def test_a_bridge_is_spliced_at_its_hook_points(hook: str):
    """By the module's name it would be before the norm: another function, and no error."""
    model, ids = Bridge(), torch.tensor([[1, 2, 3]])
    assert place_name(model, hook) == "blocks.0.ln2_post.hook_out"
    with torch.no_grad(), unmix.splice(model, hook, torch.zeros_like):
        assert torch.equal(model(ids), model.embed(ids))
        with unmix.splice(model, "resid_post.0", lambda x: x * 2):
            assert torch.equal(model(ids), model.embed(ids) * 2)


def test_a_bridge_without_the_hook_point_is_refused():
    with pytest.raises(UserError, match=r"hook attn_out.0: the Bridge has no blocks.0.hook_attn_out; name one"):
        unmix.splice(Bridge(), "attn_out.0", torch.zeros_like).__enter__()
    with unmix.splice(Bridge(), "blocks.0.mlp", torch.zeros_like):
        pass


def test_the_features_of_a_text_in_a_model_of_another_library(lm: LanguageModel):
    sae = new_dictionary(WIDTH, 24, 1.0, 0)
    wanted = unmix.top_features(lm, sae, "import os", "resid_post.1")
    assert unmix.top_features(Envoy(lm.model, tokenizer=lm.tokenizer), sae, "import os", "resid_post.1") == wanted
    assert language_model_of(lm) is lm
    with pytest.raises(UserError, match=r"GPT2LMHeadModel has no tokenizer; give unmix.load_model\(NAME\)"):
        unmix.top_features(lm.model, sae, "import os", "resid_post.1")
    with pytest.raises(UserError, match="Envoy has no configuration of transformers"):
        unmix.top_features(Envoy(nn.Linear(3, 3), tokenizer=lm.tokenizer), sae, "import os", "resid_post.1")
