"""The portable step (plain torch under autograd) on a device, against the definition in float64 on the host."""

from __future__ import annotations

import math
import shutil
from typing import Any

import torch
from gpu_clock import COMPILE, late
from gpu_problem import BANDWIDTH, all_rows, away, exact, magnitudes, own, without_dead
from torch import Tensor

from unmix.bench.step_gpu import like, mapped, problem
from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, TopK
from unmix.dictionary.terms import L0Target
from unmix.kernels import reference
from unmix.kernels.dispatch import Step
from unmix.kernels.task import Sums, Task, Weights

NEAR = 1e-5  # ||out - ref|| / ||ref||, for sums in float32
FUSED = 1e-4  # compiled: sums in another order
# in bf16, as in tests/kernels/test_autocast.py, but for any draw: of 50, the furthest were at 0.014, 0.045 and 0.085
ROUNDED, ROUNDED_CHOICE, ROUNDED_WINDOW = 0.03, 0.06, 0.12
COMPILER = ("cc", "gcc", "clang", "g++", "clang++")
SUMS = ("squared_error", "terms", "penalty", "square_B")


def check_portable(checks: Any, device: str, tiny: bool) -> None:
    """In float32, with all that a row may be trained for, a tile of tokens after another."""
    shapes = [(3, 7, 5, 21, 3)] if tiny else [(512, 768, 512, 10_000, 100), (100, 70, 65, 4097, 5)]
    for B, D, E, F, k in shapes:
        x_BD, y_BE, weights = exactly(B, D, E, F, k, device)
        for name, asked, on_host in pairs(F, k, device):
            label = f"portable {name} {B}x{D}x{E}x{F}"
            compare(checks, label, Step(portable=True), x_BD, y_BE, own(weights, asked), asked, on_host, NEAR)


def check_portable_bf16(checks: Any, device: str, tiny: bool) -> None:
    """Its products in bf16, on activations about 0 and about a mean; those of a tanh stay in float32.

    What a k keeps, and what is near a threshold, may differ in few entries: wide windows, and no dead features. Drawn
    on the host, so that a seed is the same numbers on every device.
    """
    B, D, F, k = 512, 32, 64, 8
    generator = torch.Generator().manual_seed(torch.initial_seed())

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    for mean in (0.0, 3.0):
        x_BD, W_enc_FD = draw(B, D) + mean, draw(F, D)
        weights = {"W_enc": W_enc_FD.T, "b_enc": draw(F) - mean * W_enc_FD.sum(1)}
        weights |= {"W_dec": draw(F, D), "b_dec": draw(D) + mean}
        weights |= {"threshold": 0.3 * draw(F).abs(), "r_mag": 0.3 * draw(F), "b_mag": 0.3 * draw(F)}
        for name, asked, on_host in pairs(F, k, device, bandwidth=1.0):
            kept, chooses = own(weights, asked), isinstance(asked.phi, TopK | AbsTopK | BatchTopK)
            mine, _ = taken(Step(dense="bf16", portable=True), x_BD, x_BD, kept, without_dead(asked))
            theirs, _ = definition(x_BD, x_BD, kept, without_dead(on_host))
            for field, gradient in theirs.items():
                near = ROUNDED_WINDOW if field == "threshold" else ROUNDED_CHOICE if chooses else ROUNDED
                checks.add(f"portable bf16 {name} about {mean:g} {field}", away(mine[field], gradient), near)


def check_compiled(checks: Any, device: str, tiny: bool) -> None:
    """Through torch.compile, every row that it takes, where there is a compiler."""
    if not any(map(shutil.which, COMPILER)):
        print("  portable   not compiled: no C compiler is on the path", flush=True)
        return
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    B, D, E, F, k = (3, 7, 5, 21, 3) if tiny else (100, 70, 65, 4097, 5)
    x_BD, y_BE, weights = exactly(B, D, E, F, k, device)
    for name, asked, on_host in pairs(F, k, device):
        if asked.term(L0Target):  # is not compiled
            continue
        if late(checks.until, COMPILE):
            checks.left_out.append(f"portable compiled {name}")
            continue
        dynamo.reset()  # of more than some functions of one code, torch silently compiles no more
        counters.clear()
        label, step = f"portable compiled {name}", Step(portable=True, compiled=True)
        words = own(weights, asked), without_dead(asked), without_dead(on_host)
        compare(checks, label, step, x_BD, y_BE, *words, FUSED)
        checks.add(f"{label}: it was", 0.0 if counters["stats"]["unique_graphs"] else math.inf)
    dynamo.reset()


def exactly(B: int, D: int, E: int, F: int, k: int, device: str) -> tuple[Tensor, Tensor, Weights]:
    """x, y and weights of all rows, such that what is active is no matter of rounding."""
    x_BD, weights = problem(B, D, F, float(k), device, skewed=F > 100)
    y_BE, weights = torch.randn(B, E, device=device), weights | {"b_dec": torch.randn(E, device=device)}
    return x_BD, y_BE, magnitudes(exact(weights | {"W_dec": torch.randn(F, E, device=device)}))


def pairs(F: int, k: int, device: str, bandwidth: float = BANDWIDTH) -> list[tuple[str, Task, Task]]:
    """Every row by name: the task with its tensors on the device, and on the host."""
    host = all_rows(F, k, "cpu", bandwidth)
    return [(name, asked, host[name]) for name, asked in all_rows(F, k, device, bandwidth).items()]


def taken(step: Step, x_BD: Tensor, y_BE: Tensor, weights: Weights, asked: Task) -> tuple[Weights, Sums]:
    """Gradients and sums of a step; what it does not write stays NaN."""
    mine = like(weights, math.nan)
    torch.use_deterministic_algorithms(False)  # which the definition's `kthvalue` is not, by its name
    try:
        return mine, step(x_BD, y_BE, weights, mine, asked)
    finally:
        torch.use_deterministic_algorithms(True)


def definition(x_BD: Tensor, y_BE: Tensor, weights: Weights, asked: Task) -> tuple[Weights, Sums]:
    """The same in float64 on the host."""
    high = mapped(lambda w: w.cpu().double(), weights)
    gradients = like(high, math.nan)
    return gradients, reference.step(x_BD.cpu().double(), y_BE.cpu().double(), high, gradients, asked)


def compare(
    checks: Any,
    name: str,
    step: Step,
    x_BD: Tensor,
    y_BE: Tensor,
    weights: Weights,
    asked: Task,
    on_host: Task,
    near: float,
) -> None:
    """Adds to the checks how far the gradients and the sums of a step are from the definition's."""
    mine, got = taken(step, x_BD, y_BE, weights, asked)
    theirs, want = definition(x_BD, y_BE, weights, on_host)
    for field, gradient in theirs.items():
        checks.add(f"{name} {field}", away(mine[field], gradient), near)
    for field in SUMS:
        checks.add(f"{name} {field}", away(getattr(got, field), getattr(want, field)), near)
    checks.add(f"{name} active_F", away(got.active_F, want.active_F), 0)
    checks.add(f"{name} threshold", away(got.threshold or 0.0, want.threshold or 0.0), near)
