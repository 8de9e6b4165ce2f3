"""A short real sweep in a folder that is removed: its speed, and what takes the time.

The clock runs from the moment the inputs are open (the model loaded, the corpus tokenized) to the end of the last
checkpoint. Timers stand around the source of batches, the members' updates, the checkpoints and the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unmix.activations.stream import Batch, Source
from unmix.bench.clock import Say, Timers, replaced
from unmix.bench.machine import about, peak_memory
from unmix.bench.step import compile_kernels
from unmix.bench.table import aligned, machine_line
from unmix.config import RunConfig
from unmix.training import run as runs
from unmix.training.inputs import Inputs, open_inputs
from unmix.training.late import Late
from unmix.training.loop import Row, train
from unmix.training.manifest import entries, read_run
from unmix.training.member import Member
from unmix.training.run import Watch

PARTS = {
    "harvest": "reading activations",
    "member_steps": "member steps",
    "checkpoints": "checkpoints",
    "metrics": "metrics",
    "rest": "the rest",
}


class TimedSource:
    """A source of batches with a timer around it."""

    def __init__(self, source: Source, timers: Timers) -> None:
        self.source, self.timers = source, timers
        self.widths, self.batch_tokens, self.chunk_tokens = source.widths, source.batch_tokens, source.chunk_tokens
        self.target_widths, self.size = source.target_widths, source.size

    def head(self) -> Batch:
        """As `Source.head`."""
        with self.timers.running("harvest"):
            return self.source.head()

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """As `Source.batches`."""
        found = self.source.batches(first, last)
        for _ in range(first, last):
            with self.timers.running("harvest"):
                batch = next(found)
            yield batch


class Clocked:
    """Stands in for the functions of a run, with timers around them."""

    def __init__(self) -> None:
        self.timers, self.steps = Timers(), Timers()
        self.began = 0.0
        self._update, self._metrics, self._settle = Member.update, Member.metrics, Late.settle

    def open_inputs(self, recipe: RunConfig, say: Say, given: None = None) -> Inputs:
        """As `inputs.open_inputs`; the clock starts behind it."""
        inputs = open_inputs(recipe, say)
        self.began = time.perf_counter()
        return replace(inputs, source=TimedSource(inputs.source, self.timers))

    def train(self, *args: Any, log: Callable[[list[Row]], None], save: Callable[[int], None], **kwargs: Any) -> None:
        """As `loop.train`."""
        timed_log, timed_save = self.timers.around(log, "metrics"), self.timers.around(save, "checkpoints")
        train(*args, log=timed_log, save=timed_save, **kwargs)

    def update(self, member: Member, *args: Any, **kwargs: Any) -> str:
        """As `Member.update`."""
        kind = "sparse" if member.step.sparse else "dense"
        with self.timers.running("member_steps"), self.steps.running(kind):
            return self._update(member, *args, **kwargs)

    def settle(self, late: Late) -> list[str]:
        """As `Late.settle`, which takes the steps of a member whose numbers are read late."""
        if not late.waits:
            return self._settle(late)
        with self.timers.running("member_steps"), self.steps.running("read late"):
            self.steps.calls["read late"] += late.waits - 1
            return self._settle(late)

    def metrics(self, member: Member, *args: Any) -> dict[str, Any]:
        """As `Member.metrics`."""
        with self.timers.running("metrics"):
            return self._metrics(member, *args)


def run(recipe: RunConfig, *, steps: int, scratch: Path | None, force: bool, watch: Watch) -> dict[str, Any]:
    """Train the members of the recipe for so many steps. Raises `UserError` as `unmix sweep` does."""
    asked, act = recipe.training.steps, recipe.activations
    B, chunk_tokens = recipe.training.batch_tokens, act.chunk_sequences * act.sequence_length
    chunks = -(-steps * B // chunk_tokens)
    needed = chunks * chunk_tokens
    update: dict[str, Any] = {"training": recipe.training.model_copy(update={"steps": steps}), "sinks": []}
    if act.store is None:  # the corpus is read as far as it is needed
        most = min(needed, recipe.corpus.max_tokens or needed)
        update["corpus"] = recipe.corpus.model_copy(update={"max_tokens": most})
    recipe = recipe.model_copy(update=update)
    watch.say("warming up; the first time on a machine compiles the kernels, which takes a while")
    compile_kernels()

    clocked = Clocked()
    with TemporaryDirectory(prefix="unmix-bench-", dir=scratch) as folder, ExitStack() as stack:
        for owner, name, new in (
            (runs, "open_inputs", clocked.open_inputs),
            (runs, "train", clocked.train),
            (Member, "update", lambda member, *args, **kwargs: clocked.update(member, *args, **kwargs)),
            (Late, "settle", lambda late: clocked.settle(late)),
            (Member, "metrics", lambda member, *args: clocked.metrics(member, *args)),
        ):
            stack.enter_context(replaced(owner, name, new))
        runs.sweep(recipe, Path(folder) / "run", watch, force=force)
        seconds = time.perf_counter() - clocked.began
        recipe, manifest = read_run(Path(folder) / "run")
        peak = peak_memory()

    counts, kinds = dict(clocked.timers.calls), dict(clocked.steps.calls)
    split, by_kind = clocked.timers.take(), clocked.steps.take()
    split["rest"] = seconds - sum(split.values())
    read = steps * B if act.store is not None else needed
    members = [entry.name for entry in entries(recipe)]
    return {
        "bench": "sweep",
        **about(),
        "settings": {
            "recipe": recipe.name,
            "model": recipe.model.name,
            "hooks": act.hooks,
            "store": None if act.store is None else str(act.store),
            "features": recipe.sae.features,
            "members": members,
            "batch_tokens": B,
            "steps": steps,
            "steps_of_the_recipe": asked,
            "matmul": recipe.model.matmul,
            "selection": recipe.training.selection,
            "dense": recipe.training.dense,
            "border": recipe.training.border,
        },
        "measured": {"model": manifest["model"].get("rates", {}), "step": manifest["measured"]},
        "tokens": steps * B,
        "seconds": seconds,
        "tokens_per_s": steps * B / seconds,
        "split": {part: {"seconds": split[part], "share": split[part] / seconds} for part in PARTS},
        "harvest": {"tokens": read, "tokens_per_s": read / split["harvest"]},
        "member_steps": {
            kind: {"steps": kinds[kind], "seconds": taken, "tokens_per_s": kinds[kind] * B / taken}
            for kind, taken in by_kind.items()
        },
        "checkpoints": {
            "number": counts["checkpoints"],
            "seconds_each": split["checkpoints"] / counts["checkpoints"],
            "every_steps_in_the_recipe": recipe.training.checkpoint_every,
        },
        "peak_memory_bytes": peak,
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    s, checkpoints = found["settings"], found["checkpoints"]
    rows = [["", "s", "share", "tokens/s"]]
    for part, text in PARTS.items():
        of = found["split"][part]
        rate = f"{found['harvest']['tokens_per_s']:,.0f}" if part == "harvest" else ""
        rows.append([text, f"{of['seconds']:,.2f}", f"{of['share']:.0%}", rate])
        if part == "member_steps":
            for kind, taken in found["member_steps"].items():
                rate = f"{taken['tokens_per_s']:,.0f}"
                rows.append([f"  {kind}: {taken['steps']:,} steps", f"{taken['seconds']:,.2f}", "", rate])
    rows.append(["all", f"{found['seconds']:,.2f}", "", f"{found['tokens_per_s']:,.0f}"])
    return "\n".join(
        (
            f"a sweep of {len(s['members'])} members at {', '.join(s['hooks'])} of {s['model']}: {s['steps']:,} steps "
            f"of {s['batch_tokens']:,} tokens (the recipe has {s['steps_of_the_recipe']:,}), F={s['features']:,}",
            f"products of the model in {s['matmul']}, of dense steps in {s['dense']}, selection in {s['selection']}",
            "",
            aligned(rows),
            "",
            f"tokens/s of member steps: of one member. {found['harvest']['tokens']:,} activations were read",
            f"{checkpoints['number']} checkpoints of {checkpoints['seconds_each']:,.2f} s; the recipe has one every "
            f"{checkpoints['every_steps_in_the_recipe']:,} steps",
            f"peak memory: {found['peak_memory_bytes'] / 1e9:,.2f} GB",
            machine_line(found),
        )
    )
