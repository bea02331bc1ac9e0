"""Calls that wait, and can be cancelled. Imports deadline and errors."""

from __future__ import annotations

import threading

from .deadline import Deadline


def sleep(delay: float, deadline: Deadline | None = None) -> None:
    """Wait for at least ``delay`` seconds, or less where the deadline ends earlier.

    Waits of the write path (before a put is sent again, between the steps of a ramp) go through this one function: a
    unit test may patch it, as ``badger_k2eg.synchronized.sleep``.

    :raises CallCancelled: as soon as the deadline is cancelled.
    """
    pause = (deadline or Deadline()).child(delay)
    condition = threading.Condition()
    with condition:
        pause.wait(condition, lambda: False, what="sleep")
