"""What a long command shows, and how it is stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

Row = dict[str, Any]

_LIVE_S, _LINES_S = 0.2, 15.0  # at least so long between two frames, and between two lines
_IN_A_LINE = 6  # members


class Standing(NamedTuple):
    """Where training is."""

    step: int
    steps: int
    rate: float | None
    """Tokens a second; None while it is not known, as is `left`."""
    left: float | None
    """Seconds."""


class Progress:
    """A live view on a terminal, a line now and then elsewhere; and a clean stop on Ctrl-C and SIGTERM.

    The first signal lets the step finish and saves; a second Ctrl-C leaves at once.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        """Whether nothing is shown."""
        self.signal = 0
        self.stopped: int | None = None
        """The step at which a signal stopped it."""
        self.training = False
        self.live = not quiet and _can_move()
        self.last = 0.0
        self.before: dict[int, Any] = {}
        self.view: Live | None = None
        self.at = Standing(0, 0, None, None)
        self.members: list[Row] = []
        self.at_time, self.since = 0.0, 0
        """When `at` was true, and how many steps have ended since."""

    def __enter__(self) -> Progress:
        if threading.current_thread() is not threading.main_thread():
            return self  # signals go to the main thread, which is somebody else's
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._close()
        finally:
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, _: FrameType | None) -> None:
        if self.signal or not self.training:  # nothing to save yet, or asked twice
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this step; press Ctrl-C again to quit at once", file=sys.stderr)

    @staticmethod
    def say(text: str) -> None:
        """A line of its own; above the live view while there is one, which then stands in for stderr."""
        print(text, file=sys.stderr, flush=True)

    def watch(self) -> Any:
        """The callbacks for a run."""
        from unmix.training.run import Watch

        if self.quiet:
            return Watch(stop=self.stop)
        return Watch(say=self.say, rows=self.rows, stop=self.stop)

    def result(self, text: str) -> None:
        """A line of what came out, on stdout; there, what it has no letter for is replaced, as `main` has it."""
        if not self.quiet:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            print(text.encode(encoding, "replace").decode(encoding))

    def stop(self) -> bool:
        """Whether a signal came; asked after every step, which moves the bar."""
        self.training = True
        if self.view is not None:
            self.since += 1
            self._show()
        return bool(self.signal)

    def rows(self, rows: list[Row], steps: int) -> None:
        """Show where training is: share, rate, time left, and how each member stands."""
        now, step = time.monotonic(), rows[0]["step"]
        left: float | None = getattr(rows, "seconds_left", None)
        self.at, self.members = Standing(step, steps, rows[0]["tokens_per_s"], left), rows
        self.at_time, self.since = now, -1  # `stop` is asked once more in this step
        if self.live:
            self._show()
        elif step == steps or now - self.last >= _LINES_S:
            self.last = now
            self.say(line(self.at, rows))

    def _show(self) -> None:
        """Draw a frame, unless the last one is new; that of the last step is left standing."""
        now, at = time.monotonic(), self.at
        ended = at.step == at.steps
        if now - self.last < _LIVE_S and not ended:
            return
        self.last = now
        left = None if at.left is None else max(0.0, at.left - (now - self.at_time))
        at = at._replace(step=min(at.step + max(0, self.since), at.steps), left=left)
        view = self._open()
        ellipsis = "…" if view.console.encoding.startswith("utf") else "..."
        view.update(frame(at, self.members, view.console.width, view.console.height, ellipsis), refresh=True)
        if ended:
            self._close()

    def _open(self) -> Live:
        if self.view is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, force_terminal=True, force_interactive=True)
            # no thread: a frame is drawn when a step has ended
            self.view = Live(console=console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
            self.view.start()
        return self.view

    def _close(self) -> None:
        """Leave the last frame where it is, and give the terminal back."""
        if self.view is not None:
            self.view.stop()
            self.view = None

    def guard(self, work: Callable[[], None]) -> int:
        """Do the work; answer 0, or 128 + the signal that stopped it."""
        from unmix.training.loop import Stopped

        self.training = False
        try:
            work()
        except Stopped as stopped:
            self._close()
            self.stopped = stopped.step
            if not self.quiet:
                self.say(f"\nstopped at step {stopped.step:,}, saved; the same command resumes it")
            return 128 + self.signal
        return 0


def _can_move() -> bool:
    """Whether stderr is a terminal on which lines can be written over, and whose user wants that."""
    plain = os.environ.get("TERM") in ("dumb", "unknown") or bool(os.environ.get("NO_COLOR"))
    return sys.stderr.isatty() and not plain


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}"


def head(at: Standing) -> str:
    """Step, share, time left and rate: what a narrow terminal cuts off comes last."""
    parts = [
        f"step {at.step:,}/{at.steps:,}",
        f"{100 * at.step // at.steps:3d}%",
        "time left unknown" if at.left is None else f"{clock(at.left)} left",
    ]
    if at.rate is not None:
        parts.append(f"{at.rate:,.0f} tokens/s")
    return "  ".join(parts)


def line(at: Standing, rows: list[Row]) -> str:
    """All of it in one line, where lines cannot be written over."""
    parts = [head(at)]
    for row in rows[:_IN_A_LINE]:
        stands = "halted" if "halted_at" in row else f"L0 {row['l0']:.4g} loss {row['loss']:.4g}"
        parts.append(f"{row['member']}: {stands}")
    if len(rows) > _IN_A_LINE:
        parts.append(_more(rows[_IN_A_LINE:], "..."))
    return "  ".join(parts)


def frame(at: Standing, rows: list[Row], width: int, height: int, ellipsis: str = "…") -> RenderableType:
    """A frame of the live view: the bar and `head`, below them a line for as many members as the height allows."""
    from rich.console import Group
    from rich.text import Text

    room = height - 3  # without the bar, the titles, and the line that the cursor is on
    shown = rows if len(rows) <= room else rows[: max(0, room - 1)]
    parts = [_bar(at, width)]
    if shown:
        parts.append(_table(shown, width, ellipsis))
    if len(shown) < len(rows) and room > 0:
        parts.append(Text(_more(rows[len(shown) :], ellipsis), no_wrap=True, overflow="crop"))
    return Group(*parts)


def _bar(at: Standing, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    said = Text(head(at), no_wrap=True, overflow="crop")
    bar = min(40, width - len(said) - 2)
    if bar < 8:
        return said
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(ProgressBar(at.steps, at.step, width=bar), said)
    return grid


def _table(rows: list[Row], width: int, ellipsis: str) -> RenderableType:
    """A line a member; what does not fit is cut from its name first."""
    from rich.table import Table
    from rich.text import Text

    wide = width >= 60
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("member", no_wrap=True)
    for title in ("L0", "explained variance" if wide else "EV", "loss"):
        table.add_column(title, justify="right", no_wrap=True)
    most = width - (48 if wide else 36)
    for row in rows:
        name: str = row["member"]
        if len(name) > most:
            name = name[: max(0, most - len(ellipsis))] + ellipsis
        if "halted_at" in row:
            table.add_row(Text(name), "halted", "", "")
        else:
            table.add_row(Text(name), f"{row['l0']:.4g}", f"{row['explained_variance']:.3f}", f"{row['loss']:.4g}")
    return table


def _more(rows: list[Row], ellipsis: str) -> str:
    """How many members are not shown, and which of them are halted."""
    halted = [row["member"] for row in rows if "halted_at" in row]
    return f"{ellipsis} and {len(rows)} more" + (f"; halted: {', '.join(halted)}" if halted else "")
