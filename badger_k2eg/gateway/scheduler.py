"""One thread for all that the gateway does at a time: windows, iterations, expiry."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

from ..core import clock

logger = logging.getLogger(__name__)

_PATIENCE = 5.0


class Clock:
    """Calls functions at their time, one after another, in a thread of its own."""

    def __init__(self) -> None:
        """Start nothing."""
        self._changed = threading.Condition()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="gateway clock", daemon=True)
        self._thread.start()

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Call at a time of the monotonic clock; in the order of times, and of the calls for one time."""
        with self._changed:
            heapq.heappush(self._agenda, (when, next(self._order), function))
            self._changed.notify()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call after so many seconds."""
        self.call_at(clock.monotonic() + seconds, function)

    def close(self) -> None:
        """End the thread; what was still to come is forgotten. Idempotent."""
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
                logger.exception("a task of the gateway's clock failed")

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
