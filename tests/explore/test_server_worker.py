"""One job at a time, a short queue, and an end to what nobody waits for."""

import threading
from concurrent.futures import CancelledError

import pytest

from unmix.explore.server_worker import QUEUE, Busy, Worker

WAIT = 30  # seconds; far more than any of it takes


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


def hold(worker):
    """A job that runs until it is let go, or asked to stop."""
    running, go = threading.Event(), threading.Event()

    def work(asked):
        running.set()
        while not go.wait(0.005):
            if asked():
                return "stopped"
        return "done"

    job = worker.submit(work)
    return job, running, go


def test_jobs_are_done_one_at_a_time_in_their_order(worker):
    job, running, go = hold(worker)
    assert running.wait(WAIT)
    order = []
    jobs = [worker.submit(lambda asked, n=n: order.append((n, threading.get_ident()))) for n in range(QUEUE)]
    assert order == []
    go.set()
    for each in jobs:
        each.answer.result(WAIT)
    assert job.answer.result(WAIT) == "done"
    assert [n for n, _ in order] == list(range(QUEUE))
    assert len({thread for _, thread in order}) == 1


def test_a_full_queue_sends_away(worker):
    _, running, go = hold(worker)
    assert running.wait(WAIT)
    jobs = [worker.submit(lambda asked: 1) for _ in range(QUEUE)]
    for _ in range(3):
        with pytest.raises(Busy):
            worker.submit(lambda asked: 2)
    go.set()
    for each in jobs:
        each.answer.result(WAIT)
    assert worker.submit(lambda asked: 3).answer.result(WAIT) == 3


def test_a_job_that_waits_is_taken_out(worker):
    _, running, go = hold(worker)
    assert running.wait(WAIT)
    done = []
    jobs = [worker.submit(lambda asked: done.append(1)) for _ in range(QUEUE)]
    jobs[0].cancel()
    more = worker.submit(lambda asked: "had a place")  # the place is free at once
    go.set()
    assert more.answer.result(WAIT) == "had a place"
    assert len(done) == QUEUE - 1
    with pytest.raises(CancelledError):
        jobs[0].answer.result(WAIT)


def test_a_job_that_runs_is_asked_to_stop(worker):
    job, running, _ = hold(worker)
    assert running.wait(WAIT)
    job.cancel()
    assert job.answer.result(WAIT) == "stopped"


def test_one_that_fails_gives_its_place_back(worker):
    def fail(asked):
        raise ValueError("no")

    for _ in range(2 * QUEUE + 2):
        with pytest.raises(ValueError, match="no"):
            worker.submit(fail).answer.result(WAIT)


def test_closing_stops_what_runs(worker):
    job, running, _ = hold(worker)
    assert running.wait(WAIT)
    waiting = worker.submit(lambda asked: 1)
    worker.close()
    assert job.answer.result(WAIT) == "stopped"
    assert waiting.answer.cancelled()
