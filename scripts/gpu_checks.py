"""Every GPU kernel against formulas in float64, on fresh random inputs; memory is full of NaN before."""

from __future__ import annotations

import math
import os
import traceback
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from gpu_clock import late
from gpu_problem import away, exact, formulas, rows, task
from torch import Tensor

from unmix.bench.step_gpu import like, mapped, problem
from unmix.dictionary.nonlinearities import JumpRelu, TanhRelu
from unmix.dictionary.terms import AuxK, PreActivation
from unmix.kernels import gpu, gpu_adam, gpu_covers, gpu_find, gpu_largest, gpu_noise, gpu_sparse, reference
from unmix.kernels.gpu_workspace import Workspace, go
from unmix.kernels.reference import adam
from unmix.kernels.task import Adam, Noise, Sums, Task, Weights

NEAR = 1e-5  # ||out - ref|| / ||ref||, for sums in float32


class Checks:
    """What was compared, how far apart it was, and whether that is near enough."""

    def __init__(self, until: float = math.inf) -> None:
        self.until, self.rows = until, list[dict[str, Any]]()
        self.left_out: list[str] = []
        """What there was no time for: nothing is begun after `until`, by `time.monotonic`."""

    def add(self, name: str, far: float, near: float = NEAR) -> None:
        self.rows.append({"check": name, "far": far, "near": near, "ok": far <= near})
        if far > near:
            print(f"  WRONG  {name}: {far:.3g} away, {near:.0e} allowed", flush=True)

    def worst(self, prefix: str) -> None:
        rows = [row for row in self.rows if row["check"].startswith(prefix + " ")]
        if not rows:  # on a GPU alone
            return
        right, far = sum(row["ok"] for row in rows), max(row["far"] for row in rows)
        print(f"  {prefix:<10} {right} of {len(rows)} right, at most {far:.2g} away", flush=True)


def check(device: str, tiny: bool, compiled: bool = False, until: float = math.inf) -> Checks:
    """Every kernel on random inputs (torch's seed is the caller's), with poisoned outputs; and the portable step,
    `compiled` too."""
    checks = Checks(until)
    if tiny:
        gpu_find.CHUNK, gpu_largest.BLOCK, gpu_sparse.GATHERED = 16, 16, 32  # several rounds at sizes this small
    torch.use_deterministic_algorithms(True)  # what is not repeatable raises, and new memory is full of NaN
    parts = (
        check_steps,
        check_rows,
        check_near,
        check_stop,
        check_nan_and_tf32,
        check_noise,
        check_adam,
        check_members,
        *portable_parts(compiled),
    )
    for part in parts:
        if late(until):
            checks.left_out.append(part.__name__)
            continue
        try:
            part(checks, device, tiny)
        except Exception as error:  # the other checks, and the timings, are worth having
            traceback.print_exc()
            checks.add(f"{part.__name__}: {type(error).__name__}: {error}", math.inf)
    torch.use_deterministic_algorithms(False)
    for prefix in ("step", "row", "near", "stop", "noise", "adam", "late", "portable"):
        checks.worst(prefix)
    return checks


def portable_parts(compiled: bool) -> tuple[Callable[[Checks, str, bool], None], ...]:
    """The checks of the portable step, where its packages are."""
    if find_spec("numba") is None:
        print("  portable   left out: numba is not installed", flush=True)
        return ()
    from gpu_portable import check_compiled, check_portable, check_portable_bf16

    return check_portable, check_portable_bf16, *((check_compiled,) if compiled else ())


def check_steps(checks: Checks, device: str, tiny: bool) -> None:
    if tiny:
        shapes = [(5, 7, 11, 3.0), (1, 1, 1, 0.5), (3, 5, 13, 13.0)]
    else:
        shapes = [(4096, 768, 10_000, 100.0), (1, 1, 1, 0.5), (100, 5, 4097, 0.0), (33, 1001, 5003, 5003.0)]
        shapes += [(1000, 2304, 20_001, 32.0), (257, 64, 70_001, 300.0), (4096, 768, 32_768, 1000.0)]
    tasks = [
        task(0.3),
        task(3.0, TanhRelu(), norm_power=1),
        task(0.3, weigh=False, unit_norm=True, norm_power=2),
        task(0.3, TanhRelu(), noise=Noise(0.7, 2**63 + 12345)),
    ]
    for n, (B, D, F, active) in enumerate(shapes):
        for m, asked in enumerate(tasks if n == 0 else tasks[n % 3 : n % 3 + 1]):
            for path, step, tile in (
                ("sparse", sparse_step, B),
                ("tiled", sparse_step, (B + 2) // 3),
                ("dense", gpu.dense_step, B),
            ):
                x_BD, weights = problem(B, D, F, active, device, skewed=F > 100)
                if asked.unit_norm:
                    weights["W_dec"].div_(weights["W_dec"].norm(dim=1, keepdim=True))
                workspace = Workspace(F, weights["b_enc"])
                workspace.tile = tile
                mine, again = like(weights, math.nan), like(weights, math.nan)
                got, _ = step(x_BD, x_BD, weights, mine, asked, workspace)
                square = gpu_adam.finish(weights, mine, asked.unit_norm)
                twice, _ = step(x_BD, x_BD, weights, again, asked, workspace)
                square_again = gpu_adam.finish(weights, again, asked.unit_norm)
                z_BF = x_BD @ weights["W_enc"]  # exact
                if asked.noise:
                    gpu_noise.add_noise(z_BF, asked.noise, 0)
                z_BF += weights["b_enc"]
                gradients, square_64, sums = formulas(
                    x_BD.double(), mapped(Tensor.double, weights), asked, z_BF.double()
                )
                name = f"step {B}x{D}x{F} {path} {m if n == 0 else n % 3}"
                for field, want in gradients.items():
                    checks.add(f"{name} {field}", away(mine[field], want))
                checks.add(f"{name} gradient_square", away(square, square_64))
                for field, want in sums.items():
                    checks.add(f"{name} {field}", away(getattr(got, field), want), 0 if field == "active_F" else NEAR)
                same = all(torch.equal(gradient, again[field]) for field, gradient in mine.items())
                for field in sums:
                    one, other = (torch.as_tensor(getattr(found, field)) for found in (got, twice))
                    same = same and torch.equal(one, other)
                same = same and square == square_again
                checks.add(f"{name} twice the same bits", 0.0 if same else math.inf)


def sparse_step(
    x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, asked: Task, workspace: Workspace
) -> tuple[Sums, float]:
    """With room for whatever there is."""
    found = gpu.step(x_BD, y_BE, weights, gradients, asked, workspace)
    assert found is not None
    return found


def check_rows(checks: Checks, device: str, tiny: bool) -> None:
    """Every row of the table against the definition, by autograd in float64; a target of another width."""
    shapes = (
        [(3, 7, 5, 21, 3)]
        if tiny
        else [(2048, 768, 512, 10_000, 100), (100, 70, 65, 4097, 5), (33, 16, 16, 131_072, 64)]
    )
    for B, D, E, F, k in shapes:
        x_BD, weights = problem(B, D, F, float(k), device, skewed=F > 100)
        y_BE, weights = torch.randn(B, E, device=device), weights | {"b_dec": torch.randn(E, device=device)}
        weights = exact(weights | {"W_dec": torch.randn(F, E, device=device)})
        for name, asked in rows(F, k, device).items():
            assert gpu_covers.covers(asked), name
            own = weights if isinstance(asked.phi, JumpRelu) else {n: w for n, w in weights.items() if n != "threshold"}
            if asked.unit_norm:
                own = own | {"W_dec": own["W_dec"] / own["W_dec"].norm(dim=1, keepdim=True)}
            workspace = Workspace(F, own["b_enc"])
            workspace.tile = (B + 1) // 2
            mine, again, exactly = like(own, math.nan), like(own, math.nan), mapped(Tensor.double, like(own, math.nan))
            got, _ = sparse_step(x_BD, y_BE, own, mine, asked, workspace)
            twice, _ = sparse_step(x_BD, y_BE, own, again, asked, workspace)
            torch.use_deterministic_algorithms(False)  # which the definition's `kthvalue` is not, by its name
            want = reference.step(x_BD.double(), y_BE.double(), mapped(Tensor.double, own), exactly, asked)
            torch.use_deterministic_algorithms(True)
            name = f"row {name} {B}x{D}x{E}x{F}"
            for field, gradient in exactly.items():
                checks.add(f"{name} {field}", away(mine[field], gradient))
            for field in ("squared_error", "terms", "penalty", "square_B"):
                checks.add(f"{name} {field}", away(getattr(got, field), getattr(want, field)))
            checks.add(f"{name} active_F", away(got.active_F, want.active_F), 0)
            checks.add(f"{name} threshold", away(got.threshold or 0.0, want.threshold or 0.0))
            same = all(torch.equal(gradient, again[field]) for field, gradient in mine.items())
            same = same and got.terms == twice.terms and torch.equal(got.square_B, twice.square_B)
            checks.add(f"{name} twice the same bits", 0.0 if same else math.inf)
            if gpu_covers.dense_covers(asked):
                got, _ = gpu.dense_step(x_BD, y_BE, own, mine, asked, workspace)
                for field, gradient in exactly.items():
                    checks.add(f"{name} dense {field}", away(mine[field], gradient))
                checks.add(f"{name} dense terms", away(got.terms, want.terms))
                checks.add(f"{name} dense active_F", away(got.active_F, want.active_F), 0)


def check_near(checks: Checks, device: str, tiny: bool) -> None:
    """Candidates found in TF32, on numbers that it rounds: the definition, but for what lies within float32's rounding
    of a floor. A topk that takes another of two features next to each other shows in a gradient as one in thousands."""
    shapes = [(5, 33, 65, 3)] if tiny else [(2048, 768, 10_000, 60), (257, 2304, 30_001, 100)]
    for B, D, F, k in shapes:
        x_BD = torch.randn(B, D, device=device)
        x_BD[:, 1] *= 30  # a dimension that outweighs others
        weights = {
            "W_enc": torch.randn(F, D, device=device).T / math.sqrt(D),
            "W_dec": torch.randn(F, D, device=device),
        }
        weights |= {"b_enc": torch.full((F,), -2.0, device=device), "b_dec": torch.randn(D, device=device)}
        tasks = {name: rows(F, k, device)[name] for name in ("relu", "topk, four times k", "batchtopk")}
        for name, asked in tasks.items():
            asked = asked._replace(objective=tuple(row for row in asked.objective if not isinstance(row[1], AuxK)))
            mine, exactly = like(weights, math.nan), mapped(Tensor.double, like(weights, math.nan))
            got, _ = sparse_step(x_BD, x_BD, weights, mine, asked, Workspace(F, weights["b_enc"], near=True))
            again, _ = sparse_step(x_BD, x_BD, weights, like(weights, 0.0), asked, Workspace(F, weights["b_enc"], True))
            torch.use_deterministic_algorithms(False)
            want = reference.step(x_BD.double(), x_BD.double(), mapped(Tensor.double, weights), exactly, asked)
            torch.use_deterministic_algorithms(True)
            label, near = f"near {name} {B}x{D}x{F}", NEAR if name == "relu" else 3e-3
            for field, gradient in exactly.items():
                checks.add(f"{label} {field}", away(mine[field], gradient), near)
            checks.add(f"{label} squared_error", away(got.squared_error, want.squared_error))
            changed = (got.active_F.double() - want.active_F.double()).abs().sum() / want.active_F.double().sum()
            checks.add(f"{label} active", changed.item(), 1e-5)
            checks.add(f"{label} twice the same bits", 0.0 if torch.equal(got.square_B, again.square_B) else math.inf)


def check_stop(checks: Checks, device: str, tiny: bool) -> None:
    """Without room nothing is written, nor updated; with more it is taken anew."""
    B, D, F = (4, 7, 21) if tiny else (512, 768, 10_000)
    x_BD, weights = problem(B, D, F, F / 10, device)
    weights["b_enc"][0] = 100.0  # always active, so that no room for anything is too little room
    asked, workspace, stop_1 = task(0.3), Workspace(F, weights["b_enc"]), go(x_BD)
    gradients, before = like(weights, math.nan), mapped(Tensor.clone, weights)
    workspace.make_room("entries", 0)
    pending = gpu.launch(x_BD, x_BD, weights, gradients, asked, workspace, stop_1)
    first, second, ones = like(weights, 0.0), like(weights, 0.0), like(weights, 1.0)
    gpu_adam.adam(weights, ones, first, second, Adam(1e-2, 1, (0.9, 0.99)), stop_1)
    read = pending.read()
    untouched = all(g.isnan().all() for name, g in gradients.items() if name != "b_dec")
    still = all(torch.equal(weights[name], w) for name, w in before.items()) and not first["W_dec"].any()
    checks.add("stop no gradient, no update", 0.0 if read.stopped and untouched and still else math.inf)
    got, _ = sparse_step(x_BD, x_BD, weights, gradients, asked, workspace)
    checks.add("stop taken anew", away(got.active_F.sum(), read.needed), 0)


def check_nan_and_tf32(checks: Checks, device: str, tiny: bool) -> None:
    B, D, F = (5, 7, 11) if tiny else (512, 768, 1000)
    asked = task(0.3)
    x_BD, weights = problem(B, D, F, F / 2, device)
    x_BD += torch.randn_like(x_BD)  # more digits than TF32 has
    weights["W_enc"].add_(torch.randn_like(weights["W_enc"]) / math.sqrt(D))
    weights["b_enc"].fill_(20.0)  # z is far from 0
    gradients, _, _ = formulas(x_BD.double(), mapped(Tensor.double, weights), asked)
    for path, step in (("sparse", sparse_step), ("dense", gpu.dense_step)):
        workspace, mine = Workspace(F, weights["b_enc"]), like(weights, math.nan)
        torch.set_float32_matmul_precision("high")  # someone else's wish for TF32
        try:
            step(x_BD, x_BD, weights, mine, asked, workspace)
        finally:
            torch.set_float32_matmul_precision("highest")
        checks.add(f"step {path} without TF32", max(away(mine[name], want) for name, want in gradients.items()))
        broken_BD = x_BD.clone()
        broken_BD[B // 2, D // 2] = math.nan
        got, _ = step(broken_BD, broken_BD, weights, mine, asked, workspace)
        square = gpu_adam.finish(weights, mine, False)
        seen = math.isnan(got.squared_error) and math.isnan(square) and got.active_F.min() > 0
        checks.add(f"step {path} shows NaN", 0.0 if seen else math.inf)
    if device == "cuda":
        for name, asked in rows(F, 5, device).items():
            if "four" not in name and not any(isinstance(term, AuxK | PreActivation) for _, term in asked.objective):
                checks.add(f"step {name}: times that the host waits", waits(exact(weights), asked), 0)


def waits(weights: Weights, asked: Task) -> int:
    """How often a step and an update stop the host until the device is done, by torch's own count."""
    weights = weights if isinstance(asked.phi, JumpRelu) else {n: w for n, w in weights.items() if n != "threshold"}
    x_BD, (gradients, first, second) = (
        torch.zeros(4, len(weights["b_dec"]), device="cuda"),
        (like(weights, 0.0) for _ in range(3)),
    )
    workspace, stop_1 = Workspace(len(weights["b_enc"]), weights["b_enc"]), go(x_BD)

    def launch() -> None:
        pending = gpu.launch(x_BD, x_BD, weights, gradients, asked, workspace, stop_1)
        square_1 = gpu_adam.square(weights, gradients, asked.unit_norm)
        gpu_adam.stop_unless_finite(stop_1, pending.number_K, square_1)
        how = Adam(0.0, 1, (0.9, 0.99))
        gpu_adam.adam(weights, gradients, first, second, how, stop_1, gpu_adam.shrink(square_1, 1.0))

    launch()  # compiles, and makes the memory
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        launch()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in seen)


def check_members(checks: Checks, device: str, tiny: bool) -> None:
    """Whole members, on a GPU and where the packages of a run are: in the interpreter the tests train smaller ones."""
    if not tiny and find_spec("pydantic") is not None:
        from gpu_late import check_late

        torch.use_deterministic_algorithms(False)  # the definition of a topk is not, on a GPU
        try:
            check_late(checks, device)
        finally:
            torch.use_deterministic_algorithms(True)


def check_noise(checks: Checks, device: str, tiny: bool) -> None:
    def mix(x: Any) -> Any:
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    for T, F in [(3, 7), (2, 1030)] if tiny else [(513, 10_001), (7, 131_072), (5, 1)]:
        key, first = int.from_bytes(os.urandom(8), "little"), 1000
        z_TF = torch.zeros(T, F, device=device)
        gpu_noise.add_noise(z_TF, Noise(0.5, key), first)
        row_T1 = mix(np.uint64([key]) ^ mix(np.arange(first, first + T, dtype=np.uint64)))[:, None]
        bits = mix(row_T1 + np.arange((F + 1) // 2, dtype=np.uint64))
        radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)) + 0.5) * 2.0**-32))
        angle = 2 * np.pi * ((bits & np.uint64(2**32 - 1)) + 0.5) * 2.0**-32
        want = 0.5 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2).reshape(T, -1)[:, :F]
        checks.add(f"noise {T}x{F}", away(z_TF, torch.from_numpy(want)), 1e-6)
        checks.add(f"noise {T}x{F} worst", float(np.abs(z_TF.cpu().numpy() - want).max()), 1e-5)


def check_adam(checks: Checks, device: str, tiny: bool) -> None:
    for D, F in [(5, 7), (1, 3)] if tiny else [(768, 10_000), (1001, 777), (1, 5), (5000, 33)]:
        for unit_norm in (False, True):
            _, weights = problem(1, D, F, 1.0, device)
            first, second = like(weights, 0.0), like(weights, 0.0)
            exact = [mapped(Tensor.double, kept) for kept in (weights, first, second)]
            for number in range(1, 4):
                g = mapped(lambda w: torch.randn_like(w) * 10.0 ** (-number), weights)  # noqa: B023
                how = Adam(1e-2, number, (0.9, 0.99), 0.5, unit_norm)
                gpu_adam.adam(weights, g, first, second, how)
                adam(exact[0], mapped(Tensor.double, g), exact[1], exact[2], how)
            for part, mine, ref in zip("Wmv", (weights, first, second), exact, strict=True):
                for field, want in ref.items():
                    checks.add(f"adam {D}x{F} {unit_norm} {part} {field}", away(mine[field], want), 2e-6)
