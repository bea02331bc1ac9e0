"""Waiting for futures under a `Deadline`. Imports deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

from ..core.deadline import Deadline

_SLICE = 0.05


def wait_all(
    futures: Collection[Future[Any]], deadline: Deadline, what: str, give_up: Callable[[], bool] = lambda: False
) -> bool:
    """Wait until all are done; False when the time ran out first, or there is no sense in waiting longer.

    :param give_up: asked many times a second.
    :raises CallCancelled: when the deadline was cancelled.
    """
    changed = threading.Condition()

    def notify(_: Future[Any]) -> None:
        with changed:
            changed.notify_all()

    def done() -> bool:
        return all(future.done() for future in futures)

    for future in futures:
        future.add_done_callback(notify)
    while not deadline.expired and not give_up():
        with changed:
            if deadline.child(_SLICE).wait(changed, done, what=what):
                return True
    deadline.check(what)
    return done()


def pause(seconds: float, deadline: Deadline, what: str) -> None:
    """Wait so long, at most until the deadline.

    :raises CallCancelled: when the deadline was cancelled.
    """
    nothing = threading.Condition()
    with nothing:
        deadline.child(seconds).wait(nothing, lambda: False, what=what)
