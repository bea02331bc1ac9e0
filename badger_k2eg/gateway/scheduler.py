"""``Scheduler``: one thread for everything that is due at a time, such as windows, iterations and expiry."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

from ..core import clock

logger = logging.getLogger(__name__)

_PATIENCE = 5.0


class Scheduler:
    """Calls functions when they are due, one after another, in a thread of its own."""

    def __init__(self) -> None:
        """Start nothing."""
        self._changed = threading.Condition()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="gateway scheduler", daemon=True)
        self._thread.start()

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Call a function at a time of the monotonic clock; functions for the same time in the order of these calls."""
        with self._changed:
            heapq.heappush(self._agenda, (when, next(self._order), function))
            self._changed.notify()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after so many seconds."""
        self.call_at(clock.monotonic() + seconds, function)

    def close(self) -> None:
        """End the thread and forget what is not due yet. Idempotent."""
        with self._changed:
            self._closed = True
            self._agenda.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except Exception:  # one that fails must not stop the others
                logger.exception("a scheduled task of the gateway failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                if not self._agenda:
                    self._changed.wait()
                elif (left := self._agenda[0][0] - clock.monotonic()) > 0.0:
                    clock.wait(self._changed, left)
                else:
                    return heapq.heappop(self._agenda)[2]
            return None
