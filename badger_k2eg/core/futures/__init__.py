"""Calls that wait: with a timeout, in the background, cancelled, combined.

Every waiting call of this package is a point at which a task in the background can be cancelled; other code is not
interrupted. Pauses while writing (before a put is sent again, between the steps of a ramp) go through ``sleep``: a unit
test may patch it, as ``badger_k2eg.core.futures.sleep``.
"""

from .future import (
    ABSENT,
    Absent,
    Callback,
    Future,
    Time,
    asked_by,
    asker,
    background,
    call,
    check_waiting,
    no_waiting,
    sleep,
)
from .gather import Ended, all_completed, first_completed, first_exception, gather

__all__ = [
    "ABSENT",
    "Absent",
    "Callback",
    "Ended",
    "Future",
    "Time",
    "all_completed",
    "asked_by",
    "asker",
    "background",
    "call",
    "check_waiting",
    "first_completed",
    "first_exception",
    "gather",
    "no_waiting",
    "sleep",
]
