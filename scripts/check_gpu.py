"""Checks and times the GPU kernels: PYTHONPATH=src python scripts/check_gpu.py [--json FILE]

Needs an NVIDIA GPU, torch and triton, nothing else. Every kernel is held against float64 formulas on fresh random
inputs, with its outputs and scratch memory full of NaN before; then a step and an update are timed against plain torch.
Exits 1 if a check fails, 2 if there is no GPU. Without a GPU:

    --interpret     the checks at tiny sizes in Triton's interpreter (on the CPU)
    --compile 90    every kernel through the compiler, for that compute capability; nothing runs
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's test for repeatable operations asks for it

import torch
from torch import Tensor

from unmix.kernels.reference import Adam, Noise, Objective, Weights, adam, token_weights

WIDTH, BATCH = 768, 4096
FEATURES, ACTIVE = (10_000, 32_768, 131_072), (32, 100, 1000)
NEAR = 1e-5  # ||out - ref|| / ||ref||, for sums in float32


def formulas(
    x_BD: Tensor, weights: Weights, objective: Objective, z_BF: Tensor | None = None
) -> tuple[Weights, list[Tensor]]:
    """Gradients and sums of a step in plain torch, every (B, F) array whole; `z_BF` where it is known already."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = weights
    per_token = objective.l1 / len(x_BD)
    z_BF = x_BD @ W_enc_DF + b_enc_F if z_BF is None else z_BF
    f_BF = torch.relu(z_BF)
    if objective.phi == "tanh_relu":
        f_BF = torch.tanh(f_BF)
    error_BD = f_BF @ W_dec_FD + b_dec_D - x_BD
    square_B, r_B = error_BD.square().sum(1), token_weights(x_BD, objective.norm_power)
    g_BD = error_BD * (r_B * (2 / len(x_BD)))[:, None]
    w_F = W_dec_FD.norm(dim=1) if objective.weigh_by_norm else torch.ones_like(b_enc_F)
    dz_BF = (g_BD @ W_dec_FD.T + w_F * per_token) * (f_BF > 0)
    if objective.phi == "tanh_relu":
        dz_BF = dz_BF * (1 - f_BF * f_BF)
    dW_dec_FD = f_BF.T @ g_BD
    if objective.weigh_by_norm:
        dW_dec_FD = dW_dec_FD + W_dec_FD * (f_BF.sum(0) * per_token / w_F)[:, None]
    if objective.unit_norm:
        dW_dec_FD = dW_dec_FD - W_dec_FD * (dW_dec_FD * W_dec_FD).sum(1, keepdim=True)
    gradients = Weights((dz_BF.T @ x_BD).T, dz_BF.sum(0), dW_dec_FD, g_BD.sum(0))
    square = torch.stack([g.square().sum() for g in gradients]).sum()
    return gradients, [square_B.sum(), (square_B * r_B).sum(), (f_BF * w_F).sum(), (f_BF > 0).sum(0), square]


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
    return x_BD, Weights(W_enc_FD.T, (b_F * 512).round() / 512 + 1 / 1024, W_dec_FD, torch.randn(D, device=device))


def like(weights: Weights, value: float) -> Weights:
    """Tensors of the same shapes and layouts, full of one value."""
    return Weights(*(torch.full_like(w, value) for w in weights))


def away(out: Any, ref: Any) -> float:
    """||out - ref|| / ||ref||; NaN counts as infinitely far."""
    out, ref = torch.as_tensor(out).double().cpu(), torch.as_tensor(ref).double().cpu()
    far = ((out - ref).norm() / ref.norm().clamp_min(1e-300)).item() if ref.norm() else out.norm().item()
    return math.inf if math.isnan(far) else far


class Checks:
    """What was compared, how far apart it was, and whether that is near enough."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, far: float, near: float = NEAR) -> None:
        self.rows.append({"check": name, "far": far, "near": near, "ok": far <= near})
        if far > near:
            print(f"  WRONG  {name}: {far:.3g} away, {near:.0e} allowed", flush=True)

    def worst(self, prefix: str) -> None:
        rows = [row for row in self.rows if row["check"].startswith(prefix + " ")]
        right, far = sum(row["ok"] for row in rows), max((row["far"] for row in rows), default=math.nan)
        print(f"  {prefix:<10} {right} of {len(rows)} right, at most {far:.2g} away", flush=True)


def check(gpu: Any, device: str, tiny: bool) -> Checks:
    """Every kernel on fresh inputs, poisoned outputs."""
    checks = Checks()
    torch.use_deterministic_algorithms(True)  # what is not repeatable raises, and new memory is full of NaN
    for part in (check_steps, check_nan_and_tf32, check_noise, check_adam):
        try:
            part(gpu, checks, device, tiny)
        except Exception as error:  # the other checks, and the timings, are worth having
            traceback.print_exc()
            checks.add(f"{part.__name__}: {type(error).__name__}: {error}", math.inf)
    torch.use_deterministic_algorithms(False)
    for prefix in ("step", "noise", "adam"):
        checks.worst(prefix)
    return checks


def check_steps(gpu: Any, checks: Checks, device: str, tiny: bool) -> None:
    if tiny:
        shapes = [(5, 7, 11, 3.0), (1, 1, 1, 0.5), (6, 4, 9, 0.0), (3, 5, 13, 13.0)]
    else:
        shapes = [(4096, 768, 10_000, 100.0), (1, 1, 1, 0.5), (100, 5, 4097, 0.0), (33, 1001, 5003, 5003.0)]
        shapes += [(1000, 2304, 20_001, 32.0), (257, 64, 70_001, 300.0), (4096, 768, 32_768, 1000.0)]
    objectives = [
        Objective(0.3),
        Objective(3.0, "tanh_relu", norm_power=1),
        Objective(0.3, weigh_by_norm=False, unit_norm=True, norm_power=2),
        Objective(0.3, "tanh_relu", noise=Noise(0.7, 2**63 + 12345)),
    ]
    kept = gpu.DENSE_ABOVE
    for n, (B, D, F, active) in enumerate(shapes):
        for m, objective in enumerate(objectives if n == 0 else objectives[n % 3 : n % 3 + 1]):
            for path, above, tile in (("sparse", 1.0, B), ("tiled", 1.0, (B + 2) // 3), ("dense", -1.0, B)):
                x_BD, weights = problem(B, D, F, active, device, skewed=F > 100)
                if objective.unit_norm:
                    weights.W_dec_FD.div_(weights.W_dec_FD.norm(dim=1, keepdim=True))
                gpu.DENSE_ABOVE = above
                workspace = gpu.Workspace(F, weights.b_enc_F)
                workspace.tile = tile
                mine, again = like(weights, math.nan), like(weights, math.nan)
                got = gpu.step(x_BD, weights, mine, objective, workspace)
                twice = gpu.step(x_BD, weights, again, objective, workspace)
                z_BF = x_BD @ weights.W_enc_DF  # exact
                if objective.noise:
                    gpu.add_noise(z_BF, objective.noise, 0)
                z_BF += weights.b_enc_F
                gradients, sums = formulas(
                    x_BD.double(), Weights(*(w.double() for w in weights)), objective, z_BF.double()
                )
                name = f"step {B}x{D}x{F} {path} {m if n == 0 else n % 3}"
                for field, a, b in zip(Weights._fields, mine, gradients, strict=True):
                    checks.add(f"{name} {field}", away(a, b))
                for field, a, b in zip(got._fields, got, sums, strict=True):
                    checks.add(f"{name} {field}", away(a, b), 0 if field == "active_F" else NEAR)
                same = all(torch.equal(a, b) for a, b in zip(mine, again, strict=True)) and all(
                    torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(got, twice, strict=True)
                )
                checks.add(f"{name} twice the same bits", 0.0 if same else math.inf)
    gpu.DENSE_ABOVE = kept


def check_nan_and_tf32(gpu: Any, checks: Checks, device: str, tiny: bool) -> None:
    B, D, F = (5, 7, 11) if tiny else (512, 768, 1000)
    objective, kept = Objective(0.3), gpu.DENSE_ABOVE
    x_BD, weights = problem(B, D, F, F / 2, device)
    x_BD += torch.randn_like(x_BD)  # more digits than TF32 has
    weights.W_enc_DF.add_(torch.randn_like(weights.W_enc_DF) / math.sqrt(D))
    weights.b_enc_F.fill_(20.0)  # z is far from 0
    gradients, _ = formulas(x_BD.double(), Weights(*(w.double() for w in weights)), objective)
    for path, above in (("sparse", 1.0), ("dense", -1.0)):
        gpu.DENSE_ABOVE, mine = above, like(weights, math.nan)
        torch.set_float32_matmul_precision("high")  # someone else's wish for TF32
        try:
            gpu.step(x_BD, weights, mine, objective, gpu.Workspace(F, weights.b_enc_F))
        finally:
            torch.set_float32_matmul_precision("highest")
        checks.add(f"step {path} without TF32", max(away(a, b) for a, b in zip(mine, gradients, strict=True)))
        broken_BD = x_BD.clone()
        broken_BD[B // 2, D // 2] = math.nan
        got = gpu.step(broken_BD, weights, mine, objective, gpu.Workspace(F, weights.b_enc_F))
        seen = math.isnan(got.squared_error) and math.isnan(got.gradient_square) and got.active_F.min() > 0
        checks.add(f"step {path} shows NaN", 0.0 if seen else math.inf)
    gpu.DENSE_ABOVE = 1.0
    if device == "cuda":
        checks.add("step: times that the host waits", waits(gpu, weights), 2)
    gpu.DENSE_ABOVE = kept


def waits(gpu: Any, weights: Weights) -> int:
    """How often a step of one tile stops the host until the device is done, by torch's own count."""
    x_BD, gradients = torch.zeros(4, len(weights.b_dec_D), device="cuda"), like(weights, 0.0)
    workspace, objective = gpu.Workspace(len(weights.b_enc_F), weights.b_enc_F), Objective(0.3, noise=Noise(1.0, 1))
    gpu.step(x_BD, weights, gradients, objective, workspace)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        gpu.step(x_BD, weights, gradients, objective, workspace)
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in seen)


def check_noise(gpu: Any, checks: Checks, device: str, tiny: bool) -> None:
    import numpy as np

    def mix(x: Any) -> Any:
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    for T, F in [(3, 7), (2, 1030)] if tiny else [(513, 10_001), (7, 131_072), (5, 1)]:
        key, first = int.from_bytes(os.urandom(8), "little"), 1000
        z_TF = torch.zeros(T, F, device=device)
        gpu.add_noise(z_TF, Noise(0.5, key), first)
        row_T1 = mix(np.uint64([key]) ^ mix(np.arange(first, first + T, dtype=np.uint64)))[:, None]
        bits = mix(row_T1 + np.arange((F + 1) // 2, dtype=np.uint64))
        radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)) + 0.5) * 2.0**-32))
        angle = 2 * np.pi * ((bits & np.uint64(2**32 - 1)) + 0.5) * 2.0**-32
        want = 0.5 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2).reshape(T, -1)[:, :F]
        checks.add(f"noise {T}x{F}", away(z_TF, torch.from_numpy(want)), 1e-6)
        checks.add(f"noise {T}x{F} worst", float(np.abs(z_TF.cpu().numpy() - want).max()), 1e-5)


def check_adam(gpu: Any, checks: Checks, device: str, tiny: bool) -> None:
    for D, F in [(5, 7), (1, 3)] if tiny else [(768, 10_000), (1001, 777), (1, 5), (5000, 33)]:
        for unit_norm in (False, True):
            _, weights = problem(1, D, F, 1.0, device)
            first, second = like(weights, 0.0), like(weights, 0.0)
            exact = [Weights(*(t.double() for t in kept)) for kept in (weights, first, second)]
            for number in range(1, 4):
                g = Weights(*(torch.randn_like(w) * 10.0 ** (-number) for w in weights))
                how = Adam(1e-2, number, (0.9, 0.99), 0.5, unit_norm)
                gpu.adam(weights, g, first, second, how)
                adam(exact[0], Weights(*(t.double() for t in g)), exact[1], exact[2], how)
            for part, mine, ref in zip("Wmv", (weights, first, second), exact, strict=True):
                for field, a, b in zip(Weights._fields, mine, ref, strict=True):
                    checks.add(f"adam {D}x{F} {unit_norm} {part} {field}", away(a, b), 2e-6)


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


def floors() -> dict[str, float]:
    """What this GPU does at best: float32 products without TF32, bytes copied (read and written)."""
    a, b = torch.randn(8192, 8192, device="cuda"), torch.randn(8192, 8192, device="cuda")
    product = median_ms(lambda b: torch.mm(a, b), [b, b + 1])
    big = torch.randn(2**29, device="cuda")
    copy = median_ms(lambda other: other.copy_(big), [torch.empty_like(big), torch.empty_like(big)])
    if not product or not copy:
        raise MemoryError("2 GB of GPU memory are needed")
    return {"float32_tflops": 2 * 8192**3 / product / 1e9, "copy_tb_per_s": 2 * 4 * 2**29 / copy / 1e9}


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
            w.detach().requires_grad_() for w in (weights.W_enc_DF.T, *weights[1:])
        ]
        f_BK, feature_BK, _ = fused_encoder(x_BD, W_enc_FD, b_enc_F, active, "topk")
        out_BD = xformers_embedding_bag(feature_BK, W_dec_FD, f_BK) + b_dec_D
        torch.autograd.grad((out_BD - x_BD).square().sum() / len(x_BD), leaves)

    return step


def time_steps(gpu: Any, compiled: bool) -> list[dict[str, Any]]:
    """A step of every size, sparse and dense, against plain torch and the encoder's product alone."""
    print(f"\nstep, D = {WIDTH}, B = {BATCH}, ms (ratio: the faster plain step over ours; bound: the encoder alone)")
    print("      F   skew    L0  encoder   sparse    dense    plain compiled sparsify   ratio   bound/sparse")
    rows = []
    for F in FEATURES:
        plain = time_plain(F, compiled)
        for active, skewed in [(active, False) for active in ACTIVE] + [(100, True)]:
            row = time_step(gpu, F, active, skewed) | plain
            others = [plain[k] for k in ("plain", "compiled") if plain.get(k)]
            row["ratio"] = min(others) / row["sparse"] if others and row["sparse"] else None
            row["bound_share"] = row["encoder"] / row["sparse"] if row["encoder"] and row["sparse"] else None
            names = ("encoder", "sparse", "dense", "plain", "compiled", "sparsify", "ratio")
            cells = " ".join(f"{row[k]:8.2f}" if row.get(k) else "       -" for k in names)
            print(f"{F:7} {skewed!s:>6} {row['L0']:5.0f} {cells} {row['bound_share'] or math.nan:10.2f}", flush=True)
            rows.append(row)
            torch.cuda.empty_cache()
    for why in {why for row in rows for name, why in row.items() if name.endswith("not_timed")}:
        print(f"  not timed: {why}")
    return rows


def time_plain(F: int, compiled: bool) -> dict[str, Any]:
    """Plain torch; what is dense does not care how much is active."""
    x_BD, weights = problem(BATCH, WIDTH, F, 100, "cuda")
    inputs, objective, times = [x_BD, x_BD.flip(0).contiguous(), x_BD.roll(1, 0)], Objective(0.3), {}
    times["plain"] = median_ms(lambda x: formulas(x, weights, objective), inputs)
    if compiled:
        try:
            torch.compiler.reset()
            whole = torch.compile(formulas, dynamic=False)
            times["compiled"] = median_ms(lambda x: whole(x, weights, objective), inputs)
        except Exception as error:
            times["compiled_not_timed"] = f"torch.compile: {type(error).__name__}: {str(error)[:200]}"
    return times


def time_step(gpu: Any, F: int, active: int, skewed: bool) -> dict[str, Any]:
    """One size: the encoder's product alone, the sparse step, the dense one, the peer's."""
    x_BD, weights = problem(BATCH, WIDTH, F, active, "cuda", skewed)
    inputs, objective = [x_BD, x_BD.flip(0).contiguous(), x_BD.roll(1, 0)], Objective(0.3)
    gradients, workspace, kept = like(weights, 0.0), gpu.Workspace(F, weights.b_enc_F), gpu.DENSE_ABOVE
    row: dict[str, Any] = {"F": F, "skewed": skewed}
    row["L0"] = gpu.step(x_BD, weights, gradients, objective, workspace).active_F.double().sum().item() / BATCH
    z_BF = workspace.rows(BATCH)
    if len(z_BF) == BATCH:
        row["encoder"] = median_ms(lambda x: torch.mm(x, weights.W_enc_DF, out=z_BF), inputs)
    else:
        row["encoder"] = median_ms(lambda x: torch.mm(x, weights.W_enc_DF), inputs)
    for path, above in (("sparse", 1.0), ("dense", -1.0)):
        gpu.DENSE_ABOVE = above
        torch.cuda.reset_peak_memory_stats()
        row[path] = median_ms(lambda x: gpu.step(x, weights, gradients, objective, workspace), inputs)
        row[f"{path}_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    gpu.DENSE_ABOVE = kept
    try:
        theirs = peer(active)
        row["sparsify"] = median_ms(lambda x: theirs(x, weights), inputs)
    except Exception as error:
        row["sparsify_not_timed"] = f"sparsify: {type(error).__name__}: {str(error)[:200]}"
    return row


def time_adam(gpu: Any, copy_tb_per_s: float) -> list[dict[str, Any]]:
    """An update of every size against torch's fused one, and the time to read g, m, v, W and write m, v, W."""
    print("\nupdate, ms          ours  with unit norm  torch fused  floor  floor/ours")
    rows = []
    for F in FEATURES:
        row = time_update(gpu, F)
        row["floor"] = 7 * 4 * (2 * WIDTH * F + WIDTH + F) / copy_tb_per_s / 1e9
        cells = f"{row['ours']:8.3f} {row['unit_norm']:15.3f} {row['torch_fused']:12.3f} {row['floor']:6.3f}"
        print(f"{F:15} {cells} {row['floor'] / row['ours']:11.2f}", flush=True)
        rows.append(row)
        torch.cuda.empty_cache()
    return rows


def time_update(gpu: Any, F: int) -> dict[str, Any]:
    _, weights = problem(1, WIDTH, F, 1.0, "cuda")
    g, m, v = (like(weights, 0.0) for _ in range(3))
    for gradient, weight in zip(g, weights, strict=True):
        gradient.normal_()
        weight.grad = gradient
    fused = torch.optim.Adam(list(weights), lr=1e-3, fused=True)

    def update(how: Adam) -> None:
        gpu.adam(weights, g, m, v, how)

    return {
        "F": F,
        "ours": median_ms(update, [Adam(1e-3, 5, (0.9, 0.99))]),
        "unit_norm": median_ms(update, [Adam(1e-3, 5, (0.9, 0.99), unit_norm=True)]),
        "torch_fused": median_ms(lambda _: fused.step(), [None]),
    }


def time_parts(gpu: Any) -> list[dict[str, Any]]:
    """Where the time of a step goes, kernel by kernel."""
    from torch.profiler import ProfilerActivity, profile

    rows = []
    for F, active in ((10_000, 100), (32_768, 100), (32_768, 1000), (131_072, 32)):
        x_BD, weights = problem(BATCH, WIDTH, F, active, "cuda", skewed=True)
        gradients, workspace = like(weights, 0.0), gpu.Workspace(F, weights.b_enc_F)
        for _ in range(3):
            gpu.step(x_BD, weights, gradients, Objective(0.3), workspace)
        with profile(activities=[ProfilerActivity.CUDA]) as record:
            for _ in range(5):
                gpu.step(x_BD, weights, gradients, Objective(0.3), workspace)
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


def tune(gpu: Any) -> list[dict[str, Any]]:
    """Step times for other shapes of a program's work; each gives the same numbers up to rounding."""
    names = ("GATHERED", "PER_WARP", "STAGES", "CHUNK", "BUSIEST_FIRST")
    kept, rows = tuple(getattr(gpu, name) for name in names), []
    print(f"\nshapes of a program's work, ms of a step, F = {FEATURES[1]}, skewed, L0 about {ACTIVE[1:]}")
    problems = [problem(BATCH, WIDTH, FEATURES[1], active, "cuda", skewed=True) for active in ACTIVE[1:]]
    gradients = like(problems[0][1], 0.0)
    workspace, above, usual = gpu.Workspace(FEATURES[1], gradients.b_enc_F), gpu.DENSE_ABOVE, []
    shapes = [(g, p, 1, *kept[3:]) for g in (2048, 4096, 8192, 16384) for p in (128, 256, 512)]
    shapes += [(g, p, s, *kept[3:]) for g, p in ((2048, 256), (4096, 256), (8192, 128)) for s in (2, 3)]
    gpu.DENSE_ABOVE = 1.0
    for shape in [kept, *shapes, (*kept[:3], 1024, True), (*kept[:3], 4096, True), (*kept[:4], False)]:
        for name, value in zip(names, shape, strict=True):
            setattr(gpu, name, value)
        times, far = [], 0.0
        for n, (x_BD, weights) in enumerate(problems):

            def call(x: Tensor, weights: Weights = weights) -> Any:
                return gpu.step(x, weights, gradients, Objective(0.3), workspace)

            times.append(median_ms(call, [x_BD], 0.2))
            if shape == kept:
                usual[n:] = [Weights(*(g.clone() for g in gradients))]
            far = max(far, *(away(a, b) for a, b in zip(gradients, usual[n], strict=True)))
        rows.append(dict(zip(names, shape, strict=True)) | {"ms": times, "far": far, "ok": far <= NEAR})
        what = ", ".join(f"{name} {value}" for name, value in zip(names, shape, strict=True))
        print(f"  {what:72} {' '.join(f'{t or math.nan:8.3f}' for t in times)}  {far:.1e} away", flush=True)
    for name, value in zip(names, kept, strict=True):
        setattr(gpu, name, value)
    gpu.DENSE_ABOVE = above
    return rows


def compile_for(capability: int) -> int:
    """Every kernel through Triton's compiler as `step` and `adam` call it; on a machine without a GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    from unmix.kernels import gpu

    class Nowhere:
        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: Any = None) -> int:
            return 0

    run, done = JITFunction.run, []

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        assert "cubin" in kernel.asm, f"{self.fn.__name__} was not compiled"
        done.append(self.fn.__name__)
        return kernel

    driver.set_active(Nowhere())
    JITFunction.run = only_compile
    torch.empty = torch.zeros  # no kernel runs: nothing is active
    for D, F in ((768, 300), (5, 7), (5000, 33)):
        _, weights = problem(4, D, F, 1.0, "cpu")
        spare = [like(weights, 0.0) for _ in range(3)]
        for objective in (Objective(0.3), Objective(0.0, "tanh_relu", False, 2, Noise(1.0, 2**63), True)):
            gpu.step(torch.zeros(4, D), weights, spare[0], objective, gpu.Workspace(F, weights.b_enc_F))
        for unit_norm in (False, True):
            gpu.adam(weights, *spare, Adam(1e-3, 1, (0.9, 0.99), 1.0, unit_norm))
    names = {name for name in vars(gpu) if name.endswith("_kernel")}
    print(f"compiled for {capability}: {', '.join(sorted(set(done)))}")
    return 0 if set(done) == names else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--interpret", action="store_true", help="checks at tiny sizes, no GPU needed")
    parser.add_argument("--compile", type=int, metavar="CAPABILITY", help="only compile, e.g. for 90; no GPU needed")
    parser.add_argument("--no-torch-compile", action="store_true", help="leave the torch.compile column out")
    args = parser.parse_args()
    os.environ["TRITON_INTERPRET"] = "1" if args.interpret else "0"
    if args.compile:
        return compile_for(args.compile)
    if not args.interpret and not torch.cuda.is_available():
        print("no CUDA device: nothing to check (--interpret runs the checks on the CPU)")
        return 2
    import triton

    from unmix.kernels import gpu

    found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__}
    if args.interpret:
        gpu.CHUNK, gpu.GATHERED = 8, 16  # several chunks and rounds at sizes this small
        print(f"Triton's interpreter, torch {torch.__version__}, triton {triton.__version__}\nchecks")
        checks = check(gpu, "cpu", tiny=True)
    else:
        device = torch.cuda.get_device_properties(0)
        found |= {"device": device.name, "memory_gb": device.total_memory / 1e9, **floors()}
        print(", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()))
        print("checks", flush=True)
        checks = check(gpu, "cuda", tiny=False)
        torch.cuda.empty_cache()
    found["checks"] = checks.rows
    if not args.interpret:
        parts: dict[str, Callable[[], Any]] = {
            "step_ms": lambda: time_steps(gpu, not args.no_torch_compile),
            "adam_ms": lambda: time_adam(gpu, found["copy_tb_per_s"]),
            "tuning": lambda: tune(gpu),
            "parts": lambda: time_parts(gpu),
        }
        for name, part in parts.items():
            try:
                found[name] = part()
            except Exception as error:  # the other numbers are worth having
                print(f"{name}: {type(error).__name__}: {error}")
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    wrong = [row for row in [*checks.rows, *found.get("tuning", [])] if not row["ok"]]
    print(f"\n{'WRONG: ' + str(len(wrong)) + ' checks' if wrong else 'all checks right'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
