"""docs/norms.md: the loss, and what its error says of length and direction. The page names every test of the
`test_norm_` files."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import nan_like, task
from norm_theory import (
    D,
    F,
    close,
    dictionary,
    generator,
    losses,
    many,
    randn,
    seeds,
    squares,
    tanh_relu,
)
from torch import Tensor

from unmix.dictionary.terms import loss
from unmix.kernels import cpu, dense, find
from unmix.kernels.reference import alone, step
from unmix.kernels.task import Sums

PAGE = Path(__file__).parents[1] / "docs" / "norms.md"


def kernel(name: str) -> Callable[..., Sums]:
    if name == "dense":
        workspace = dense.Workspace(F, torch.empty(0, dtype=torch.float64))
        return lambda *words: dense.step(*words, workspace)
    if name == "sparse":
        return lambda *words: cpu.step(*words, find.Workspace("fp32"))
    return step if name == "reference" else lambda x, y, w, g, asked: alone(x, y, w, asked, 0.0)


@pytest.mark.parametrize("name", ["reference", "dense", "sparse", "alone"])
@pytest.mark.parametrize("phi", ["relu", "tanh_relu"])
@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("weigh", [True, False])
def test_the_loss_is_that_of_the_kernels(name: str, phi: str, k: int, weigh: bool) -> None:
    g = generator(0)
    w, x_BD = dictionary(g), randn(g, 9, D)
    asked = task(0.3, phi, weigh, k)
    sums = kernel(name)(x_BD, x_BD, w, nan_like(w), asked)
    own = torch.relu if phi == "relu" else tanh_relu
    close(squares(x_BD, w, own), sums.square_B)
    close(losses(x_BD, w, 0.3, k, own, weigh=weigh).sum(), loss(asked.objective, sums.terms))


def triple(seed: int, length: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x of about the given length, some x̂, ρ and cos."""
    g = generator(seed)
    x, x_hat = length * randn(g, D), length * randn(g, D) * 2 * torch.rand((), generator=g, dtype=torch.float64)
    return x, x_hat, x_hat.norm() / x.norm(), (x @ x_hat) / (x.norm() * x_hat.norm())


@many
@given(seeds, st.floats(1e-3, 1e3))
def test_error_is_squared_length_times_a_bracket(seed: int, length: float) -> None:
    x, x_hat, rho, cos = triple(seed, length)
    error = (x_hat - x).square().sum()
    close(error, x.square().sum() * (rho**2 + 1 - 2 * rho * cos), atol=1e-12 * length**2)
    close(
        error,
        x.square().sum() * ((x_hat.norm() / x.norm()) ** 2 + 1 - 2 * (x_hat @ x) / x.square().sum()),
        atol=1e-12 * length**2,
    )
    c = 10.0  # c² and not c, what ||x|| in front of the bracket would give
    close((c * x_hat - c * x).square().sum(), c**2 * error)


@many
@given(seeds)
def test_limit_and_its_error(seed: int) -> None:
    x, x_hat, rho, cos = triple(seed)
    square = x.square().sum()
    limit = 2 * square * (1 - cos)
    error = (x_hat - x).square().sum()
    close(error - limit, square * (rho - 1) * (rho + 1 - 2 * cos), atol=1e-9)
    for exact in (torch.ones_like(rho), 2 * cos - 1):  # the two lengths at which the limit is the error
        y = x_hat / x_hat.norm() * x.norm() * exact
        if exact > 0:
            close((y - x).square().sum(), limit, atol=1e-9)
    between = min(1, 2 * cos - 1) < rho < max(1, 2 * cos - 1)
    assert bool(error < limit + 1e-12) or not between
    assert bool(error > limit - 1e-12) or between


@many
@given(seeds)
def test_best_length_is_cos(seed: int) -> None:
    x, x_hat, _, cos = triple(seed)
    if cos < 0:
        x_hat, cos = -x_hat, -cos
    best = x_hat / x_hat.norm() * x.norm() * cos
    least = (best - x).square().sum()
    close(least, x.square().sum() * (1 - cos**2))
    for other in (0.9, 0.999, 1.001, 1.1):
        assert (other * best - x).square().sum() >= least
    close(2 * x.square().sum() * (1 - cos), 2 / (1 + cos) * least)


@many
@given(seeds, st.floats(0.0, 0.95), st.sampled_from([0, 1, 2]), st.floats(0.1, 100.0))
def test_penalty_shortens(seed: int, part: float, k: int, length: float) -> None:
    g = generator(seed)
    w = dictionary(g)
    f = torch.rand(F, generator=g, dtype=torch.float64)
    y = f @ w["W_dec"]
    x = y / y.norm() * length + 0.3 * length * randn(g, D) / math.sqrt(D)
    kappa = (f * w["W_dec"].norm(dim=1)).sum() / y.norm()
    assert kappa >= 1 - 1e-12
    cos = (x @ y) / (x.norm() * y.norm())
    l1 = part * 2 * cos / (kappa * x.norm() ** (k - 1))  # part = 1 would silence the token
    rho = cos - l1 * kappa * x.norm() ** (k - 1) / 2
    s = (rho * x.norm() / y.norm()).requires_grad_()
    error = (s * y - x).square().sum()
    (error / x.norm() ** k + l1 * (s * f * w["W_dec"].norm(dim=1)).sum()).backward()
    assert s.grad is not None
    close(s.grad * s.detach() * x.norm() ** (k - 2), 0.0, atol=1e-9)
    own = x.square().sum() * (1 - cos**2) + (l1 * kappa / 2) ** 2 * x.norm() ** (2 * k)
    close(error.detach(), own)


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not in the source distribution")
def test_the_page_names_exactly_these_tests() -> None:
    files = sorted(Path(__file__).parent.glob("test_norm_*.py"))
    here = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)}
    named = set(re.findall(r"\btest_(?!norm_)\w+", PAGE.read_text(encoding="utf-8")))
    assert named == here - {"test_the_page_names_exactly_these_tests"}
