"""What a long command shows, and how it is stopped."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


class Progress:
    """One moving line on a terminal, a line now and then elsewhere; and a clean stop on Ctrl-C and SIGTERM.

    The first signal lets the step finish and saves; a second Ctrl-C leaves at once.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.training = False
        self.live = sys.stderr.isatty()
        self.last = 0.0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Progress:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, _: FrameType | None) -> None:
        if self.signal or not self.training:  # nothing to save yet, or asked twice
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this step; once more leaves at once", file=sys.stderr)

    @staticmethod
    def say(text: str) -> None:
        """A line of its own."""
        print(text, file=sys.stderr, flush=True)

    def watch(self) -> Any:
        """The callbacks for a run."""
        from unmix.training.run import Watch

        return Watch(say=self.say, rows=self.rows, stop=self.stop)

    def stop(self) -> bool:
        """Whether a signal came; asked after every step."""
        self.training = True
        return bool(self.signal)

    def rows(self, rows: list[dict[str, Any]], steps: int) -> None:
        """Show where training is: share, rate, time left, L0 and loss of the members."""
        now, step = time.monotonic(), rows[0]["step"]
        if step < steps and now - self.last < (0.2 if self.live else 15):
            return
        self.last = now
        rate, done = rows[0]["tokens_per_s"], max(row["tokens"] for row in rows)
        left = round((steps - step) * done / step / rate)
        members = "  ".join(_standing(row) for row in rows[:6])
        time_left = f"{left // 60}:{left % 60:02d} left"
        text = f"step {step:,}/{steps:,} {step / steps:4.0%}  {rate:,.0f} tokens/s  {time_left}  {members}"
        if self.live:
            print(f"\r\x1b[2K{text[:200]}", end="\n" if step == steps else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def guard(self, work: Callable[[], None]) -> int:
        """Do the work; answer 0, or 128 + the signal that stopped it."""
        from unmix.training.loop import Stopped

        self.training = False
        try:
            work()
        except Stopped as stopped:
            self.say(f"\nstopped at step {stopped.step:,}, saved; the same command resumes it")
            return 128 + self.signal
        return 0


def _standing(row: dict[str, Any]) -> str:
    if "halted_at" in row:
        return f"{row['member']}: halted"
    return f"{row['member']}: L0 {row['l0']:.4g} loss {row['loss']:.4g}"
