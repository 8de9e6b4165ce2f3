"""One thread that uses the model, and a short queue before it: a second tab waits, a hundred are sent away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

T = TypeVar("T")
QUEUE = 4  # jobs that wait, beside the one that runs
Asked = Callable[[], bool]
"""Whether nobody waits for the answer any more."""


class Busy(Exception):
    """The queue is full."""


class Job(NamedTuple):
    """What was handed in."""

    answer: Future[object]
    cancel: Callable[[], None]
    """Take it out of the queue, or have it stop at its next step."""


class Worker:
    """Does one job at a time, in the order that they came."""

    def __init__(self, queue: int = QUEUE) -> None:
        self._most = queue + 1
        self._lock = threading.Lock()
        self._held = 0
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="unmix-model")

    def submit(self, work: Callable[[Asked], object]) -> Job:
        """Have `work` done; it is given the question whether to stop. Raises `Busy` if too many jobs are held."""
        with self._lock:
            if self._held >= self._most:
                raise Busy
            self._held += 1
        dropped = threading.Event()
        answer: Future[object] = self._pool.submit(work, lambda: dropped.is_set() or self._stopping.is_set())
        answer.add_done_callback(self._done)

        def cancel() -> None:
            dropped.set()
            answer.cancel()

        return Job(answer, cancel)

    @property
    def held(self) -> int:
        """Jobs that run or wait."""
        return self._held

    def _done(self, _: Future[object]) -> None:
        with self._lock:
            self._held -= 1

    def stop(self) -> None:
        """Have the job that runs stop at its next step, and those that wait too; does not wait for them."""
        self._stopping.set()

    def close(self) -> None:
        """Stop, and wait for the thread to end."""
        self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
