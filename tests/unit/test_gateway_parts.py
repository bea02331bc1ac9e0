"""The gateway's clock and workers: in order, bounded, and not ended by what fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from badger_k2eg.core import clock as the_clock
from badger_k2eg.gateway.command_pool import CommandPool
from badger_k2eg.gateway.scheduler import Scheduler


@pytest.fixture
def clock() -> Iterator[Scheduler]:
    clock = Scheduler()
    clock.start()
    yield clock
    clock.close()


@pytest.fixture
def workers() -> Iterator[CommandPool]:
    workers = CommandPool()
    yield workers
    workers.close()


def test_the_clock_calls_in_the_order_of_times(clock: Scheduler):
    called: list[str] = []
    done = the_clock.event()
    clock.call_later(0.2, done.set)
    clock.call_later(0.1, lambda: called.append("later"))
    now = the_clock.monotonic()
    for word in ("first", "second"):
        clock.call_at(now, lambda word=word: called.append(word))
    assert done.wait(5.0)
    assert called == ["first", "second", "later"]


def test_what_fails_does_not_stop_the_clock(clock: Scheduler, caplog: pytest.LogCaptureFixture):
    done = the_clock.event()
    clock.call_later(0.0, lambda: 1 / 0)
    clock.call_later(0.0, done.set)
    assert done.wait(5.0)
    assert "ZeroDivisionError" in caplog.text


def test_a_closed_clock_calls_nobody():
    clock, called = Scheduler(), the_clock.event()
    clock.start()
    clock.call_later(0.05, called.set)
    clock.close()
    assert not called.wait(0.2)
    clock.close()


def test_a_task_of_the_clock_may_close_it(clock: Scheduler):
    done = the_clock.event()
    clock.call_later(0.0, lambda: (clock.close(), done.set()))
    assert done.wait(5.0)


def test_jobs_of_a_lane_keep_their_order_and_others_do_not_wait(workers: CommandPool):
    order: list[int] = []
    hold, done = the_clock.event(), the_clock.event()
    workers.submit(lambda: hold.wait(5.0))
    for number in range(50):
        workers.submit(lambda number=number: order.append(number), "lane")
    workers.submit(done.set, "lane")
    assert done.wait(5.0)
    assert order == list(range(50))
    hold.set()


def test_a_job_that_hangs_does_not_hold_up_its_lane(workers: CommandPool):
    hold, done = the_clock.event(), the_clock.event()
    workers.submit(lambda: hold.wait(20.0), "lane")
    workers.submit(done.set, "lane")
    assert done.wait(10.0)
    hold.set()


def test_closed_workers_take_nothing_more(workers: CommandPool):
    workers.close()
    called = the_clock.event()
    workers.submit(called.set)
    workers.submit(called.set, "lane")
    assert not called.wait(0.1)
