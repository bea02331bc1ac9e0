"""Where the package takes its time from, and what its threads wait in: one clock, which a test may replace.

In use is the machine's own: ``monotonic`` is that of ``time``, an event is one of ``threading``. A test installs
another (``badger_k2eg.testing.virtual_clock``) whose time goes on only when nobody has anything to do; so whatever
waits for our own pace (a delay, a deadline, a settle time) asks here. What waits for somebody else's (a server, a
broker, a child process) asks ``time``. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time as _time
from collections.abc import Iterator
from typing import Any

# Condition.wait overflows beyond threading.TIMEOUT_MAX; waking up once an hour costs nothing.
_LONGEST_WAIT = 3600.0


class Clock:
    """The machine's own clock. Another one derives from it."""

    def monotonic(self) -> float:
        """Give seconds that never go back."""
        return _time.monotonic()

    def time_ns(self) -> int:
        """Give nanoseconds since the Unix epoch."""
        return _time.time_ns()

    def sleep(self, seconds: float) -> None:
        """Wait, whatever happens."""
        _time.sleep(seconds)

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Wait, holding the condition, until it is notified, the time is over, or for no reason at all.

        :param seconds: may be infinite.
        """
        condition.wait(min(seconds, _LONGEST_WAIT))

    def event(self) -> threading.Event:
        """Make an event that waits by this clock."""
        return threading.Event()

    def simple_queue(self) -> queue.SimpleQueue[Any]:
        """Make a queue that waits by this clock."""
        return queue.SimpleQueue()


_in_use = Clock()


@contextlib.contextmanager
def installed(clock: Clock) -> Iterator[None]:
    """Let the whole process go by another clock meanwhile."""
    global _in_use
    before, _in_use = _in_use, clock
    try:
        yield
    finally:
        _in_use = before


def monotonic() -> float:
    """Give seconds that never go back."""
    return _in_use.monotonic()


def time() -> float:
    """Give seconds since the Unix epoch."""
    return _in_use.time_ns() * 1e-9


def time_ns() -> int:
    """Give nanoseconds since the Unix epoch."""
    return _in_use.time_ns()


def sleep(seconds: float) -> None:
    """Wait, whatever happens; ``futures.sleep`` is the one that can be cancelled."""
    _in_use.sleep(seconds)


def wait(condition: threading.Condition, seconds: float) -> None:
    """Wait, holding the condition, until it is notified, the time is over, or for no reason at all.

    :param seconds: may be infinite.
    """
    _in_use.wait(condition, seconds)


def event() -> threading.Event:
    """Make an event; with the machine's own clock one of ``threading``."""
    return _in_use.event()


def simple_queue() -> queue.SimpleQueue[Any]:
    """Make a queue; with the machine's own clock one of ``queue``."""
    return _in_use.simple_queue()
