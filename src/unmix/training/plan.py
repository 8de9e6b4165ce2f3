"""What a run will take, before it begins: what it reads, operations, memory, disk, time on this machine.

The time is measured, not looked up: some steps of every member on the first chunk of activations, as training makes
them, and one more chunk. With n chunks of h seconds, S steps, c_m seconds a step of member m and l_m a line of its
metrics, of which there are L:

    time = n · h + Σ_m (S · c_m + L · l_m)

A member whose steps are dense when it begins may become sparse, and faster; nobody knows before when. For such a one
c_m is a range: from what a sparse step at the L0 that is asked for takes, by the trials of `precision`, up to what its
first steps take.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from unmix.activations.stream import Batch
from unmix.config import RunConfig
from unmix.kernels.dispatch import Scratch
from unmix.kernels.trial import BUSY, SETTLED
from unmix.lm.hooks import find_blocks
from unmix.machine import resident
from unmix.precision import OPEN, decide
from unmix.training import memory
from unmix.training.inputs import Inputs, Say, activations_read, as_new, open_inputs
from unmix.training.late import EVERY, Late
from unmix.training.manifest import entries, new_manifest, sweep_schedule
from unmix.training.member import Entry
from unmix.training.room import room
from unmix.training.run import largest_widths, settle, start_member
from unmix.training.schedule import Schedule

WARM, LEAST, MOST = 2, 4, 12  # steps of a member: before the clock runs, at least, at most
ENOUGH = 0.3
"""Seconds of a member's steps after which no more are timed, if there were `LEAST`."""


@dataclass(frozen=True)
class Spread:
    """Seconds, from the least to the most."""

    low: float
    high: float

    def __add__(self, other: Spread) -> Spread:
        return Spread(self.low + other.low, self.high + other.high)

    def __mul__(self, times: float) -> Spread:
        return Spread(self.low * times, self.high * times)


@dataclass(frozen=True)
class Plan:
    """Figures of a sweep; bytes, seconds, operations (a multiplication and an addition are two)."""

    members: int
    steps: int
    batch_tokens: int
    read: int
    """Activations of each hook that are read."""
    there: int
    """Activations that there are."""
    model_flops: int | None
    """Of the weights in the blocks that are run; None where no model is."""
    dense_flops: int
    """Of the members, were every step dense."""
    sparse_flops: int | None
    """Were every step sparse at the L0 that is asked for; None where none is."""
    host_bytes: int
    device: str
    device_bytes: int | None
    """On an accelerator, without the model; None on the processor."""
    disk_bytes: int
    chunks: int
    harvest_s: float
    """Of all chunks."""
    members_s: Spread
    """Of all steps and lines of metrics."""
    extension_s: Spread | None
    """Of the choices' extensions, their chunks made anew; None where the recipe has none."""
    measuring_s: float

    @property
    def sweep_s(self) -> Spread:
        """Without evaluation, report, and what has been done when this is known: loading and tokenizing."""
        return self.members_s + Spread(self.harvest_s, self.harvest_s)

    @property
    def epochs(self) -> float:
        return self.read / self.there


def plan(recipe: RunConfig, folder: Path, say: Say) -> Plan:
    """Open what the recipe reads and measure. Writes nothing but what a run would find in the cache.

    Raises `UserError` as `sweep` does for a recipe or inputs that cannot be had.
    """
    recipe = as_new(recipe, activations_read(recipe), say)
    inputs = open_inputs(recipe, say)
    held = resident()
    recipe, _ = settle(recipe, inputs, say)
    schedule, whole, source = sweep_schedule(recipe), entries(recipe), inputs.source
    B, act = recipe.training.batch_tokens, recipe.activations
    rows = act.chunk_sequences * (inputs.context or act.sequence_length)
    say(f"timing steps of {len(whole)} members")
    began = time.perf_counter()
    each = _steps(recipe, inputs, whole, schedule)
    one_chunk = _chunk_s(inputs)
    chunks, lines = -(-schedule.steps * B // source.chunk_tokens), schedule.steps // recipe.training.log_every + 1
    of_members = Spread(0.0, 0.0)
    for step, line in each:
        of_members += step * schedule.steps + Spread(line, line) * lines
    on_device = inputs.device.type != "cpu"
    return Plan(
        members=len(whole),
        steps=schedule.steps,
        batch_tokens=B,
        read=schedule.steps * B,
        there=source.size,
        model_flops=_model_flops(inputs, act.hooks, chunks * source.chunk_tokens),
        dense_flops=sum(_dense_flops(recipe, inputs, entry) for entry in whole) * schedule.steps * B,
        sparse_flops=_sparse_flops(recipe, inputs, whole, schedule.steps * B),
        host_bytes=held + memory.chunk(source, rows) + memory.members(recipe, source, whole),
        device=str(inputs.device),
        device_bytes=memory.on_device(recipe, source, whole, rows, inputs.device) if on_device else None,
        disk_bytes=_disk(recipe, inputs, whole, schedule, folder / "members"),
        chunks=chunks,
        harvest_s=chunks * one_chunk,
        members_s=of_members,
        extension_s=_extension(recipe, inputs, [step for step, _ in each], schedule.stable_until, one_chunk),
        measuring_s=time.perf_counter() - began,
    )


def _steps(recipe: RunConfig, inputs: Inputs, whole: Sequence[Entry], schedule: Schedule) -> list[tuple[Spread, float]]:
    """(seconds of a step, seconds of a line of metrics) of each member."""
    manifest, head = new_manifest(recipe, inputs, {}), inputs.source.head()
    in_chunk = max(1, inputs.source.chunk_tokens // recipe.training.batch_tokens)
    batches = list(islice(inputs.source.batches(0, in_chunk), MOST))
    open_again = dict.fromkeys(OPEN, "auto")
    again = recipe.model_copy(update={"training": recipe.training.model_copy(update=open_again)})
    figures, scratch, found = decide(again, largest_widths(inputs.source))[1], Scratch(), []
    for entry in whole:
        member = start_member(recipe, manifest, inputs, entry, Path(recipe.name), head, scratch)
        taken = _timed(Late(member, schedule), batches, late=member.late)
        began = time.perf_counter()
        member.metrics(recipe.training.dead_after_tokens)
        line = time.perf_counter() - began
        dense = inputs.device.type == "cpu" and not member.step.sparse and not member.step.portable
        least = _settled(recipe, inputs, entry, taken, figures) if dense and figures else taken
        found.append((Spread(least, taken), line))
    return found


def _timed(steps: Late, batches: Sequence[Batch], *, late: bool) -> float:
    """Seconds of a step, the median; of steps whose numbers are read together, their mean."""
    taken: list[float] = []
    spent, group = 0.0, EVERY if late else 1
    for number in range(WARM + MOST):
        began = time.perf_counter()
        for i in range(group):
            k = number * group + i
            steps.take(k, batches[k % len(batches)])
        if number >= WARM:
            taken.append((time.perf_counter() - began) / group)
            spent += taken[-1] * group
        if len(taken) >= LEAST and spent >= ENOUGH:
            break
    return median(taken)


def _settled(recipe: RunConfig, inputs: Inputs, entry: Entry, taken: float, figures: dict[str, Any]) -> float:
    """What a step takes once it is sparse at the L0 that is asked for, from one that is dense: the rest stays."""
    size = float(_area(recipe, inputs, entry) / (figures["width"] * figures["features"]))
    features = recipe.of_variant(entry.variant)[0].features
    share = (entry.l0 or recipe.choice.max_active) / features
    few, many = float(min(figures["sparse"].values())), float(figures["sparse_busy"])
    sparse = few + max(0.0, many - few) * (share - SETTLED) / (BUSY - SETTLED)
    gained = float(min(figures["dense"].values())) - max(0.0, sparse)
    return max(0.1 * taken, taken - size * max(0.0, gained))


def _chunk_s(inputs: Inputs) -> float:
    """Seconds of a chunk that no step has waited for."""
    source = inputs.source
    second = -(-source.chunk_tokens // source.batch_tokens)
    began = time.perf_counter()
    next(iter(source.batches(second, second + 1)))
    return time.perf_counter() - began


def _extension(recipe: RunConfig, inputs: Inputs, steps: Sequence[Spread], after: int, chunk_s: float) -> Spread | None:
    """`after`: the step at which the sweep's decay begins, where its choices are trained on from."""
    more = (recipe.choice.extend_to or 0) - after
    if more <= 0:
        return None
    groups = len(_groups(recipe, entries(recipe)))
    chunks = -(-more * recipe.training.batch_tokens // inputs.source.chunk_tokens)
    one = Spread(min(step.low for step in steps), max(step.high for step in steps))
    return (one * more + Spread(chunks * chunk_s, chunks * chunk_s)) * groups


def _groups(recipe: RunConfig, whole: Sequence[Entry]) -> dict[tuple[str, str], Entry]:
    """A member of each that a choice is made of, the largest; the choice is trained on."""
    found: dict[tuple[str, str], Entry] = {}
    for entry in sorted(whole, key=lambda entry: recipe.of_variant(entry.variant)[0].features):
        found[entry.hook, entry.variant if recipe.choice.per_variant else ""] = entry
    return found


def _disk(recipe: RunConfig, inputs: Inputs, whole: Sequence[Entry], schedule: Schedule, members: Path) -> int:
    """Of the sweep's checkpoints and, where the recipe has them, of the extensions'."""
    swept = room(recipe, inputs, schedule, {entry.name: members / entry.name for entry in whole})
    to = recipe.choice.extend_to or 0
    if to <= schedule.stable_until:
        return swept
    longer = replace(schedule, steps=to, decay_steps=round(recipe.choice.extend_decay_fraction * to))
    chosen = _groups(recipe, whole).values()
    return swept + room(recipe, inputs, longer, {entry.name: members / f"{entry.name}-extended" for entry in chosen})


def _area(recipe: RunConfig, inputs: Inputs, entry: Entry) -> int:
    """D · F, or E · F where that is more."""
    return max(_widths(inputs, entry)) * recipe.of_variant(entry.variant)[0].features


def _widths(inputs: Inputs, entry: Entry) -> tuple[int, int]:
    """(D, E)."""
    D = inputs.source.widths[entry.hook]
    return D, inputs.source.target_widths.get(entry.hook, D)


def _dense_flops(recipe: RunConfig, inputs: Inputs, entry: Entry) -> int:
    """Of a token: two of the five products are of x, three of y."""
    D, E = _widths(inputs, entry)
    return (4 * D + 6 * E) * recipe.of_variant(entry.variant)[0].features


def _sparse_flops(recipe: RunConfig, inputs: Inputs, whole: Sequence[Entry], tokens: int) -> int | None:
    """The encoder's product, and four of the active features: 2 D F + (2 D + 6 E) L0 a token."""
    if not all(entry.l0 for entry in whole):
        return None
    found = 0.0
    for entry in whole:
        (D, E), features = _widths(inputs, entry), recipe.of_variant(entry.variant)[0].features
        found += 2 * D * features + (2 * D + 6 * E) * (entry.l0 or 0)
    return round(found * tokens)


def _model_flops(inputs: Inputs, hooks: Sequence[str], tokens: int) -> int | None:
    """Two a weight and token, of the blocks up to the last hook; attention over the sequence is not in it."""
    lm = getattr(inputs.source, "model", None)
    if lm is None or not hasattr(lm, "model"):
        return None
    numbers = [re.findall(r"\d+", hook) for hook in hooks]  # none: before the blocks, or behind them
    blocks = find_blocks(lm.model)
    last = max((int(found[0]) for found in numbers if found), default=-1)
    last = last if all(numbers) else len(blocks) - 1
    weights = sum(p.numel() for block in blocks[: last + 1] for p in block.parameters())
    return 2 * weights * tokens
