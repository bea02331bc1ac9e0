"""``Closer``: closes a client library's handles in a thread of its own, so that callers need not wait for it.

p4p closes a handle by two round trips to its worker thread, one handle after another: 0.08 ms each, which was measured
as more than half of the time of a get. Closing in the worker's own callbacks would cost nothing, but pvxs warns then.
Imports nothing of the package.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

# So many handles may wait (some 3 kB each); beyond, whoever adds one closes one, which slows a loop of reads down.
_MOST = 500
# Seconds that a fork waits for a handle that is being closed.
_PATIENCE = 5.0


class Closer:
    """Runs functions that close a handle. They must not take a lock that is held while waiting."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._waiting: deque[Callable[[], None]] = deque()
        # True: a function may be waiting; False: end the thread.
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Guards the number of running functions; held for an instant only.
        self._idle = threading.Condition(threading.RLock())
        self._running = 0

    def later(self, close: Callable[[], None]) -> None:
        """Run a function soon."""
        self._waiting.append(close)
        if len(self._waiting) > _MOST:
            self._run_one()
            return
        self._wake.put(True)
        if self._thread is None:
            self._start()

    def drain(self) -> None:
        """Run every waiting function, and return when none runs in another thread either."""
        while self._run_one():
            pass
        with self._idle:
            self._idle.wait_for(lambda: not self._running, _PATIENCE)

    def close(self) -> None:
        """Run every waiting function and end the thread, which starts again when needed."""
        self.drain()
        with self._idle:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._wake.put(False)
            if thread is not threading.current_thread():
                thread.join()

    def _start(self) -> None:
        with self._idle:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pva closer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._wake.get():
            self._run_one()

    def _run_one(self) -> bool:
        with self._idle:
            if not self._waiting:
                return False
            close = self._waiting.popleft()
            self._running += 1
        try:
            close()
        except Exception:  # one that fails must not keep the others open
            logger.exception("closing a handle failed")
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()
        return True
