"""Every GPU kernel through Triton's compiler, on a machine without a GPU; nothing runs."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import torch
from gpu_problem import like, problem, task
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from unmix import kernels
from unmix.dictionary.nonlinearities import TanhRelu
from unmix.kernels import gpu, gpu_adam
from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.task import Adam, Noise


def compile_for(capability: int) -> int:
    """Every kernel through Triton's compiler as `step` and `adam` call it; on a machine without a GPU."""

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
        other = task(0.0, TanhRelu(), weigh=False, norm_power=2, noise=Noise(1.0, 2**63), unit_norm=True)
        for asked in (task(0.3), other):
            x_BD = torch.zeros(4, D)
            gpu.step(x_BD, x_BD, weights, spare[0], asked, Workspace(F, weights["b_enc"]))
        for unit_norm in (False, True):
            gpu_adam.adam(weights, *spare, Adam(1e-3, 1, (0.9, 0.99), 1.0, unit_norm))
    print(f"compiled for {capability}: {', '.join(sorted(set(done)))}")
    missing = kernel_names() - set(done)
    if missing:
        print(f"NOT compiled: {', '.join(sorted(missing))}")
    return 1 if missing else 0


def kernel_names() -> set[str]:
    """Of every file of GPU kernels."""
    files = [file.name for file in pkgutil.iter_modules(kernels.__path__) if file.name.startswith("gpu")]
    modules = [importlib.import_module(f"unmix.kernels.{name}") for name in files]
    return {name for module in modules for name in vars(module) if name.endswith("_kernel")}
