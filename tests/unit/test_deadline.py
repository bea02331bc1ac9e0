"""``Deadline``: how long a call may take, and whether it is still wanted."""

from __future__ import annotations

import math
import signal
import threading
import time
from functools import partial
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.core import clock, futures
from badger_k2eg.core.deadline import FOREVER, Deadline
from badger_k2eg.errors import CallCancelled
from badger_k2eg.testing.virtual_clock import VirtualClock

#: Two looks at the virtual clock differ by a nanosecond.
NEARLY = 1e-6


def test_it_counts_down_and_never_below_zero() -> None:
    deadline = Deadline(0.05)
    assert 0.0 < deadline.remaining() <= 0.05 and not deadline.expired
    clock.sleep(0.06)
    assert deadline.remaining() == 0.0 and deadline.expired and not deadline.cancelled


def test_for_ever_is_minus_one() -> None:
    deadline = Deadline(FOREVER)
    assert FOREVER == -1 and deadline.remaining() == math.inf and not deadline.expired
    assert Deadline().remaining() == math.inf
    deadline.cancel()
    assert deadline.remaining() == 0.0 and deadline.expired and deadline.cancelled


@pytest.mark.parametrize("seconds", [math.nan, -0.5, -2, -math.inf])
def test_what_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="-1 for ever"):
        Deadline(seconds)


def test_no_time_at_all_is_over_at_once() -> None:
    assert Deadline(0).expired


@given(st.lists(st.sampled_from([FOREVER, 0.0, 0.5, 10.0, 1e9]), min_size=1, max_size=6))
def test_a_child_never_ends_later_than_any_above_it(chain: list[float]) -> None:
    deadline = Deadline(chain[0])
    limits = [deadline.expires]
    for seconds in chain[1:]:
        deadline = deadline.child(seconds)
        assert deadline.expires <= min(limits)
        limits.append(deadline.expires)


def test_its_seconds_are_those_that_it_has() -> None:
    assert Deadline(0.3).seconds == 0.3 and Deadline().seconds == FOREVER
    call = Deadline(0.3)
    assert call.child(0.123456).seconds == 0.123456, "its own, as they were said"
    assert call.child(30.0).seconds == pytest.approx(0.3, abs=0.1), "and no more than are left to the call"
    assert call.child().seconds == pytest.approx(0.3, abs=0.1)
    clock.sleep(0.2)
    assert call.child(30.0).seconds <= 0.1 and call.child(30.0).child(20.0).seconds <= 0.1
    assert Deadline(0.0).child(30.0).seconds == 0.0


def test_cancelling_a_parent_cancels_its_children_and_not_the_other_way_round() -> None:
    parent = Deadline(10.0)
    child, other = parent.child(5.0), parent.child()
    grandchild = child.child(1.0)
    child.cancel()
    assert child.cancelled and grandchild.cancelled and not parent.cancelled and not other.cancelled
    parent.cancel()
    assert other.cancelled


def test_a_callback_runs_once_whoever_cancels() -> None:
    parent = Deadline()
    child = parent.child()
    calls: list[str] = []
    child.on_cancel(lambda: calls.append("child"))
    parent.cancel()
    parent.cancel()
    child.cancel()
    assert calls == ["child"]
    child.on_cancel(lambda: calls.append("late"))
    assert calls == ["child", "late"], "at once when it is already cancelled"


def test_a_callback_that_was_taken_off_is_not_called() -> None:
    parent = Deadline()
    child = parent.child()
    calls: list[int] = []
    remove = child.on_cancel(lambda: calls.append(1))
    child.on_cancel(lambda: calls.append(2))
    remove()
    remove()
    parent.cancel()
    assert calls == [2]


def test_children_leave_nothing_with_their_parent() -> None:
    """A deadline that lives as long as a run has many thousand children."""
    parent = Deadline()
    condition = threading.Condition()
    for _ in range(100):
        with condition:
            parent.child(0.0).wait(condition, lambda: False)
    assert not parent._callbacks


def test_a_callback_that_fails_does_not_keep_the_others_from_waking() -> None:
    deadline = Deadline()
    calls: list[int] = []

    def fail() -> None:
        raise RuntimeError("broken")

    deadline.on_cancel(fail)
    deadline.on_cancel(lambda: calls.append(1))
    with pytest.raises(RuntimeError, match="broken"):
        deadline.cancel()
    assert calls == [1] and deadline.cancelled


def test_check_raises_once_it_is_not_wanted() -> None:
    deadline = Deadline(0.0)
    deadline.check("reading")  # over, but not cancelled
    deadline.cancel()
    with pytest.raises(CallCancelled, match="reading cancelled"):
        deadline.check("reading")


def test_wait_ends_by_the_condition_by_time_and_by_cancel(virtual_clock: VirtualClock) -> None:
    condition, done = threading.Condition(), []

    def finish() -> None:
        clock.sleep(0.05)
        with condition:
            done.append(1)
            condition.notify_all()

    thread = threading.Thread(target=finish)
    thread.start()
    with condition:
        assert Deadline(10.0).wait(condition, lambda: bool(done)) is True
    thread.join()
    with condition:
        began = clock.monotonic()
        assert Deadline(0.05).wait(condition, lambda: False) is False
        assert clock.monotonic() - began == pytest.approx(0.05, abs=NEARLY)
    deadline = Deadline(30.0)
    timer = virtual_clock.later(0.05, deadline.cancel)
    with condition, pytest.raises(CallCancelled, match="moving cancelled"):
        deadline.wait(condition, lambda: False, what="moving")
    timer.join()


def test_wait_does_not_ask_the_clock_of_what_is_true_already() -> None:
    condition = threading.Condition()
    deadline = Deadline(0.0)
    with condition:
        assert deadline.wait(condition, lambda: True) is True


def test_a_cancel_from_the_waiting_thread_itself_does_not_block(virtual_clock: VirtualClock) -> None:
    """A signal handler runs in the main thread, in the midst of whatever it does."""
    condition = threading.Condition()
    for _ in range(20):
        deadline = Deadline(10.0)
        previous = signal.signal(signal.SIGVTALRM, lambda number, frame, end=deadline: end.cancel())
        try:
            kill = partial(signal.pthread_kill, threading.main_thread().ident, signal.SIGVTALRM)
            timer = virtual_clock.later(0.01, kill)
            with condition, pytest.raises(CallCancelled):
                deadline.wait(condition, lambda: False)
            timer.join()
        finally:
            signal.signal(signal.SIGVTALRM, previous)


def test_a_cancel_by_a_signal_finds_no_lock_held() -> None:
    """The handler may come while this very thread is inside on_cancel, or taking a callback off."""
    present: list[Deadline] = []

    def cancel(number: int, frame: FrameType | None) -> None:
        if present:
            present[0].cancel()

    previous = signal.signal(signal.SIGVTALRM, cancel)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0002, 0.0002)
    try:
        until = time.process_time() + 1.0
        while time.process_time() < until:
            deadline = Deadline()
            called: list[int] = []
            present[:] = [deadline]
            for _ in range(200):
                remove = deadline.on_cancel(lambda called=called: called.append(1))
                remove()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, previous)


def test_sleep_is_as_long_as_it_says_or_as_its_deadline_allows() -> None:
    began = clock.monotonic()
    futures.sleep(0.05)
    assert clock.monotonic() - began == pytest.approx(0.05, abs=NEARLY)
    began = clock.monotonic()
    futures.sleep(30.0, Deadline(0.05))
    assert clock.monotonic() - began == pytest.approx(0.05, abs=NEARLY)


def test_sleep_ends_at_once_on_cancel(virtual_clock: VirtualClock) -> None:
    deadline = Deadline()
    at: list[float] = []
    timer = virtual_clock.later(0.05, lambda: (at.append(clock.monotonic()), deadline.cancel()))
    with pytest.raises(CallCancelled, match="sleep cancelled"):
        futures.sleep(30.0, deadline)
    assert clock.monotonic() - at[0] < NEARLY
    timer.join()
