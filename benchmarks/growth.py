"""How our step grows with the number of features, at a constant number of active ones.

    python growth.py --features 10000 80000 --l0 100

Beside it the encoder's product alone: the step should grow as that does, and no more.
"""

from __future__ import annotations

import argparse
import gc
from statistics import median
from typing import Any

from common import Comparison, add_common, alternate, report, spread, use_threads
from step import gemms, make
from trainers import TRAINERS


def at(args: argparse.Namespace, precision: str, F: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of the step and of the product at F features; and the L0."""
    start, x_BD = make(args.width, F, args.tokens, args.l0, l1=args.l1, lr=1e-9)
    trainer = TRAINERS[f"unmix {precision}"](start)
    assert trainer.found is not None
    calls = {"step": lambda: trainer.step(x_BD), "gemm": gemms(start, x_BD)[f"gemm {precision}"]}
    return alternate(calls, args.rounds), trainer.found()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--l0", type=float, default=100)
    parser.add_argument("--l1", type=float, default=5.0)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--features", type=int, nargs="+", default=[10_000, 80_000], help="the first is the yardstick")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "int8"])
    args = parser.parse_args()
    use_threads(args.threads)
    rows: list[dict[str, Any]] = []
    comparisons: list[Comparison | None] = []
    for precision in args.precisions:
        first: dict[str, float] = {}
        for F in args.features:
            seconds, l0 = at(args, precision, F)
            gc.collect()
            now = {name: median(values) for name, values in seconds.items()}
            first = first or now
            grown = {name: now[name] / first[name] for name in now}
            row = {"precision": precision, "F": f"{F:,}", "L0": f"{l0:.1f}", "step, s": f"{now['step']:.3f}"}
            row |= {"step, spread": spread(seconds["step"]), "product, s": f"{now['gemm']:.3f}"}
            rows.append(row | {"step, times": f"{grown['step']:.2f}", "product, times": f"{grown['gemm']:.2f}"})
            if args.features[0] != F:
                what = f"growth of the {precision} step from F={args.features[0]:,} to {F:,}, over its product's"
                ratio = grown["step"] / grown["gemm"]
                values = (grown["step"], grown["gemm"], "x", ratio, 1.05)
                comparisons.append(Comparison(what, "step", "product", *values, "at most"))
    report(
        "growth.py", args, comparisons, rows, [f"L0 = {args.l0:g}, B = {args.tokens}"], args.json, args.name or "growth"
    )


if __name__ == "__main__":
    main()
