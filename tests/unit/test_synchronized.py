"""S2 to S5: futures, the background, cancellation, sleep, and several at once. Without any control system."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from badger_k2eg.core import clock
from badger_k2eg.core.deadline import FOREVER, Deadline, in_seconds, under
from badger_k2eg.core.futures import (
    Future,
    all_completed,
    background,
    first_completed,
    first_exception,
    gather,
    no_waiting,
    sleep,
)
from badger_k2eg.core.units import unit
from badger_k2eg.errors import CallCancelled, WaitingForbidden

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    end = clock.monotonic() + PATIENCE
    while left := [t.name for t in threading.enumerate() if t.name.endswith("(background)")]:
        assert clock.monotonic() < end, left
        clock.sleep(0.005)


def forever() -> None:
    sleep(3600)


def fail() -> None:
    raise KeyError("broken")


def prompt(call: Callable[[], Any], cancel: Callable[[], Any]) -> None:
    """A cancel ends the call within 50 ms; the best of three, on a loaded host."""
    delays = []
    for _ in range(3):
        future = background(call)
        clock.sleep(0.05)
        began = clock.monotonic()
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
        delays.append(clock.monotonic() - began)
        if delays[-1] < 0.05:
            return
    raise AssertionError(delays)


# -- the future --------------------------------------------------------------------------------------------------------


def test_what_a_function_returns_and_raises() -> None:
    assert background(divmod, 7, 2).result() == (3, 1)
    assert background(dict, a=1).result(timeout=PATIENCE) == {"a": 1}
    failed = background(fail)
    assert isinstance(failed.exception(), KeyError) and failed.done() and not failed.cancelled()
    with pytest.raises(KeyError, match="broken"):
        failed.result()
    assert background(sleep, 0).exception() is None


def test_a_callback_gets_the_future_and_its_fault_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Future[Any]] = []

    def broken(_: object) -> None:
        raise RuntimeError("my callback")

    future = background(divmod, 7, 2, callback=broken)
    future.add_done_callback(told.append)
    assert future.result() == (3, 1)
    gather(background(sleep, 0.01))
    deadline = clock.monotonic() + PATIENCE
    while not told and clock.monotonic() < deadline:
        clock.sleep(0.001)
    future.add_done_callback(told.append)
    assert told == [future, future]
    assert "my callback" in caplog.text and "badger_k2eg" in {record.name for record in caplog.records}


def test_a_wait_ends_at_its_timeout_and_the_call_goes_on() -> None:
    future = background(forever)
    for wait in (future.wait, future.result, future.exception):
        with pytest.raises(TimeoutError):
            wait(0.01)
    with pytest.raises(TimeoutError):
        future.wait(5 * unit.millisecond)
    assert not future.done() and future.cancel()
    with pytest.raises(CancelledError):
        future.exception()
    assert future.wait().cancelled()


def test_it_is_a_future_of_the_standard_library() -> None:
    futures = [background(sleep, 0.001 * n) for n in range(5)]
    assert concurrent.futures.wait(futures, PATIENCE).not_done == set()
    assert len(list(concurrent.futures.as_completed(futures, PATIENCE))) == 5


# -- cancel ------------------------------------------------------------------------------------------------------------


def test_a_cancel_is_raised_in_the_wait_at_once() -> None:
    prompt(forever, lambda: None)
    prompt(lambda: gather(background(forever)), lambda: None)
    prompt(lambda: sleep(1 * unit.hour), lambda: None)


def test_a_cancel_waits_for_the_next_wait() -> None:
    """What waits by other means is not interrupted."""
    reached, go = threading.Event(), threading.Event()

    def work() -> None:
        reached.set()
        go.wait(PATIENCE)
        sleep(0)
        sleep(0.001)
        pytest.fail("not reached")

    future = background(work)
    assert reached.wait(PATIENCE) and future.cancel() and future.cancel()
    clock.sleep(0.02)
    assert not future.done() and not future.cancelled()
    go.set()
    with pytest.raises(CallCancelled):
        future.result()
    assert future.cancelled() and not future.cancel(), "what has ended is not cancelled any more"


def test_a_function_may_catch_a_cancel_and_go_on_and_is_told_once() -> None:
    told, may_end = threading.Event(), threading.Event()

    def stubborn() -> int:
        caught = 0
        while not may_end.is_set():
            try:
                sleep(0.005)
            except CancelledError:
                caught += 1
                told.set()
        return caught

    future = background(stubborn)
    for _ in range(2):
        told.clear()
        future.cancel()
        assert told.wait(PATIENCE)
        sleep(0.05)
    may_end.set()
    assert future.result() == 2 and not future.cancelled()


def test_every_deadline_made_inside_is_cancelled_with_it() -> None:
    """Old code that makes its own Deadline is reached all the same; that of another thread is not."""
    made: list[Deadline] = []

    def work() -> None:
        made.append(Deadline(100.0))
        made.append(Deadline.alone())
        forever()

    future = background(work)
    while len(made) < 2:
        clock.sleep(0.001)
    outside = Deadline(100.0)
    future.cancel()
    future.wait()
    assert [deadline.cancelled for deadline in (*made, outside)] == [True, False, False]


def test_what_stands_under_a_deadline_ends_with_it() -> None:
    stop = Deadline()
    with under(stop):
        stop.cancel()
        for _ in range(2):
            with pytest.raises(CallCancelled):
                sleep(1.0)
    sleep(0.0)


# -- sleep -------------------------------------------------------------------------------------------------------------


def test_sleep_is_at_least_as_long_as_asked_and_a_timer_with_a_callback() -> None:
    rang = threading.Event()
    began = clock.monotonic()
    timer = sleep(50 * unit.ms, callback=lambda future: rang.set())
    assert clock.monotonic() - began < 0.04
    assert rang.wait(PATIENCE) and clock.monotonic() - began >= 0.05
    assert timer.result() is None
    stopped = sleep(3600, callback=None)
    assert stopped.cancel() and stopped.wait().cancelled()


@pytest.mark.parametrize("wrong", [-2, float("nan"), "soon", None, True, 3 * unit.meter, [1]])
def test_a_wrong_time_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match="a time is a number of seconds"):
        sleep(wrong)
    assert in_seconds(-1) == FOREVER and in_seconds(2 * unit.minute) == 120.0


def test_waiting_where_it_could_never_end_is_refused() -> None:
    future = background(forever)
    with no_waiting("here holds up what it waits for"):
        for wait in (future.wait, future.result, lambda: sleep(0), lambda: gather(future)):
            with pytest.raises(WaitingForbidden, match="holds up"):
                wait()
        background(sleep, 0)  # in a thread of its own it may
    future.cancel()
    assert background(int).wait().result() == 0


def test_a_future_of_the_parent_process_is_not_waited_for() -> None:
    future = background(forever)
    pid = os.fork()
    if pid == 0:
        try:
            future.result()
        except WaitingForbidden:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    future.cancel()


# -- several at once ---------------------------------------------------------------------------------------------------


def test_gather_gives_results_in_order() -> None:
    assert gather(background(lambda: sleep(0.02) or 1), background(lambda: 2)) == [1, 2]
    assert gather() == []
    one, error = gather(background(int), background(fail), return_exceptions=True)
    assert one == 0 and isinstance(error, KeyError)


def test_gather_raises_the_first_error_and_cancels_the_rest() -> None:
    waiting, kept = background(forever), background(forever)
    with pytest.raises(KeyError):
        gather(waiting, background(fail))
    assert waiting.wait().cancelled()
    with pytest.raises(KeyError):
        gather(kept, background(fail), cancel_pending=False)
    assert not kept.done()
    with pytest.raises(TimeoutError, match="1 of 1"):
        gather(kept, timeout=10 * unit.ms)
    assert kept.wait().cancelled()


def test_whoever_is_cancelled_while_he_gathers_cancels_what_he_gathers() -> None:
    waiting = background(forever)
    outer = background(gather, waiting)
    clock.sleep(0.02)
    outer.cancel()
    assert waiting.wait().cancelled() and outer.wait().cancelled()


def test_first_completed() -> None:
    ended = first_completed(background(divmod, 7, 2), slow=background(forever))
    assert ended.done == {0: (3, 1)} and list(ended.pending) == ["slow"] and ended.error == {}
    assert ended.pending["slow"].cancel() or ended.pending["slow"].cancelled()
    nothing = first_completed(background(forever), timeout=0.01)
    assert (nothing.done, list(nothing.pending)) == ({}, [0])


def test_first_exception_and_all_completed() -> None:
    slow, cancelled = background(forever), background(forever)
    ended = first_exception(ok=background(int), bad=background(fail), slow=slow)
    assert isinstance(ended.error["bad"], KeyError) and list(ended.pending) == ["slow"]
    cancelled.cancel()
    ended = all_completed(background(int), background(fail), cancelled, timeout=PATIENCE)
    assert ended.done == {0: 0} and isinstance(ended.error[1], KeyError) and ended.error[2] is None
    assert first_exception(background(int)).done == {0: 0}


def test_what_is_no_future_is_named() -> None:
    with pytest.raises(TypeError, match="expected a future"):
        gather(5)  # type: ignore[arg-type]


@pytest.mark.real_time("a race of hundreds of threads, which all look at the clock at once")
def test_a_hundred_threads_and_random_cancels_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(7)

    def work(depth: int) -> int:
        sleep(dice.random() * 0.02)
        if depth:
            return sum(gather(background(work, depth - 1), background(work, depth - 1)))
        return 1

    # Whatever the speed of the machine: one has its result before it can be cancelled, and some end in no other way.
    futures = [background(lambda: 4)]
    futures[0].result()
    futures += [background(work, 2) for _ in range(100)] + [background(sleep, 600.0) for _ in range(5)]
    left = [weakref.ref(future) for future in futures]
    while not all(future.done() for future in futures):
        dice.choice(futures).cancel()
        clock.sleep(0.0005)
    assert {future.cancelled() for future in futures} == {True, False}
    assert all(future.cancelled() or future.result() == 4 for future in futures)
    del futures
    gc.collect()
    end = clock.monotonic() + PATIENCE
    while any(ref() is not None for ref in left) and clock.monotonic() < end:
        clock.sleep(0.01)
        gc.collect()
    assert not [ref for ref in left if ref() is not None]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
