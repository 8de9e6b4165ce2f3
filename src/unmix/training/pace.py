"""How fast training is and how long it still takes, from the times at which its steps ended.

A source may make many batches ready at once: the language model is run for a whole chunk of tokens in the step that
first needs one of them. That step takes long and the others of the chunk do not, so a rate over a few steps says
nothing. Here a chunk that is opened takes h seconds, and a step c seconds on top:

    time left = chunks still to be opened · h + steps still to be made · c
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from statistics import fmean, median
from typing import NamedTuple

_FEWEST_STEPS = 16  # a rate over fewer steps jumps about
_MOST_LAPS = 16  # in the estimate, and no more than the newest quarter: members become sparse, and much faster


class Took(NamedTuple):
    """A step."""

    seconds: float
    opened: int
    """Chunks of which it read the first token."""


class Pace:
    """Rate and time left of the steps first … steps - 1. It has no clock: `ended` is given the times.

    The first step is left out. What it waits for is not like the rest: in a new run the first chunk is there already,
    in a resumed one it is made anew, wherever in the chunk that begins.
    """

    def __init__(self, first: int, steps: int, *, batch_tokens: int, chunk_tokens: int) -> None:
        self.first, self.steps = first, steps
        self.batch_tokens, self.chunk_tokens = batch_tokens, chunk_tokens
        chunks = _ceil(_FEWEST_STEPS * batch_tokens, chunk_tokens)
        self.lap = _ceil(chunks * chunk_tokens, batch_tokens)
        """Steps that whole chunks take: any so many steps in a row open one."""
        self._done, self._last = first, math.nan
        self._newest: deque[Took] = deque(maxlen=_MOST_LAPS * self.lap)

    def ended(self, seconds: float) -> None:
        """One more step has ended, at this time; from when it is counted does not matter."""
        if self._done > self.first:
            self._newest.append(Took(seconds - self._last, self.opens(self._done)))
        self._last = seconds
        self._done += 1

    def opens(self, step: int) -> int:
        """How many chunks have their first token in this step."""
        return self._opened(step, step + 1)

    def tokens_per_s(self) -> float | None:
        """Tokens of the source a second over the newest lap; None before there is a whole one."""
        if len(self._newest) < self.lap:
            return None
        seconds = sum(took.seconds for took in self._laps(1)[0])
        return self.lap * self.batch_tokens / seconds if seconds > 0 else None

    def seconds_left(self) -> float | None:
        """Seconds to the end; None while there is a chunk to come and none was timed, or no step was.

        h and c are medians over the newest quarter of the laps, as another program may have held up some of them.
        """
        to_open, to_make = self._opened(self._done, self.steps), self.steps - self._done
        if not to_make:
            return 0.0
        parts = [_parts(lap) for lap in self._laps((self._done - self.first) // (4 * self.lap))]
        if not parts or (to_open and any(h is None for h, _ in parts)):
            return None
        left = to_make * median(c for _, c in parts)
        return left + to_open * median(h for h, _ in parts if h is not None) if to_open else left

    def _laps(self, most: int) -> list[list[Took]]:
        """The newest laps, at least one, the newest first; before the first is whole, what there is of it."""
        newest_first = iter(reversed(self._newest))
        number = max(1, min(most, len(self._newest) // self.lap))
        return [lap for _ in range(number) if (lap := list(islice(newest_first, self.lap)))]

    def _opened(self, first: int, last: int) -> int:
        """How many chunks have their first token in the steps first … last - 1."""
        return _ceil(last * self.batch_tokens, self.chunk_tokens) - _ceil(first * self.batch_tokens, self.chunk_tokens)


def _parts(lap: list[Took]) -> tuple[float | None, float]:
    """(h, c) of a lap; h is None where no chunk was opened, and all of the time where every step opens one."""
    plain = [took.seconds for took in lap if not took.opened]
    opening = [took.seconds for took in lap if took.opened]
    c = fmean(plain) if plain else 0.0
    h = max(0.0, sum(opening) - len(opening) * c) / sum(took.opened for took in lap) if opening else None
    return h, c


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
