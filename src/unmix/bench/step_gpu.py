"""One training step on a GPU, whole and by phase, beside the least that each can take on it.

The least is what its operations, or its bytes, cost at the rates that this GPU reaches (`gpu_floor`): products in
float32 or TF32, copies, and gathers of rows of a table as large as the one that the phase reads. The encoder's product
is in what `auto` would choose (`gpu_trial`), all else in float32. Activations are skewed: a few features are active on
every token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unmix.bench.table import aligned
from unmix.dictionary.nonlinearities import BatchTopK, JumpRelu, Relu, TopK
from unmix.dictionary.terms import L0, L1, SquaredError
from unmix.errors import UserError
from unmix.kernels import gpu, gpu_adam, gpu_dense, gpu_floor, gpu_sparse, gpu_trial
from unmix.kernels.gpu_find import Margin
from unmix.kernels.gpu_workspace import Workspace, go
from unmix.kernels.task import Adam, Noise, Task, Weights

ERROR = (1.0, SquaredError())
DENSE = "relu, dense"
LAST = ("square", "update", "whole")
"""Phases of every step, behind its own ones."""
Say = Callable[[str], None]


def run(
    *, width: int, features: int, tokens: int, l0: float, repeats: int, device: torch.device, say: Say
) -> dict[str, Any]:
    """Times of a step at D = width, F = features, B = tokens, for each way of finding what is active, and a dense one.

    Raises `UserError` where the GPU has too little memory.
    """
    say("measuring the best the GPU can do")

    def clock(call: Callable[[], Any]) -> float | None:
        return gpu_floor.median_ms(lambda _: call(), [None], 0.0, repeats, repeats)

    with torch.cuda.device(device):
        try:
            best, rows = gpu_floor.floors(), {}
            say("measuring which selection is faster")
            trial = gpu_trial.measure(width, features, tokens, device)
            near = trial.selection == "tf32"
            asked_of = tasks(max(1, round(l0)))
            for name, asked in asked_of.items():
                say(f"timing the phases of a {name} step; the first time, its kernels are compiled")
                rows[name] = time_row(width, features, tokens, l0, asked, best, clock, str(device), near)
            say("timing a dense step of a relu")
            rows[DENSE] = time_dense(width, features, tokens, l0, asked_of["relu"], best, clock, str(device))
        except (torch.cuda.OutOfMemoryError, MemoryError) as error:
            said = str(error).partition("\n")[0]
            raise UserError(f"{said}; give smaller --features or --tokens") from None
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(device).total_memory
    settings = {"width": width, "features": features, "tokens": tokens, "l0": l0, "repeats": repeats}
    about = {"gpu": name, "memory_gb": memory / 1e9, "torch": str(torch.__version__)}
    auto = {"selection": trial.selection, "border": trial.border, "milliseconds": trial._asdict()}
    return {"bench": "step", **about, "settings": settings, "best": best, "auto": auto, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The same for people: ms, and behind it the share that the least is of them."""
    s, best, rows = found["settings"], found["best"], found["rows"]
    every = dict.fromkeys(phase for row in rows.values() for phase in row["floor"])
    phases = [phase for phase in every if phase not in LAST] + [phase for phase in LAST if phase in every]

    def cell(row: dict[str, Any], phase: str) -> str:
        if phase not in row["floor"]:
            return "-"
        ms, least_ms = row["ms"][phase], row["floor"][phase]
        return "no memory" if ms is None else f"{ms:,.3f} of {least_ms:,.3f} ({least_ms / ms:.0%})"

    lines = [["ms, of which the least (its share)", *rows]]
    lines += [["active features found", *(f"{row['L0']:,.4g}" for row in rows.values())]]
    lines += [[phase, *(cell(row, phase) for row in rows.values())] for phase in phases]
    rates = [[name.replace("_", " "), f"{value:,.2f}"] for name, value in best.items()]
    return "\n".join(
        (
            f"one training step on {found['gpu']}: D={s['width']:,}, F={s['features']:,}, B={s['tokens']:,}; "
            f"L0 asked for {s['l0']:g}",
            "",
            aligned(lines),
            "",
            f"auto would select in {found['auto']['selection']}, as above, and take sparse steps of a relu below "
            f"{found['auto']['border']:.1%} active",
            "",
            aligned([["this GPU at best", ""], *rates]),
            "",
            f"medians of {s['repeats']} by the device's clock; {found['memory_gb']:,.0f} GB, torch {found['torch']}",
        )
    )


class Encoded(Workspace):
    """Has z already: what is timed with it is without the encoder's product."""

    def encode(
        self, x_TD: Tensor, weights: Weights, noise: Noise | None, first: int, near: Margin | None = None
    ) -> Tensor:
        return self.array("z", len(x_TD) * self.features).view(len(x_TD), self.features)


def tasks(k: int) -> dict[str, Task]:
    """One of each way of finding what is active."""
    return {
        "relu": Task(Relu(), (ERROR, (0.3, L1()))),
        "topk": Task(TopK(k), (ERROR,)),
        "batchtopk": Task(BatchTopK(k), (ERROR,)),
        "jumprelu": Task(JumpRelu(0.001), (ERROR, (0.3, L0(0.001)))),
    }


def time_row(
    D: int,
    F: int,
    B: int,
    active: float,
    asked: Task,
    best: dict[str, float],
    clock: Callable[[Callable[[], Any]], float | None],
    device: str,
    near: bool = False,
) -> dict[str, Any]:
    """ms of the encoder's product, selection, per token, per feature, square of the gradient, update; and of them all.

    `best`: what `gpu_floor.floors` found. `clock` times a call. `near`: the product is in TF32. Raises RuntimeError
    where a step did nothing.
    """
    x_BD, weights = problem(B, D, F, active, device, skewed=True)
    if isinstance(asked.phi, JumpRelu):
        weights["threshold"] = torch.zeros_like(weights["b_enc"])
    gradients, workspace, stop_1 = like(weights, 0.0), Encoded(F, weights["b_enc"], near), go(x_BD)
    plain = Workspace(F, weights["b_enc"], near)
    found = gpu.step(x_BD, x_BD, weights, gradients, asked, plain)
    assert found is not None
    active = found[1] * F
    workspace.tile = plain.tile
    workspace._room, workspace._kept = plain._room, plain._kept
    w_F, end_P, r_B = weights["W_dec"].norm(dim=1), plain.ends(()), asked.error.weigh(x_BD)
    entries, _, _ = gpu._find(x_BD, weights, asked, plain, w_F, stop_1)
    rows = gpu_sparse.by_token(x_BD, weights, asked, entries, r_B, end_P, stop_1)
    first, second = like(weights, 0.0), like(weights, 0.0)
    square_1, how = gpu_adam.square(weights, gradients, False), Adam(0.0, 1, (0.9, 0.99))

    def update() -> None:
        gpu_adam.adam(weights, gradients, first, second, how, stop_1, gpu_adam.shrink(square_1, 1.0))

    def by_feature() -> None:
        gpu_sparse.by_feature(x_BD, weights, gradients, asked, entries, rows, w_F, end_P, stop_1)

    def whole() -> None:
        gpu.launch(x_BD, x_BD, weights, gradients, asked, plain, stop_1)
        gpu_adam.square(weights, gradients, False)
        update()

    def encode() -> None:
        margin = plain.margin(x_BD, weights, None)
        for start in range(0, B, plain.tile):
            plain.encode(x_BD[start : start + plain.tile], weights, None, start, margin)

    calls: dict[str, Callable[[], Any]] = {
        "encode": encode,
        "select": lambda: gpu._find(x_BD, weights, asked, workspace, w_F, stop_1),
        "per token": lambda: gpu_sparse.by_token(x_BD, weights, asked, entries, r_B, end_P, stop_1),
        "per feature": by_feature,
        "square": lambda: gpu_adam.square(weights, gradients, False),
        "update": update,
        "whole": whole,
    }
    ms = {key: clock(call) for key, call in calls.items()}
    if stop_1.item():
        raise RuntimeError("a step had not enough room: it did nothing, and was quick")
    return {
        "L0": active,
        "ms": ms,
        "near": near,
        "floor": least(D, F, B, active, best, near),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def time_dense(
    D: int,
    F: int,
    B: int,
    active: float,
    asked: Task,
    best: dict[str, float],
    clock: Callable[[Callable[[], Any]], float | None],
    device: str,
) -> dict[str, Any]:
    """The same of a dense step: its five products, the square of the gradient, update; and of them all."""
    x_BD, weights = problem(B, D, F, active, device, skewed=True)
    gradients, first, second = (like(weights, 0.0) for _ in range(3))
    workspace, stop_1 = Workspace(F, weights["b_enc"]), go(x_BD)
    _, density = gpu.dense_step(x_BD, x_BD, weights, gradients, asked, workspace)
    square_1, how = gpu_adam.square(weights, gradients, False), Adam(0.0, 1, (0.9, 0.99))

    def products() -> None:
        gpu.launch(x_BD, x_BD, weights, gradients, asked, workspace, stop_1, by=gpu_dense.dense)

    def update() -> None:
        gpu_adam.adam(weights, gradients, first, second, how, stop_1, gpu_adam.shrink(square_1, 1.0))

    def whole() -> None:
        products()
        gpu_adam.square(weights, gradients, False)
        update()

    calls: dict[str, Callable[[], Any]] = {
        "products": products,
        "square": lambda: gpu_adam.square(weights, gradients, False),
        "update": update,
        "whole": whole,
    }
    return {
        "L0": density * F,
        "ms": {key: clock(call) for key, call in calls.items()},
        "near": False,
        "floor": least_dense(D, F, B, best),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def least_dense(D: int, F: int, B: int, best: dict[str, float]) -> dict[str, float]:
    """As `least`, of a dense step: five products of 2·B·D·F operations in float32."""
    found = {"products": 5 * 2 * B * D * F / best["float32_tflops"] / 1e9} | _least_updates(D, F, best)
    return found | {"whole": sum(found.values())}


def _least_updates(D: int, F: int, best: dict[str, float]) -> dict[str, float]:
    """ms of reading the gradient, and of reading g, m, v, W and writing m, v, W."""
    numbers, copy = 2 * D * F, best["copy_tb_per_s"]
    return {"square": 4 * numbers / copy / 1e9, "update": 28 * numbers / copy / 1e9}


def least(D: int, F: int, B: int, active: float, best: dict[str, float], near: bool = False) -> dict[str, float]:
    """ms of each phase if nothing but its operations or its bytes took time; with `near` candidates are read anew."""
    copy, row = best["copy_tb_per_s"], 4 * D
    gathers = {int(key.split("_")[1]): rate for key, rate in best.items() if key.startswith("gather")}

    def gather(table_bytes: float) -> float:
        return gathers[min(gathers, key=lambda size: abs(size * 2**20 - table_bytes))] or copy

    gathered = B * active * row / gather(F * row) / 1e9
    found = {
        "encode": 2 * B * D * F / best["tf32_tflops" if near else "float32_tflops"] / 1e9,
        "select": 4 * B * F / copy / 1e9 + (gathered if near else 0),
        "per token": gathered,
        "per feature": 2 * B * active * row / gather(B * row) / 1e9,
    } | _least_updates(D, F, best)
    return found | {"whole": sum(found.values())}


def problem(B: int, D: int, F: int, active: float, device: str, skewed: bool = False) -> tuple[Tensor, Weights]:
    """Random inputs with about so many active features a token.

    Activations and encoder weights are small multiples of 1/8 and 1/64, so that z is exact in float32 and never 0:
    which features are active is no matter of rounding.
    """
    x_BD = torch.randint(-8, 9, (B, D), device=device).float() / 8
    W_enc_FD = torch.randint(-8, 9, (F, D), device=device).float() / 64
    spread = math.sqrt(D * 24 / 64 * 24 / 4096)  # of z: a multiple from -8 to 8 has variance 24
    share = torch.tensor(min(max(active / F, 1e-9), 1 - 1e-9), dtype=torch.float64)
    b_F = torch.full((F,), spread * torch.special.ndtri(share).item(), device=device)
    if skewed:
        b_F += 0.5 * spread * torch.randn(F, device=device)
        b_F[:8] = 10 * spread  # on every token
    W_dec_FD = torch.randn(F, D, device=device) / math.sqrt(D)
    b_F = (b_F * 512).round() / 512 + 1 / 1024
    b_dec_D = torch.randn(D, device=device)
    return x_BD, {"W_enc": W_enc_FD.T, "b_enc": b_F, "W_dec": W_dec_FD, "b_dec": b_dec_D}


def mapped(fn: Callable[[Tensor], Tensor], weights: Weights) -> Weights:
    """The function of each tensor, by the same names."""
    return {name: fn(weight) for name, weight in weights.items()}


def like(weights: Weights, value: float) -> Weights:
    """Tensors of the same shapes and layouts, full of one value."""
    return mapped(lambda w: torch.full_like(w, value), weights)
