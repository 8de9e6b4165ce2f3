"""Clocks: calls that take turns, and timers put around functions for a while."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

Say = Callable[[str], None]


def alternate(
    calls: Mapping[str, Callable[[], object]], repeats: int, say: Say, *, untimed: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, one number a round; within a round they take turns: A B C, then C B A, then A B C …

    Each turn begins with `untimed` calls that are not counted, so that a call does not pay for the caches that the
    one before it left behind. One more round goes before, to warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(repeats + 1):
        say(f"round {number} of {repeats}{'' if number else ' (warm-up, not counted)'}: {', '.join(names)}")
        for name in names if number % 2 else reversed(names):
            for _ in range(untimed):
                calls[name]()
            began = time.perf_counter()
            calls[name]()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def share(of: Sequence[float], whole: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return median(a / b for a, b in zip(of, whole, strict=True))


class Timers:
    """Seconds and calls by name, since they were last taken."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def take(self) -> dict[str, float]:
        """The seconds, which start anew."""
        taken, self.seconds, self.calls = dict(self.seconds), defaultdict(float), defaultdict(int)
        return taken

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began
            self.calls[name] += 1

    def around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function with a timer around it."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.running(name):
                return function(*args, **kwargs)

        return timed


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """`owner.name` is `new` for a while: a function of a module, a method of a class."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)
