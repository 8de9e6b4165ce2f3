"""Steps that do not wait for the device: what they came to is read some steps later, all of it at once.

    batches wait in a queue until there are EVERY of them, or somebody wants to know
        one wait        which tokens the mask keeps
        every step      loss, gradients, clipping, update, counts: in the device's own queue, its numbers stay there
        one wait        the numbers of all these steps

What is wrong with a batch is thus known after later ones were trained on. From the first wrong one on `stop` is set, on
the device, and weights and moments stay as they are; the counts are brought back from before it, its member says what
is to be done about it, and the batches behind it are taken anew. So every batch meets what it would have met had each
number been read at once. A step that had not enough room on a GPU (`kernels.gpu_workspace`) is taken anew itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from unmix.activations.stream import Batch, Pair
from unmix.kernels.task import Number, on_host
from unmix.training.found import Found
from unmix.training.measure import kept_rows_of
from unmix.training.member import Member
from unmix.training.schedule import Schedule

EVERY = 8
"""Steps that are read together."""
NO_ROOM, WRONG = 1, 2
"""What `stop` is set to: by the kernels of a GPU, and here."""


@dataclass(frozen=True)
class Taken:
    """A step that is not read yet."""

    step: int
    raw: Pair
    found: Found
    stop: Tensor
    """As it was behind the step, ()."""
    before: dict[str, Any]
    """The member's counts."""


class Late:
    """A member's steps; of one whose numbers are on the host, each is taken and read at once."""

    def __init__(self, member: Member, schedule: Schedule) -> None:
        self.member, self.schedule = member, schedule
        self._queue: list[tuple[int, Batch]] = []

    @property
    def waits(self) -> int:
        """Batches that wait."""
        return len(self._queue)

    def take(self, step: int, batch: Batch) -> list[str]:
        """Train on a batch, or let it wait. Answers what was wrong with numbers."""
        if not self.member.late:
            return [wrong] if (wrong := self.member.update(batch, step, *self._rates(step))) else []
        self._queue.append((step, batch))
        return self.settle() if self.waits == EVERY else []

    def settle(self) -> list[str]:
        """Train on all that wait, and read what they came to. Answers as `take`."""
        member = self.member
        said: list[str] = []
        if not self.waits:
            return said
        rows = kept_rows_of([batch for _, batch in self._queue], member.entry.hook, member.mask)
        waiting = [(step, raw) for (step, _), raw in zip(self._queue, rows, strict=True) if len(raw.x_BD)]
        self._queue = []
        while waiting and member.halted_at is None:
            settled, more = self._read(self._launch(waiting))
            waiting, said = waiting[settled:], said + more
        return said

    def _rates(self, step: int) -> tuple[float, Any]:
        """Learning rate and coefficient of a step, as far as the member has come."""
        member = self.member
        return self.schedule.lr_at(step, member.training.lr), self.schedule.l1_at(step, member.coefficient)

    def _launch(self, waiting: list[tuple[int, Pair]]) -> list[Taken]:
        """Take these steps, at most up to one after which features start anew; nothing here waits for the device."""
        member, taken = self.member, []
        stop_1 = torch.zeros(1, dtype=torch.int32, device=member.silent_F.device)
        for step, raw in waiting:
            before, (lr, l1) = member.counts(), self._rates(step)
            seen, task = member.view.of(raw), member.task(step, l1)
            found = member.look(seen, task, stop_1)
            wrong = (stop_1 == 0) & found.is_wrong(member.training.on_spike)
            stop_1 = stop_1 | (wrong * WRONG).to(torch.int32)
            member.learn(raw, seen, task, found, lr, stop_1)
            taken.append(Taken(step, raw, found, stop_1[0].clone(), before))  # kernels set it in place
            if member.resamples(step, lr):
                break
        return taken

    def _read(self, taken: list[Taken]) -> tuple[int, list[str]]:
        """Wait for these steps; answers how many of them are settled, and what was wrong."""
        member = self.member
        said: list[str] = []
        found_of, longest = _on_host(taken, member.silent_F.max())
        for settled, (one, found, stop, density) in enumerate(found_of):
            if stop:
                member.recall(one.before)
            if stop & NO_ROOM:
                member.step.make_room(found.sums, member.weights)
                return settled, said
            if stop:
                wrong = found.wrong(member.view.of(one.raw), member.training.on_spike)
                return settled + 1, [*said, member.leave_out(one.step, wrong)]
            member.step.saw(density, one.raw.x_BD)
            said += [remark] if (remark := member.remark(one.step, found)) else []
        last = taken[-1]
        member.silence = longest, member.tokens
        if member.resamples(last.step, self._rates(last.step)[0]):
            member.resample(member.view.x(last.raw.x_BD), last.found.sums, last.step)
        return len(taken), said


def _on_host(taken: list[Taken], longest: Number) -> tuple[list[tuple[Taken, Found, int, float]], int]:
    """(each with its numbers, its `stop` and the share of features that were active; `longest`). Waits once."""
    unread: list[Number] = []
    for one in taken:
        f = one.found
        unread += [*f.sums.numbers, f.square, f.times, one.stop, f.sums.active_F.sum()]
    *unpacked, most = on_host([*unread, longest])
    numbers, read = iter(unpacked), []
    for one in taken:
        sums = one.found.sums.of([*islice(numbers, len(one.found.sums.numbers))])
        square, times, stop, active = islice(numbers, 4)
        share = active / (one.found.tokens * sums.active_F.numel())
        read.append((one, Found(one.found.tokens, sums, square, times), int(stop), share))
    return read, int(most)
