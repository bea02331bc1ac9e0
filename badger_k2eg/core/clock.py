"""The clock of the package: its time, and what its threads wait in. A test may replace it.

By default it is the machine's: ``monotonic`` is that of ``time``, an event is one of ``threading``. A test installs
another (``badger_k2eg.testing.virtual_clock``) whose time advances only when every thread waits. So all waits that
this package decides on (a delay, a deadline, a settle time) use this clock; waits for others (a server, a broker, a
child process) use ``time``.
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
    """The machine's clock, and the base class of others."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return _time.monotonic()

    def time_ns(self) -> int:
        """Return nanoseconds since the Unix epoch."""
        return _time.time_ns()

    def sleep(self, seconds: float) -> None:
        """Wait; nothing ends it earlier."""
        _time.sleep(seconds)

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Wait until the condition, which must be held, is notified or the time is over; may return earlier.

        :param seconds: may be infinite.
        """
        condition.wait(min(seconds, _LONGEST_WAIT))

    def event(self) -> threading.Event:
        """Return a new event that waits by this clock."""
        return threading.Event()

    def simple_queue(self) -> queue.SimpleQueue[Any]:
        """Return a new queue that waits by this clock."""
        return queue.SimpleQueue()


_in_use = Clock()


@contextlib.contextmanager
def installed(clock: Clock) -> Iterator[None]:
    """Use another clock in the whole process inside the ``with`` block."""
    global _in_use
    before, _in_use = _in_use, clock
    try:
        yield
    finally:
        _in_use = before


def monotonic() -> float:
    """Return seconds that never go back."""
    return _in_use.monotonic()


def time() -> float:
    """Return seconds since the Unix epoch."""
    return _in_use.time_ns() * 1e-9


def time_ns() -> int:
    """Return nanoseconds since the Unix epoch."""
    return _in_use.time_ns()


def sleep(seconds: float) -> None:
    """Wait; nothing ends it earlier (``futures.sleep`` can be cancelled)."""
    _in_use.sleep(seconds)


def wait(condition: threading.Condition, seconds: float) -> None:
    """Wait until the condition, which must be held, is notified or the time is over; may return earlier.

    :param seconds: may be infinite.
    """
    _in_use.wait(condition, seconds)


def event() -> threading.Event:
    """Return a new event; with the machine's clock one of ``threading``."""
    return _in_use.event()


def simple_queue() -> queue.SimpleQueue[Any]:
    """Return a new queue; with the machine's clock one of ``queue``."""
    return _in_use.simple_queue()
