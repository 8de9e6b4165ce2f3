"""Steps and updates on a GPU, whole and by phase, beside what this GPU does at best and beside plain torch."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import torch
from gpu_clock import COMPILE, LATE, late
from gpu_problem import all_rows, formulas, magnitudes, own, task
from torch import Tensor

from unmix.bench.step_gpu import like, problem, tasks, time_row
from unmix.kernels import gpu, gpu_adam, gpu_floor
from unmix.kernels.gpu_floor import median_ms
from unmix.kernels.gpu_workspace import Workspace, go
from unmix.kernels.task import Adam, Weights

SHAPES = {"S": (768, 10_000, 4096, 100), "M": (2304, 65_536, 8192, 100), "L": (4096, 131_072, 16_384, 64)}
"""D, F, B, L0."""
DEVICE = "cuda"
DENSITIES = (0.003, 0.01, 0.02, 0.04, 0.08)


def floors() -> dict[str, float]:
    """What this GPU does at best, printed."""
    found = gpu_floor.floors()
    print("\nfloors: " + ", ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)
    return found


def cell(value: float | None, width: int, digits: int) -> str:
    """A number, or that there is none."""
    return "-".rjust(width) if value is None else f"{value:{width}.{digits}f}"


def quick(call: Callable[[], Any]) -> float | None:
    """Its median time, in a tenth of a second."""
    return median_ms(lambda _: call(), [None], 0.1)


def time_phases(best: dict[str, float], until: float) -> list[dict[str, Any]]:
    """Every phase of a step and an update at S, M and L, and the least that it can take; none is begun after `until`."""
    print("\nms: phase (floor)")
    found = []
    for size, (D, F, B, L0_) in SHAPES.items():
        for (name, asked), near in product(tasks(L0_).items(), (False, True)):
            row = {"size": size, "row": f"{name}, {'tf32' if near else 'fp32'}", "D": D, "F": F, "B": B}
            try:
                if late(until):
                    row["not_timed"] = LATE
                    found.append(row)
                    continue
                row |= time_row(D, F, B, L0_, asked, best, quick, DEVICE, near)
            except torch.cuda.OutOfMemoryError:
                row["not_timed"] = "out of memory"
            cells = [
                f"{key} {cell(ms, 1, 3)} ({row['floor'].get(key, 0):.3f})" for key, ms in row.get("ms", {}).items()
            ]
            print(f"{size} {row['row']:<16} " + ", ".join(cells), flush=True)
            found.append(row)
            torch.cuda.empty_cache()
    return found


def crossover(until: float = math.inf) -> list[dict[str, Any]]:
    """Where a sparse step takes as long as a dense one, as a share of (B, F); between two densities by a line. None is
    begun after `until`, as in all that follow."""
    print("\nsparse and dense, ms by active share")
    found = []
    for size in ("S", "M"):
        D, F, B, _ = SHAPES[size]
        row: dict[str, Any] = {"size": size, "density": [], "sparse": [], "dense": []}
        for density in DENSITIES:
            if late(until):
                row[f"from a density of {density:g} on not timed"] = LATE
                break
            x_BD, weights = problem(B, D, F, density * F, DEVICE, skewed=True)
            gradients, workspace, asked = like(weights, 0.0), Workspace(F, weights["b_enc"]), task(0.3)
            taken = gpu.step(x_BD, x_BD, weights, gradients, asked, workspace)
            words = x_BD, x_BD, weights, gradients, asked, workspace
            row["density"].append(taken[1] if taken else None)
            row["sparse"].append(median_ms(lambda words: gpu.step(*words), [words]))
            row["dense"].append(median_ms(lambda words: gpu.dense_step(*words), [words]))
            torch.cuda.empty_cache()
        row["crossover"] = meeting(row["density"], row["sparse"], row["dense"])
        print(f"{size}: " + ", ".join(f"{key} {value}" for key, value in row.items() if key != "size"), flush=True)
        found.append(row)
    return found


def meeting(density: list[float], sparse: list[float | None], dense: list[float | None]) -> float | None:
    """The share at which two broken lines cross; None where they do not, or something was not timed."""
    known = [(x, s - d) for x, s, d in zip(density, sparse, dense, strict=True) if s is not None and d is not None]
    for (x, before), (y, after) in pairwise(known):
        if before < 0 <= after:
            return x + (y - x) * before / (before - after)
    return None


def time_adam(best: dict[str, float], until: float = math.inf) -> list[dict[str, Any]]:
    """An update of S and M against torch's fused one, and the time to read g, m, v, W and write m, v, W."""
    print("\nupdate, ms          ours  with unit norm  torch fused  floor")
    found = []
    for size in ("S", "M"):
        if late(until):
            found.append({"size": size, "not_timed": LATE})
            continue
        D, F, _, _ = SHAPES[size]
        row = {"size": size, "floor": 7 * 4 * (2 * D * F + D + F) / best["copy_tb_per_s"] / 1e9} | time_update(D, F)
        widths = {"ours": 8, "unit_norm": 15, "torch_fused": 12, "floor": 6}
        print(f"{size:15} " + " ".join(cell(row[name], width, 3) for name, width in widths.items()), flush=True)
        found.append(row)
        torch.cuda.empty_cache()
    return found


def time_update(D: int, F: int) -> dict[str, Any]:
    """ms of an update."""
    _, weights = problem(1, D, F, 1.0, DEVICE)
    g, m, v = (like(weights, 0.0) for _ in range(3))
    for name, weight in weights.items():
        weight.grad = g[name].normal_()
    fused = torch.optim.Adam(weights.values(), lr=1e-3, fused=True)

    def update(how: Adam) -> None:
        gpu_adam.adam(weights, g, m, v, how)

    return {
        "ours": median_ms(update, [Adam(1e-3, 5, (0.9, 0.99))]),
        "unit_norm": median_ms(update, [Adam(1e-3, 5, (0.9, 0.99), unit_norm=True)]),
        "torch_fused": median_ms(lambda _: fused.step(), [None]),
    }


WAYS: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"dense": "bf16"}, "compiled": {"compiled": True}}
"""Of the portable step."""


def time_portable(compiled: bool, until: float = math.inf) -> list[dict[str, Any]]:
    """ms of a gradient of S by the portable step: of a relu, beside the kernels of `rivals`, and of a gate."""
    from unmix.kernels.dispatch import Step  # needs more packages than the kernels do

    D, F, B, active = SHAPES["S"]
    print(f"\nthe portable step, D={D}, F={F:,}, B={B:,}, ms")
    x_BD, weights = problem(B, D, F, active, DEVICE, skewed=True)
    every, found = magnitudes(weights), []
    for (name, asked), way in product([(name, all_rows(F, active, DEVICE)[name]) for name in ("relu", "gated")], WAYS):
        if way == "compiled" and not compiled:
            continue
        row: dict[str, Any] = {"size": "S", "row": f"{name}, {way}", "D": D, "F": F, "B": B}
        found.append(row)
        if late(until, COMPILE if way == "compiled" else 0.0):
            row["not_timed"] = LATE
            continue
        kept, step, stop_1 = own(every, asked), Step(portable=True, **WAYS[way]), go(x_BD)
        words = x_BD, x_BD, kept, like(kept, 0.0), asked, stop_1
        try:
            row["ms"] = median_ms(lambda words: step.launch(*words), [words])  # noqa: B023
        except Exception as error:  # torch may not compile here: the other rows are worth having
            row["not_timed"] = f"{type(error).__name__}: {str(error)[:200]}"
        print(f"{row['row']:<16} {cell(row.get('ms'), 8, 3)}", flush=True)
        torch.cuda.empty_cache()
    return found


def rivals(compiled: bool, until: float = math.inf) -> list[dict[str, Any]]:
    """A gradient of S in plain torch, whole and through torch.compile, and by eai-sparsify; ours beside them."""
    D, F, B, active = SHAPES["S"]
    x_BD, weights = problem(B, D, F, active, DEVICE, skewed=True)
    inputs, asked = [x_BD, x_BD.flip(0).contiguous(), x_BD.roll(1, 0)], task(0.3)
    gradients, workspace = like(weights, 0.0), Workspace(F, weights["b_enc"])
    row: dict[str, Any] = {"size": "S"}
    row["ours"] = median_ms(lambda x: gpu.step(x, x, weights, gradients, asked, workspace), inputs)
    row["ours, topk"] = median_ms(
        lambda x: gpu.step(x, x, weights, gradients, tasks(active)["topk"], workspace), inputs
    )
    row["plain"] = median_ms(lambda x: formulas(x, weights, asked), inputs)
    others: dict[str, Callable[[], Callable[[Tensor], Any]]] = {"sparsify, topk": lambda: peer(active, weights)}
    if compiled:
        others["compiled"] = lambda: lambda x: whole(x, weights, asked)
        whole = torch.compile(formulas, dynamic=False)
    for name, make in others.items():
        if late(until, COMPILE if name == "compiled" else 0.0):
            row[f"{name} not timed"] = LATE
            continue
        try:
            row[name] = median_ms(make(), inputs)
        except Exception as error:  # a rival that is not there, or does not run here
            row[f"{name} not timed"] = f"{type(error).__name__}: {str(error)[:200]}"
    print("\nS, ms: " + ", ".join(f"{name} {value}" for name, value in row.items() if name != "size"), flush=True)
    return [row]


def peer(active: int, weights: Weights) -> Callable[[Tensor], None]:
    """A step of `eai-sparsify`'s own kernels, top-k of so many; its other modules need packages that may be missing."""
    if "sparsify" not in sys.modules:
        spec = importlib.util.find_spec("sparsify")
        if spec is None or not spec.submodule_search_locations:
            raise ImportError("eai-sparsify is not installed")
        bare = types.ModuleType("sparsify")
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules["sparsify"] = bare
    from sparsify.fused_encoder import fused_encoder
    from sparsify.xformers import xformers_embedding_bag

    def step(x_BD: Tensor) -> None:
        W_enc_FD, b_enc_F, W_dec_FD, b_dec_D = leaves = [
            (w.T if name == "W_enc" else w).detach().requires_grad_() for name, w in weights.items()
        ]
        f_BK, feature_BK, _ = fused_encoder(x_BD, W_enc_FD, b_enc_F, active, "topk")
        out_BD = xformers_embedding_bag(feature_BK, W_dec_FD, f_BK) + b_dec_D
        torch.autograd.grad((out_BD - x_BD).square().sum() / len(x_BD), leaves)

    return step
