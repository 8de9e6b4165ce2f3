"""A small random model of every family, and rows of ids for it."""

import pytest
import torch
from tiny_models import MANY, VOCABULARY, tiny_model_folder

from unmix.config import ModelConfig
from unmix.lm.model import load_language_model


@pytest.fixture(scope="module", params=MANY)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def lm(family):
    return load_language_model(ModelConfig(name=str(tiny_model_folder(family))))


@pytest.fixture(scope="module")
def ids_NT():
    ids = torch.randint(1, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 0
    return ids
