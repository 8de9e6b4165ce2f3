"""Every GPU kernel through Triton's compiler, on a machine without a GPU; nothing runs."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import torch
from gpu_problem import exact, rows, task
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from unmix import kernels
from unmix.bench.step_gpu import like, problem
from unmix.dictionary.nonlinearities import JumpRelu, TanhRelu
from unmix.kernels import gpu, gpu_adam
from unmix.kernels.gpu_floor import gather_kernel
from unmix.kernels.gpu_workspace import Workspace, go
from unmix.kernels.task import Adam, Noise

ROWS = ("relu", "topk", "abstopk", "matryoshka", "jumprelu", "jumprelu_tanh")
"""Of the table, with every form of every kernel among them."""


def compile_for(capability: int) -> int:
    """Every kernel through Triton's compiler as `step` and `adam` call it; on a machine without a GPU."""

    class Nowhere:
        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self) -> int:
            return capability  # what is compiled is kept by this number

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
    noisy = task(0.0, TanhRelu(), weigh=False, norm_power=2, noise=Noise(1.0, 2**63), unit_norm=True)
    for D, F, names in ((768, 300, ROWS), (5, 7, ("topk",))):
        _, weights = problem(4, D, F, 1.0, "cpu")
        weights, all_rows = exact(weights), rows(F, 2, "cpu")
        for asked in (noisy, *(all_rows[name] for name in names)):
            own = weights if isinstance(asked.phi, JumpRelu) else {n: w for n, w in weights.items() if n != "threshold"}
            spare, stop_1 = [like(own, 0.0) for _ in range(3)], go(weights["b_enc"])
            for near in (False, True):
                x_BD, workspace = torch.zeros(4, D), Workspace(F, weights["b_enc"], near)
                gpu.launch(x_BD, x_BD, own, spare[0], asked, workspace, stop_1)
        for unit_norm in (False, True):
            gpu_adam.square(own, spare[0], unit_norm)
            how = Adam(1e-3, 1, (0.9, 0.99), 1.0, unit_norm)
            gpu_adam.adam(own, *spare, how)
            gpu_adam.adam(own, *spare, how, stop_1, torch.ones(1))
    gather_kernel[(1,)](
        torch.zeros(8, 1024), torch.zeros(8, dtype=torch.int32), torch.zeros(1024), 8, ROWS=8, WIDTH=1024
    )
    JITFunction.run = run
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
