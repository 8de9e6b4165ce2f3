"""The line that says whether a model knows a text."""

import math

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, tiny_model_folder

from unmix.config import ModelConfig
from unmix.lm.loss import ROWS, text_loss
from unmix.lm.model import load_language_model


@pytest.fixture
def lm():
    return load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))


@pytest.fixture
def ids_nt():
    return np.random.default_rng(0).integers(1, VOCABULARY, (40, 16)).astype(np.uint16)


def test_it_is_the_mean_over_rows_spread_over_the_text(lm, ids_nt):
    found = text_loss(lm, ids_nt)
    rows = torch.from_numpy(ids_nt[np.linspace(0, 39, ROWS).round().astype(int)].astype(np.int64))
    logp = torch.log_softmax(lm.logits(rows)[:, :-1], -1).gather(2, rows[:, 1:, None])
    assert found.loss == pytest.approx(-logp.mean().item(), rel=1e-5)
    assert (found.tokens, found.uniform) == (ROWS * 15, pytest.approx(math.log(VOCABULARY)))
    p = np.unique(ids_nt[:, 1:], return_counts=True)[1] / ids_nt[:, 1:].size
    assert found.unigram == pytest.approx(-(p * np.log(p)).sum())


def test_a_model_that_knows_nothing_is_called_that(lm, ids_nt):
    lm.model.get_output_embeddings().weight.data.zero_()  # uniform, on a text of few tokens
    found = text_loss(lm, ids_nt % 7)
    assert found.loss == pytest.approx(math.log(VOCABULARY), rel=1e-5)
    assert not found.knows
    assert str(found).startswith("this model does not know this text: its loss is 5.66 nats per token on 120 tokens")
    assert str(found._replace(loss=1.0)).startswith(
        "the model's loss is 1.00 nats per token on 120 tokens of your text"
    )
