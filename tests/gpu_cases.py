"""What the tests of the GPU kernels share: where they run, small blocks, and every row of the table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from contract.cases import ARCHITECTURES, config_of, draw, some_prefixes, task_of, weights_of
from kernel_cases import mapped, nan_like
from torch import Tensor

from unmix.dictionary.terms import AuxK
from unmix.kernels import gpu_covers, reference
from unmix.kernels.task import Sums, Task, Weights

ROOT = Path(__file__).parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GATED = {name for name in ARCHITECTURES if name.startswith("gated")}
COVERED = tuple(name for name in ARCHITECTURES if name not in GATED)
every_row = pytest.mark.parametrize("row", COVERED)

Found = tuple[Sums, Weights]


class Case(NamedTuple):
    """A batch, a target, a dictionary and what it is trained for."""

    x_BD: Tensor
    y_BE: Tensor
    weights: Weights
    asked: Task

    def to(self, dtype: torch.dtype) -> Case:
        """In another dtype, rounded once."""
        return Case(self.x_BD.to(dtype), self.y_BE.to(dtype), mapped(lambda w: w.to(dtype), self.weights), self.asked)


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several chunks, rounds and warps at small sizes; new memory full of NaN, and what is not repeatable refused."""
    from unmix.kernels import gpu_find, gpu_largest, gpu_launch, gpu_sparse

    if DEVICE == "cpu":
        monkeypatch.syspath_prepend(str(ROOT / "scripts"))
        import gpu_interpret

        gpu_interpret.quicken()
    sizes = (
        (gpu_find, "CHUNK", 16),
        (gpu_largest, "BLOCK", 16),
        (gpu_sparse, "GATHERED", 32),
        (gpu_launch, "PER_WARP", 2),
    )
    for module, name, value in sizes:
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def case(
    row: str,
    *,
    B: int = 4,
    D: int = 4,
    E: int = 3,
    F: int = 20,
    k: float = 3,
    shift: float = 0.0,
    coefficient: float = 0.3,
    seed: int = 0,
    prefixes: bool = False,
    norm_power: int = 0,
    sigma: float = 0.0,
    **keys: Any,
) -> Case:
    """In double precision; with `auxk` or `preactivation` some features are dead."""
    config = config_of(row, F, prefixes=some_prefixes(F) if prefixes else [], **keys)
    dead_N = torch.tensor([1, 4, 7]).clamp(max=F - 1)
    auxk = AuxK(2, dead_N, 2, row == "abstopk") if config.auxk_coefficient else None
    asked = task_of(config, k, coefficient, norm_power=norm_power, sigma=sigma, auxk=auxk, dead_N=dead_N, seed=seed)
    weights = weights_of(config, asked.phi, D, E, seed)
    weights["b_enc"].add_(shift)
    assert gpu_covers.covers(asked) or row in GATED
    return Case(draw(B, D, seed=seed + 2), draw(B, E, seed=seed + 3), weights, asked)


def there(weights: Weights) -> Weights:
    """On the device, in the same layout."""
    return mapped(lambda w: w.to(DEVICE), weights)


def workspace_for(case: Case, tile: int = 1000) -> Any:
    """A fresh one, of tiles of so many tokens."""
    from unmix.kernels.gpu_workspace import Workspace

    b_enc_F = case.weights["b_enc"].to(DEVICE)
    workspace = Workspace(len(b_enc_F), b_enc_F)
    workspace.tile = tile
    return workspace


def on_gpu(case: Case, tile: int = 1000, workspace: Any = None) -> Found:
    """By the sparse kernels."""
    from unmix.kernels import gpu

    weights = there(case.weights)
    gradients = nan_like(weights)
    workspace = workspace or workspace_for(case, tile)
    found = gpu.step(case.x_BD.to(DEVICE), case.y_BE.to(DEVICE), weights, gradients, case.asked, workspace)
    assert found is not None
    assert found[1] == pytest.approx(found[0].active_F.double().mean().item() / len(case.x_BD), nan_ok=True)
    return found[0], mapped(Tensor.cpu, gradients)


def by_definition(case: Case) -> Found:
    """By the reference, in double precision."""
    case = case.to(torch.float64)
    gradients = nan_like(case.weights)
    return reference.step(*case[:3], gradients, case.asked), gradients


def assert_agree(got: Found, want: Found, near: float) -> None:
    """Every entry of the gradients, up to the largest of all times `near`; every sum."""
    (sums, gradients), (wanted, theirs) = got, want
    assert torch.equal(sums.active_F.cpu().double(), wanted.active_F.double())
    largest = wanted.square_B.max().item()
    torch.testing.assert_close(sums.square_B.cpu().double(), wanted.square_B, rtol=near, atol=near * (largest + 1e-3))
    for field in ("squared_error", "penalty", "terms"):
        allowed = pytest.approx(getattr(wanted, field), rel=10 * near, abs=max(1e-8, 1e-3 * near))
        assert getattr(sums, field) == allowed, field
    assert (sums.threshold is None) == (wanted.threshold is None)
    if wanted.threshold is not None:
        assert sums.threshold == pytest.approx(wanted.threshold, rel=near)
    assert gradients.keys() == theirs.keys()
    most = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        apart = (gradients[name].double() - gradient).abs()
        assert (apart <= near * (most + gradient.abs()) + 1e-12).all(), f"{name}: {apart.max()} apart"


def assert_same(a: Found, b: Found) -> None:
    """The same bits."""
    (one, mine), (other, theirs) = a, b
    assert (one.squared_error, one.terms, one.penalty, one.threshold) == (
        other.squared_error, other.terms, other.penalty, other.threshold,
    )  # fmt: skip
    assert torch.equal(one.active_F, other.active_F)
    assert torch.equal(one.square_B, other.square_B)
    assert all(torch.equal(gradient, theirs[name]) for name, gradient in mine.items())


def finite(sums: Sums, gradients: Weights) -> bool:
    """Whether every number that a member looks at is."""
    square = sum(gradient.double().square().sum().item() for gradient in gradients.values())
    return all(map(math.isfinite, (sums.squared_error, *sums.terms, square)))
