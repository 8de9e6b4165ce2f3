"""The portable step through torch.compile: the same numbers, and no new function for a new coefficient."""

import shutil

import pytest
import torch
from contract.test_step import assert_close, prepared
from kernel_cases import mapped, nan_like

from unmix import config
from unmix.config import TrainingConfig
from unmix.errors import UserError
from unmix.kernels import autocast, compiled, reference
from unmix.kernels.dispatch import Step
from unmix.kernels.task import Noise

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own
needs_a_compiler = pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="no C++ compiler")


def in_float32(*words):
    return [mapped(lambda w: w.float(), word) if isinstance(word, dict) else word.float() for word in words]


@pytest.fixture
def graphs():
    """How many functions were compiled since the test began, or since they were counted last."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()

    def count():
        found = counters["stats"]["unique_graphs"]
        counters.clear()
        return found

    return count


@needs_a_compiler
@pytest.mark.parametrize("architecture", ["jumprelu_tanh", "gated"])
def test_a_compiled_step_is_the_definition(architecture, graphs):
    """Three steps: the second has other coefficients and the third more tokens, and they compile nothing."""
    x_BD, y_BE, weights, asked = prepared(architecture, B=40, D=8, F=24)
    step = Step(portable=True, compiled=True)
    for times, tokens in ((1, 30), (3, 30), (3, 40)):
        task = asked._replace(objective=tuple((times * c, term) for c, term in asked.objective))
        low_x, low_y, low = in_float32(x_BD[:tokens], y_BE[:tokens], weights)
        mine, theirs = nan_like(low), nan_like(weights)
        got = step(low_x, low_y, low, mine, task)
        wanted = reference.step(x_BD[:tokens], y_BE[:tokens], weights, theirs, task)
        assert_close(mine, theirs, 1e-4)
        assert torch.equal(got.active_F.double(), wanted.active_F.double())
        assert graphs() == (1 if (times, tokens) == (1, 30) else 0)


def test_more_functions_are_kept_than_a_sweep_has_variants(graphs):
    compiled._compiled.cache_clear()
    compiled._compiled()
    assert torch._dynamo.config.recompile_limit >= compiled.MOST


@needs_a_compiler
def test_it_goes_with_products_in_bf16(graphs):
    low_x, low_y, low = in_float32(*prepared("relu", B=40, D=8, F=24)[:3])
    asked = prepared("relu", B=40, D=8, F=24)[3]
    mine, theirs = nan_like(low), nan_like(low)
    Step(dense="bf16", portable=True, compiled=True)(low_x, low_y, low, mine, asked)
    autocast.launch(low_x, low_y, low, theirs, asked)
    assert_close(mine, mapped(lambda g: g.double(), theirs), 0.02)
    assert graphs() == 1


@pytest.mark.parametrize("kind", ["noise", "auxk"])
def test_what_changes_from_step_to_step_is_not_compiled(kind, monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda: pytest.fail("compiled"))
    x_BD, y_BE, weights, asked = prepared("relu", **({"auxk": 0.5} if kind == "auxk" else {}))
    asked = asked._replace(noise=Noise(0.1, 3)) if kind == "noise" else asked
    mine, theirs = nan_like(weights), nan_like(weights)
    Step(portable=True, compiled=True)(x_BD, y_BE, weights, mine, asked)
    reference.step(x_BD, y_BE, weights, theirs, asked)
    assert all(torch.equal(mine[name], theirs[name]) for name in weights)


def test_where_torch_cannot_compile_is_one_line(monkeypatch):
    def broken(*words):
        raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no C++ compiler found"), None)

    monkeypatch.setattr(compiled, "_compiled", lambda: broken)
    x_BD, y_BE, weights, asked = prepared("relu")
    with pytest.raises(compiled.CannotCompile, match=r"no C\+\+ compiler found") as error:
        Step(portable=True, compiled=True)(x_BD, y_BE, weights, nan_like(weights), asked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "what"),
    [({"sae.noise": 1.0}, "sae.noise"), ({"sae.random_prefixes": 3}, "sae.random_prefixes"),
     ({"sae.architecture": "jumprelu_quadratic"}, "jumprelu_quadratic")],
)  # fmt: skip
def test_what_would_be_compiled_at_every_step_is_refused(keys, what):
    asked = {"training.l0": [5.0], "training.kernels": "portable", "training.compile": True, "sae.architecture": "relu"}
    with pytest.raises(UserError, match=f"{what} makes every step a different function.*leave out training.compile"):
        config.load(None, asked | keys)


def test_only_the_portable_step_is_compiled():
    with pytest.raises(ValueError, match=r"compile = true is for the portable step; give --training\.kernels portable"):
        TrainingConfig(l1=[1.0], compile=True)
    assert TrainingConfig(l1=[1.0], compile=True, kernels="portable").compile
