"""A step and an update on a GPU beside plain torch, and beside what this GPU does at best."""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from gpu_problem import formulas, like, problem, task
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from unmix.kernels import gpu, gpu_adam
from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.task import Adam, Sums, Weights

WIDTH, BATCH = 768, 4096
FEATURES, ACTIVE = (10_000, 32_768, 131_072), (32, 100, 1000)


def median_ms(call: Callable[[Any], Any], inputs: list[Any], seconds: float = 0.4) -> float | None:
    """Median time of a call by the device's own clock, after a warm-up; the inputs take turns. None: no memory."""
    try:
        for x in inputs * 2:
            call(x)
        torch.cuda.synchronize()
        times, until = [], time.monotonic() + seconds
        while len(times) < 5 or (time.monotonic() < until and len(times) < 200):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call(inputs[len(times) % len(inputs)])
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def cell(value: float | None, width: int, digits: int) -> str:
    return "-".rjust(width) if value is None else f"{value:{width}.{digits}f}"


def floors() -> dict[str, float]:
    """What this GPU does at best: float32 products without TF32, bytes copied (read and written)."""
    torch.cuda.empty_cache()
    product = copy = None
    with suppress(torch.cuda.OutOfMemoryError):
        a, b = torch.randn(8192, 8192, device="cuda"), torch.randn(8192, 8192, device="cuda")
        product = median_ms(lambda b: torch.mm(a, b), [b, b + 1])
        big = torch.randn(2**29, device="cuda")
        copy = median_ms(lambda other: other.copy_(big), [torch.empty_like(big), torch.empty_like(big)])
    if not product or not copy:
        raise MemoryError("about 7 GiB of free GPU memory are needed")
    found = {"float32_tflops": 2 * 8192**3 / product / 1e9, "copy_tb_per_s": 2 * 4 * 2**29 / copy / 1e9}
    print("\nfloors: " + ", ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)
    return found


def peer(active: int) -> Callable[[Tensor, Weights], None]:
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

    def step(x_BD: Tensor, weights: Weights) -> None:
        W_enc_FD, b_enc_F, W_dec_FD, b_dec_D = leaves = [
            (w.T if name == "W_enc" else w).detach().requires_grad_() for name, w in weights.items()
        ]
        f_BK, feature_BK, _ = fused_encoder(x_BD, W_enc_FD, b_enc_F, active, "topk")
        out_BD = xformers_embedding_bag(feature_BK, W_dec_FD, f_BK) + b_dec_D
        torch.autograd.grad((out_BD - x_BD).square().sum() / len(x_BD), leaves)

    return step


def step(x_BD: Tensor, weights: Weights, gradients: Weights, workspace: Workspace) -> Sums:
    """All that an update waits for: the gradients and their square."""
    sums = gpu.step(x_BD, x_BD, weights, gradients, task(0.3), workspace)
    gpu_adam.finish(weights, gradients, False)
    return sums


def time_steps(compiled: bool) -> list[dict[str, Any]]:
    """A step of every size, sparse and dense, against plain torch and the encoder's product alone."""
    print(
        f"\nstep, D = {WIDTH}, B = {BATCH}, ms (ratio: the faster plain step over sparse; share: the encoder over sparse)"
    )
    print("      F   skew    L0  encoder   sparse    dense    plain compiled sparsify    ratio    share")
    rows = []
    for F in FEATURES:
        plain = time_plain(F, compiled)
        for active, skewed in [(active, False) for active in ACTIVE] + [(100, True)]:
            row = time_step(F, active, skewed) | plain
            others = [plain[k] for k in ("plain", "compiled") if plain.get(k)]
            row["ratio"] = min(others) / row["sparse"] if others and row["sparse"] else None
            row["share"] = row["encoder"] / row["sparse"] if row["encoder"] and row["sparse"] else None
            names = ("encoder", "sparse", "dense", "plain", "compiled", "sparsify", "ratio", "share")
            cells = " ".join(cell(row.get(name), 8, 2) for name in names)
            print(f"{F:7} {skewed!s:>6} {row['L0']:5.0f} {cells}", flush=True)
            rows.append(row)
            torch.cuda.empty_cache()
    for why in {why for row in rows for name, why in row.items() if name.endswith("not_timed")}:
        print(f"  not timed: {why}")
    return rows


def time_plain(F: int, compiled: bool) -> dict[str, Any]:
    """Plain torch; what is dense does not care how much is active."""
    x_BD, weights = problem(BATCH, WIDTH, F, 100, "cuda")
    inputs, asked, times = [x_BD, x_BD.flip(0).contiguous(), x_BD.roll(1, 0)], task(0.3), {}
    times["plain"] = median_ms(lambda x: formulas(x, weights, asked), inputs)
    if compiled:
        try:
            torch.compiler.reset()
            whole = torch.compile(formulas, dynamic=False)
            times["compiled"] = median_ms(lambda x: whole(x, weights, asked), inputs)
        except Exception as error:
            times["compiled_not_timed"] = f"torch.compile: {type(error).__name__}: {str(error)[:200]}"
    return times


def time_step(F: int, active: int, skewed: bool) -> dict[str, Any]:
    """One size: the encoder's product alone, the sparse step, the dense one, the peer's."""
    x_BD, weights = problem(BATCH, WIDTH, F, active, "cuda", skewed)
    inputs = [x_BD, x_BD.flip(0).contiguous(), x_BD.roll(1, 0)]
    gradients, workspace = like(weights, 0.0), Workspace(F, weights["b_enc"])
    row: dict[str, Any] = {"F": F, "skewed": skewed}
    row["L0"] = step(x_BD, weights, gradients, workspace).active_F.double().sum().item() / BATCH
    z_BF = workspace.rows(BATCH)
    if len(z_BF) == BATCH:
        row["encoder"] = median_ms(lambda x: torch.mm(x, weights["W_enc"], out=z_BF), inputs)
    else:
        row["encoder"] = median_ms(lambda x: torch.mm(x, weights["W_enc"]), inputs)
    for path, above in (("sparse", 1.0), ("dense", -1.0)):
        workspace.dense_above = above
        torch.cuda.reset_peak_memory_stats()
        row[path] = median_ms(lambda x: step(x, weights, gradients, workspace), inputs)
        row[f"{path}_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    try:
        theirs = peer(active)
        row["sparsify"] = median_ms(lambda x: theirs(x, weights), inputs)
    except Exception as error:
        row["sparsify_not_timed"] = f"sparsify: {type(error).__name__}: {str(error)[:200]}"
    return row


def time_adam(copy_tb_per_s: float | None) -> list[dict[str, Any]]:
    """An update of every size against torch's fused one, and the time to read g, m, v, W and write m, v, W."""
    print("\nupdate, ms          ours  with unit norm  torch fused  floor  floor/ours")
    rows = []
    for F in FEATURES:
        row = time_update(F)
        row["floor"] = 7 * 4 * (2 * WIDTH * F + WIDTH + F) / copy_tb_per_s / 1e9 if copy_tb_per_s else None
        row["floor_share"] = row["floor"] / row["ours"] if row["floor"] and row["ours"] else None
        widths = {"ours": 8, "unit_norm": 15, "torch_fused": 12, "floor": 6, "floor_share": 11}
        print(f"{F:15} " + " ".join(cell(row[name], width, 3) for name, width in widths.items()), flush=True)
        rows.append(row)
        torch.cuda.empty_cache()
    return rows


def time_update(F: int) -> dict[str, Any]:
    _, weights = problem(1, WIDTH, F, 1.0, "cuda")
    g, m, v = (like(weights, 0.0) for _ in range(3))
    for name, weight in weights.items():
        weight.grad = g[name].normal_()
    fused = torch.optim.Adam(weights.values(), lr=1e-3, fused=True)

    def update(how: Adam) -> None:
        gpu_adam.adam(weights, g, m, v, how)

    return {
        "F": F,
        "ours": median_ms(update, [Adam(1e-3, 5, (0.9, 0.99))]),
        "unit_norm": median_ms(update, [Adam(1e-3, 5, (0.9, 0.99), unit_norm=True)]),
        "torch_fused": median_ms(lambda _: fused.step(), [None]),
    }


def time_parts() -> list[dict[str, Any]]:
    """Where the time of a step goes, kernel by kernel."""
    rows = []
    for F, active in ((10_000, 100), (32_768, 100), (32_768, 1000), (131_072, 32)):
        x_BD, weights = problem(BATCH, WIDTH, F, active, "cuda", skewed=True)
        gradients, workspace = like(weights, 0.0), Workspace(F, weights["b_enc"])
        for _ in range(3):
            step(x_BD, weights, gradients, workspace)
        with profile(activities=[ProfilerActivity.CUDA]) as record:
            for _ in range(5):
                step(x_BD, weights, gradients, workspace)
            torch.cuda.synchronize()
        parts = sorted(
            ((e.device_time_total / 5000, e.count // 5, e.key) for e in record.key_averages() if e.device_time_total),
            reverse=True,
        )
        print(f"\nparts of a step, F = {F}, L0 about {active}, skewed")
        for ms, calls, name in parts[:12]:
            print(f"  {ms:8.3f} ms in {calls} calls  {name[:80]}", flush=True)
            rows.append({"F": F, "active": active, "kernel": name, "ms": ms, "calls": calls})
    return rows
