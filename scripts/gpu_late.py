"""Members trained on a GPU by its kernels, read late, beside the same by the definition; how often the host waits.

And replayed (`gpu_graph`) beside launched one by one: the same bits, and the time of both.
"""

from __future__ import annotations

import math
import time
import warnings
from itertools import product
from typing import Any

import torch
from gpu_clock import COMPILE, LATE, late
from gpu_problem import away

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import EVERY_TOKEN, SAEConfig, TrainingConfig
from unmix.errors import UserError
from unmix.training.late import EVERY, Late
from unmix.training.measure import measure
from unmix.training.member import Entry, Member, new_member
from unmix.training.schedule import Schedule

ROWS = {
    "relu": None,
    "relu, tf32": None,
    "topk, tf32": 20.0,
    "relu, L0 asked for": 20.0,
    "jumprelu": None,
    "topk": 20.0,
    "batchtopk": 20.0,
    "matryoshka": 20.0,
}
"""What is trained -> the L0 that it is asked for."""
NEAR = 1e-3  # after some steps in float32, each with other roundings


def check_late(checks: Any, device: str, *, D: int = 256, F: int = 2000, B: int = 512) -> None:
    """Adds to the checks; `device` may be the processor, whose kernels are read at once."""
    batches = [_batch(number, D, B, device) for number in range(2 * EVERY)]
    batches[5].activations["h"][0, 0] = math.nan
    for name, l0 in ROWS.items():
        if late(checks.until):
            checks.left_out.append(f"late {name}")
            continue
        selection = "tf32" if name.endswith("tf32") else "fp32"
        architecture = name.partition(",")[0]
        mine, theirs = (_member(architecture, l0, D, F, kernels, device, selection) for kernels in ("auto", "portable"))
        said = [_train(member, batches) for member in (mine, theirs)]
        checks.add(
            f"late {name}: what is said of a batch", 0.0 if said[0] == said[1] and len(said[0]) == 1 else math.inf
        )
        for field, want in theirs.weights.items():
            checks.add(f"late {name} {field}", away(mine.weights[field], want), NEAR)
        if device == "cuda":
            launched = _member(architecture, l0, D, F, "auto", device, selection)
            launched.step.replays = False
            _train(launched, batches)
            same = all(torch.equal(mine.weights[field], w) for field, w in launched.weights.items())
            checks.add(f"late {name}: a replayed step has the bits of a launched one", 0.0 if same else math.inf)
            checks.add(f"late {name}: steps are replayed", 0.0 if _recorded(mine) else math.inf)
            checks.add(f"late {name}: times that the host waits", _waits(mine, batches[EVERY:]), 0)


def _recorded(member: Member) -> int:
    """Steps that were recorded."""
    return sum(recorded is not None for _, recorded in member.step.replays._of.values())


TIMED = (256, 1024, 4096)
"""Tokens of a batch."""


def time_members(
    until: float = math.inf, D: int = 768, F: int = 10_000, l0: float = 60.0, steps: int = 80
) -> list[dict[str, Any]]:
    """ms of a whole step, by the host's clock, of a member that has settled: launched one by one and replayed.

    None is begun after `until`.
    """
    print(f"\na member's step, D={D}, F={F:,}, L0 {l0:g}: ms launched, replayed, replayed in tf32", flush=True)
    found = []
    for name in ("relu", "jumprelu", "topk", "batchtopk", "matryoshka"):
        row: dict[str, Any] = {"member": name, "D": D, "F": F, "l0": l0}
        for B in TIMED:
            if late(until):
                row[f"{B} tokens not timed"] = LATE
                continue
            batches = [_batch(number, D, B, "cuda") for number in range(EVERY)]
            member = _member(name, l0, D, F, "auto", "cuda")
            taking, first = Late(member, Schedule(10**6, 10, 10, 0)), 320 if name in ("relu", "jumprelu") else 40
            _steps(taking, batches, 0, first)
            for how, replays, selection in (
                ("launched", False, "fp32"), ("replayed", None, "fp32"), ("tf32", None, "tf32"),
            ):  # fmt: skip
                member.step.replays, member.step.select = replays, selection
                _steps(taking, batches, first, 2 * EVERY)
                began = time.perf_counter()
                _steps(taking, batches, first + 2 * EVERY, steps)
                row[f"{how}_{B}"], first = 1e3 * (time.perf_counter() - began) / steps, first + 2 * EVERY + steps
            torch.cuda.empty_cache()
        cells = [
            f"{B} tokens " + ", ".join(f"{row[f'{how}_{B}']:.2f}" for how in HOW)
            for B in TIMED
            if f"{HOW[0]}_{B}" in row
        ]
        print(f"{name:<10} " + "; ".join(cells), flush=True)
        found.append(row)
    return found


PORTABLE = (256, 4096)
WAYS = ("fp32", "bf16", "compiled")


def time_portable_members(
    compiled: bool, until: float = math.inf, device: str = "cuda", D: int = 768, F: int = 10_000, steps: int = 16
) -> list[dict[str, Any]]:
    """ms of a whole step, by the host's clock, of members that take the portable step, which a gated one always does.

    Compiled only at the most tokens.
    """
    print(f"\na member's portable step, D={D}, F={F:,}: ms in fp32, in bf16, compiled", flush=True)
    found = []
    for name, B in product(("relu", "gated"), PORTABLE):
        row: dict[str, Any] = {"member": name, "row": f"{B} tokens", "D": D, "F": F, "B": B}
        found.append(row)
        if late(until):
            row["not_timed"] = LATE
            continue
        batches = [_batch(number, D, B, device) for number in range(EVERY)]
        member = _member(name, None, D, F, "portable", device)
        taking, first, most = Late(member, Schedule(10**6, 10, 10, 0)), 0, max(PORTABLE) == B
        for way in WAYS:
            if way == "compiled" and not (compiled and most):
                continue
            if way == "compiled" and late(until, COMPILE):
                row[f"{way} not timed"] = LATE
                continue
            member.step.dense, member.step.compiled = "bf16" if way == "bf16" else "fp32", way == "compiled"
            try:
                _steps(taking, batches, first, EVERY)
                began = time.perf_counter()
                _steps(taking, batches, first + EVERY, steps)
            except UserError as error:  # torch cannot compile here
                row[f"{way} not timed"] = str(error)
                break
            row[way], first = 1e3 * (time.perf_counter() - began) / steps, first + EVERY + steps
        print(f"{name:<10} {B} tokens " + ", ".join(f"{row[way]:.2f}" for way in WAYS if way in row), flush=True)
    return found


HOW = ("launched", "replayed", "tf32")


def _steps(taking: Late, batches: list[Batch], first: int, steps: int) -> None:
    for step in range(first, first + steps):
        taking.take(step, batches[step % len(batches)])
    taking.settle()
    torch.cuda.synchronize()


def _batch(number: int, D: int, B: int, device: str) -> Batch:
    x_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(number))
    nowhere = torch.zeros(B, dtype=torch.int64)
    return Batch({"h": x_BD}, nowhere, nowhere).to(torch.device(device))


def _member(
    architecture: str, l0: float | None, D: int, F: int, kernels: str, device: str, selection: str = "fp32"
) -> Member:
    asked: dict[str, Any] = {"l1": [0.3]} if l0 is None else {"l0": [l0]}
    asked |= {"kernels": kernels, "mask": "none", "on_nonfinite": "skip", "selection": selection}
    training = TrainingConfig.model_validate(asked)
    sae = SAEConfig(features=F, architecture=architecture, auxk=0.0)
    head = _batch(-1, D, 512, device)
    facts, entry = measure(head, "h", sae, training, 0.3, []), Entry("m", "h", "", None if l0 else 0.3, l0)
    mask, where = Mask(EVERY_TOKEN, [], facts.median_norm), torch.device(device)
    return new_member(entry, D, config=sae, training=training, facts=facts, mask=mask, head=head, device=where)


def _train(member: Member, batches: list[Batch]) -> list[str]:
    taking = Late(member, Schedule(1000, 10, 10, 0))
    said = [line for step, batch in enumerate(batches) for line in taking.take(step, batch)]
    return said + taking.settle()


def _waits(member: Member, batches: list[Batch]) -> int:
    """Of so many steps, by torch's own count."""
    taking = Late(member, Schedule(1000, 10, 10, 0))
    rows = [(number, batch.pair("h")) for number, batch in enumerate(batches)]
    taking._launch(rows)  # compiles what is new, and makes the memory
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            taking._launch(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in seen)
