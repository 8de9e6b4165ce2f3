"""The portable step's products in float32 and in bf16, as they are and with the pass and its terms compiled.

    python benchmarks/portable.py [--width 576] [--features 8192] [--tokens 512] [--rounds 7] [--json FILE]

Milliseconds of a step, medians over rounds in which all ways take turns, in the opposite order the next time. What
`torch.compile` takes to compile is printed beside them. Needs a C++ compiler for that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from unmix.dictionary.nonlinearities import BatchTopK, JumpRelu, Nonlinearity, Relu, TopK
from unmix.dictionary.terms import L0, L1, Objective, SquaredError
from unmix.kernels import autocast, compiled, reference, tiles
from unmix.kernels.task import Task
from unmix.kernels.trial import SETTLED, seeded_weights
from unmix.machine import cpu_name

ERROR = (1.0, SquaredError())
KINDS: dict[str, tuple[Nonlinearity, Objective]] = {
    "relu": (Relu(), (ERROR, (1.0, L1()))),
    "jumprelu": (JumpRelu(), (ERROR, (1.0, L0()))),
    "topk": (TopK(40), (ERROR,)),
    "batchtopk": (BatchTopK(40), (ERROR,)),
}


WAYS: dict[str, tiles.Launch] = {
    "fp32": reference.launch,
    "fp32, compiled": partial(reference.launch, passed=compiled.passed),
    "bf16": autocast.launch,
    "bf16, compiled": partial(autocast.launch, passed=compiled.passed),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(args.tokens, args.width, generator=generator)
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {args}")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, (phi, objective) in KINDS.items():
        weights = seeded_weights(args.width, args.features, SETTLED, generator) | phi.start(args.features)
        gradients, task = {name: torch.empty_like(w) for name, w in weights.items()}, Task(phi, objective)

        def step(way: tiles.Launch) -> float:
            began = time.perf_counter()
            tiles.step(x_BD, x_BD, weights, gradients, task, way)  # noqa: B023
            return 1e3 * (time.perf_counter() - began)

        first = {name: step(way) for name, way in WAYS.items()}
        taken: dict[str, list[float]] = {name: [] for name in WAYS}
        for number in range(args.rounds):
            for name in WAYS if number % 2 == 0 else reversed(WAYS):
                taken[name].append(step(WAYS[name]))
        medians = {name: statistics.median(times) for name, times in taken.items()}
        found[kind] = {"first": first, "median": medians}
        each = ", ".join(f"{name} {ms:.0f} (first {first[name] / 1e3:.1f} s)" for name, ms in medians.items())
        print(f"{kind}: {each}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
