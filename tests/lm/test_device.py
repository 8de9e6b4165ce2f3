"""What a language model is asked of itself, where its activations lie on a device."""

import pytest
import torch
from far_tensor import Narrow

from unmix.config import ModelConfig
from unmix.lm.model import LanguageModel, load_language_model

HOOKS = ["resid_post.1", "mlp_out.1"]


@pytest.fixture
def on_mps(monkeypatch):
    """The embedded model, whose activations lie where there is no float64."""
    plain = LanguageModel.activations

    def activations(self, ids_NT, hooks):
        return {hook: x_NTD.as_subclass(Narrow) for hook, x_NTD in plain(self, ids_NT, hooks).items()}

    monkeypatch.setattr(LanguageModel, "activations", activations)
    return load_language_model(ModelConfig())


def test_a_model_is_checked_where_there_is_no_float64(on_mps):
    on_mps.check_reading(32, HOOKS)
    on_mps.check_contributions(torch.arange(24)[None], HOOKS)
