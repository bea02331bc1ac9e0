"""``Mailbox``: the bounded queue between a thread that receives updates and a callback that may be slow.

``Dispatcher`` is the thread that calls the callbacks of a client's mailboxes, one at a time. Imports the clock only.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from . import clock

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A subscription's updates on their way to its callback. When it is full the oldest goes, so the last one stays.

    :param dispatcher: calls the callback.
    :param callback: gets each update, in order, never two at a time; what it raises is logged.
    :param depth: the number of updates kept for a slow callback, at least 1.
    :param source: names the origin of the updates in the log.
    :param on_close: called once with the mailbox when it is closed, to end what feeds it.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        callback: Callable[[T], None],
        depth: int,
        source: str,
        on_close: Callable[[Self], None],
    ) -> None:
        """Begin empty."""
        self.closed = False
        self._dispatcher = dispatcher
        self._callback = callback
        self._source = source
        self._on_close: Callable[[Any], None] = on_close
        self._waiting: deque[T] = deque(maxlen=max(1, depth))
        # Held while calling back, so that ``close`` can wait for the callback; reentrant: a callback may close.
        self._calling = threading.RLock()

    def put(self, update: T) -> bool:
        """Add an update; return False when the oldest one was dropped for it. Never waits."""
        is_full = len(self._waiting) == self._waiting.maxlen
        self._waiting.append(update)
        self._dispatcher.ready(self)
        return not is_full

    def _take(self) -> T | None:
        """Remove and return the oldest update; None when there is none."""
        return self._waiting.popleft() if self._waiting else None

    def deliver(self) -> None:
        """Call back with every waiting update (the dispatcher's thread)."""
        with self._calling:
            while not self.closed and (update := self._take()) is not None:
                try:
                    self._callback(update)
                except Exception:  # the fault of a user's callback must not end the other subscriptions
                    logger.exception("the callback for updates of %s failed", self._source)

    def close(self) -> None:
        """End the subscription. No callback begins afterwards, and one in another thread has ended. Idempotent."""
        if not self.closed:
            self.closed = True
            self._on_close(self)
        with self._calling:
            self._waiting.clear()

    def forget(self) -> None:
        """Close it in a forked child, where nobody releases the lock of a callback that ran during the fork."""
        self.closed = True
        self._calling = threading.RLock()


class Dispatcher:
    """The thread that calls the callbacks of mailboxes. Make a new one in a forked child.

    :param name: the name of the thread.
    """

    def __init__(self, name: str) -> None:
        """Start nothing yet."""
        self._name = name
        self._ready: queue.SimpleQueue[Mailbox[Any] | None] = clock.simple_queue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs already. Not to be called by two threads at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def ready(self, mailbox: Mailbox[Any]) -> None:
        """Deliver what waits in a mailbox soon. Takes no lock, so that a client library's own thread may call it."""
        self._ready.put(mailbox)

    def close(self, patience: float) -> None:
        """End the thread; wait at most ``patience`` seconds for the callback that runs. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ready.put(None)
        if thread is not threading.current_thread():
            thread.join(patience)

    def _run(self) -> None:
        while (mailbox := self._ready.get()) is not None:
            try:
                mailbox.deliver()
            except Exception:  # one broken subscription must not silence the others
                logger.exception("reading the updates of a subscription failed")
