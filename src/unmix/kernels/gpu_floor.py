"""What a GPU does at best: products in float32 and in TF32, bytes copied, rows of a table gathered (Triton)."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import triton
import triton.language as tl

from unmix.kernels.gpu_launch import products


def median_ms(
    call: Callable[[Any], Any], inputs: list[Any], seconds: float = 0.4, fewest: int = 5, most: int = 200
) -> float | None:
    """Median time of a call by the device's own clock, after a warm-up; the inputs take turns. None: no memory."""
    cuda: Any = torch.cuda
    try:
        for x in inputs * 2:
            call(x)
        cuda.synchronize()
        times: list[float] = []
        until = time.monotonic() + seconds
        while len(times) < fewest or (time.monotonic() < until and len(times) < most):
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            start.record()
            call(inputs[len(times) % len(inputs)])
            end.record()
            cuda.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def floors() -> dict[str, float]:
    """TFLOP/s of products in float32 and in TF32, TB/s of a copy (read and written), TB/s of gathers by table size."""
    torch.cuda.empty_cache()
    product = narrow = copy = None
    with suppress(torch.cuda.OutOfMemoryError):
        a, b = torch.randn(8192, 8192, device="cuda"), torch.randn(8192, 8192, device="cuda")
        with products(tf32=False):
            product = median_ms(lambda b: torch.mm(a, b), [b, b + 1])
        with products(tf32=True):
            narrow = median_ms(lambda b: torch.mm(a, b), [b, b + 1])
        big = torch.randn(2**29, device="cuda")
        copy = median_ms(lambda other: other.copy_(big), [torch.empty_like(big), torch.empty_like(big)])
    if not product or not narrow or not copy:
        raise MemoryError("about 7 GiB of free GPU memory are needed")
    rates = {"float32_tflops": 2 * 8192**3 / product / 1e9, "tf32_tflops": 2 * 8192**3 / narrow / 1e9}
    found = rates | {"copy_tb_per_s": 2 * 4 * 2**29 / copy / 1e9}
    for megabytes in (16, 32, 200, 2000):
        found[f"gather_{megabytes}_mb_tb_per_s"] = gathered(megabytes * 2**20 // (4 * 1024))
    return found


def gathered(rows: int, width: int = 1024, each: int = 128, programs: int = 4096) -> float:
    """TB/s at which random rows of a table are read and added up."""
    table = torch.randn(rows, width, device="cuda")
    indices = [torch.randint(0, rows, (programs, each), device="cuda", dtype=torch.int32) for _ in range(3)]
    out = torch.empty(programs, width, device="cuda")
    ms = median_ms(lambda i: gather_kernel[(programs,)](table, i, out, each, ROWS=8, WIDTH=width), indices)
    return 4 * width * each * programs / ms / 1e9 if ms else 0.0


@triton.jit
def gather_kernel(table, index, out, each, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    p, d = tl.program_id(0), tl.arange(0, WIDTH)
    total = tl.full((WIDTH,), 0, tl.float32)
    for n in tl.range(0, each, ROWS, num_stages=1):
        i = tl.load(index + p * each + n + tl.arange(0, ROWS)).to(tl.int64)
        total += tl.sum(tl.load(table + i[:, None] * WIDTH + d[None, :]), 0)
    tl.store(out + p * WIDTH + d, total)
