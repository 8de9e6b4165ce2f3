"""One training step of every library: same weights, same batch, in turns.

    python step.py --l0 100                    unmix, SAELens, dictionary_learning; the encoder's product alone
    python step.py --l0 64 --only unmix sparsify gemm
    python step.py --l0 5000 --only unmix dictionary SAELens gemm
    python step.py --check                     equal work: losses after 40 small steps from the same weights

The activations are Gaussian with E||x||² = D; the encoder's rows have norm 0.1, W_dec = W_encᵀ, and one number added
to every encoder bias brings the mean number of active features to L0 (by a product in fp32). The learning rate is
1e-9, so that it stays. Beside it stands how many features the steps of unmix themselves found to be active.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from common import Comparison, add_common, alternate, compare, fastest, report, spread, use_threads
from torch import Tensor
from trainers import TRAINERS, Four, Start

SAELENS_FP32 = ("SAELens fp32", "SAELens fp32 compiled")
SAELENS_BF16 = ("SAELens autocast", "SAELens autocast compiled")
SPARSIFY = ("sparsify adam", "sparsify signum")


def make(D: int, F: int, B: int, l0: float, *, l1: float, lr: float, seed: int = 0) -> tuple[Start, Tensor]:
    """Weights, and a batch on which l0 features are active on average."""
    generator = torch.Generator().manual_seed(seed)
    W_FD = torch.randn(F, D, generator=generator)
    W_FD *= 0.1 / W_FD.norm(dim=1, keepdim=True)
    x_BD = torch.randn(B, D, generator=generator)
    z_TF = x_BD[:256] @ W_FD.T
    threshold = z_TF.flatten().kthvalue(round(z_TF.numel() * (1 - l0 / F))).values
    return Start(W_FD, -threshold.expand(F).clone(), W_FD.clone(), torch.zeros(D), l1, lr, B), x_BD


def mean_l0(weights: Four, x_BD: Tensor) -> float:
    """Active features per token by x W_enc + b_enc > 0."""
    with torch.no_grad():
        counts = [((x @ weights.W_enc_DF + weights.b_enc_F) > 0).sum().item() for x in x_BD.split(256)]
    return sum(counts) / len(x_BD)


def loss(weights: Four, x_BD: Tensor, l1: float) -> float:
    """The shared objective, in float64."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = (w.detach().double() for w in weights)
    x_BD = x_BD.double()
    f_BF = torch.relu(x_BD @ W_enc_DF + b_enc_F)
    square_B = (f_BF @ W_dec_FD + b_dec_D - x_BD).square().sum(1)
    return (square_B + l1 * (f_BF * W_dec_FD.norm(dim=1)).sum(1)).mean().item()


def gemms(start: Start, x_BD: Tensor) -> dict[str, Callable[[], object]]:
    """The encoder's product alone: of several layouts and tiles, the fastest."""
    from unmix.bench.floor import encoder_product, whole_product

    found: dict[str, Callable[[], object]] = {}
    for name, dtype in (("gemm fp32", torch.float32), ("gemm bf16", torch.bfloat16)):
        found[name] = encoder_product(x_BD.to(dtype), start.W_enc_FD.to(dtype), start.b_enc_F.to(dtype)).call
    whole_FD, whole_BD = (w.mul(50).clamp(-127, 127).to(torch.int8) for w in (start.W_enc_FD, x_BD))
    found["gemm int8"] = whole_product(whole_BD, whole_FD).call
    return found


def chosen(only: list[str] | None, compiled: bool) -> list[str]:
    """The contenders whose names begin with one of these words."""
    names = [name for name in TRAINERS if compiled or "compiled" not in name]
    if only is None:
        return [name for name in names if not name.startswith("sparsify")]
    return [name for name in names if name.startswith(tuple(only))]


def time_steps(args: argparse.Namespace) -> None:
    """The table of one L0."""
    start, x_BD = make(args.width, args.features, args.tokens, args.l0, l1=args.l1, lr=1e-9)
    trainers = {name: TRAINERS[name](start) for name in chosen(args.only, args.compiled)}
    before = {name: mean_l0(trainer.weights(), x_BD) for name, trainer in trainers.items()}
    calls: dict[str, Callable[[], object]] = {n: (lambda t=t: t.step(x_BD)) for n, t in trainers.items()}
    if args.only is None or "gemm" in args.only:
        calls |= gemms(start, x_BD)
    gc.collect()
    seconds = alternate(calls, args.rounds)
    rows: list[dict[str, Any]] = []
    for name in seconds:
        found = trainers[name].found if name in trainers else None
        row = {
            "step": name,
            "ms": f"{1e3 * median(seconds[name]):,.0f}",
            "ms, spread": spread([1e3 * s for s in seconds[name]]),
        }
        row["tokens/s"] = f"{args.tokens / median(seconds[name]):,.0f}"
        row["L0"] = f"{before[name]:.1f}" if name in before else ""
        rows.append(row | {"L0 that it found": f"{found():.1f}" if found else ""})
    shape = f"D={args.width}, F={args.features:,}, B={args.tokens}, L0={args.l0:g}"
    name = args.name or f"step-l0-{args.l0:g}"
    report("step.py", args, comparisons(args, seconds), rows, [f"one training step at {shape}"], args.json, name)


def comparisons(args: argparse.Namespace, seconds: dict[str, list[float]]) -> list[Comparison | None]:
    """Each beside its target, for the contenders that ran."""

    def faster(what: str, ours: str, theirs: str, target: float) -> Comparison | None:
        return compare(f"step, L0={args.l0:g}: {what}", ours, theirs, seconds, target, args.tokens)

    dense = args.l0 > args.features / 10
    found = []
    if not dense:
        # int8 selection is compared with fp32 too: all that is computed of the dictionary is in fp32
        found += [faster(name, ours, name, 8) for name in SAELENS_FP32 for ours in ("unmix fp32", "unmix int8")]
        found += [faster(name, ours, name, 10) for name in SAELENS_BF16 for ours in ("unmix bf16", "unmix int8")]
        topk = fastest(SPARSIFY, seconds)
        found += [faster("sparsify TopK", ours, topk, 3.5) for ours in ("unmix fp32", "unmix int8")]
        share = "share of the encoder's product alone"
        found += [faster(f"{share}, fp32", "unmix fp32", "gemm fp32", 0.8)]
        found += [faster(f"{share}, bf16", "unmix bf16", "gemm bf16", 0.6)]
    else:
        found += [faster("SAELens, fp32", "unmix fp32", fastest(SAELENS_FP32, seconds), 1)]
        found += [faster("SAELens, autocast", "unmix bf16", fastest(SAELENS_BF16, seconds), 1)]
    # the products of dense steps are in fp32 there, and ours in bf16 are no equal work
    equal = ("fp32",) if dense else ("fp32", "bf16", "int8")
    return found + [faster("dictionary_learning", f"unmix {p}", "dictionary_learning", 1) for p in equal]


def check(args: argparse.Namespace) -> None:
    """Equal work: each library takes the same 40 small steps; the shared loss on a batch that none has seen."""
    D, B, steps, rows = 64, 512, 40, []
    for F, l0, l1 in ((512, 60, 0.5), (4096, 40, 20.0)):  # many features active, and few
        start, _ = make(D, F, B, l0, l1=l1, lr=1e-3 if l1 < 1 else 2e-4)
        batches = structured(D, B, steps + 1)
        for name in chosen(args.only or ["unmix", "SAELens", "dict"], args.compiled):
            trainer = TRAINERS[name](start)
            row = {"trainer": name, "F": F, "l1": l1, "lr": start.lr}
            row["loss before"] = f"{loss(trainer.weights(), batches[-1], l1):.5f}"
            for x_BD in batches[:-1]:
                trainer.step(x_BD)
            row["loss after"] = f"{loss(trainer.weights(), batches[-1], l1):.5f}"
            rows.append(row | {"L0 after": f"{mean_l0(trainer.weights(), batches[-1]):.2f}"})
    text = f"the same {steps} steps at D={D}, B={B}; the loss in float64 on a batch that none saw"
    report("step.py --check", args, [], rows, [text], args.json, args.name or "step-check")


def structured(D: int, B: int, number: int) -> list[Tensor]:
    """Batches of sparse sums of 128 hidden directions, at E||x||² ≈ D."""
    generator = torch.Generator().manual_seed(1)
    hidden_HD = torch.randn(128, D, generator=generator)
    batches = []
    for _ in range(number):
        on_BH = torch.rand(B, 128, generator=generator) < 0.05
        batches.append((torch.rand(B, 128, generator=generator) * on_BH * 0.7) @ hidden_HD)
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--l0", type=float, default=100)
    parser.add_argument("--l1", type=float, default=5.0)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--features", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="contenders whose names begin so; gemm is one")
    parser.add_argument("--compiled", action="store_true", help="also SAELens with compile_sae (needs a C++ compiler)")
    parser.add_argument("--check", action="store_true", help="equal work instead of timings")
    args = parser.parse_args()
    use_threads(args.threads)
    check(args) if args.check else time_steps(args)


if __name__ == "__main__":
    main()
