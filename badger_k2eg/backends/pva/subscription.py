"""A monitor of one PV, and the thread that reads what has arrived. Part of the room ``pva``."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from p4p.client.raw import Context as RawContext
from p4p.client.raw import RemoteError

from ...core.backend import Update
from ...core.errors import PvNotConnected, PvRefused
from ...core.model import PvAddress, Reading

if TYPE_CHECKING:
    from . import PvaBackend

logger = logging.getLogger(__name__)


class PvaSubscription:
    """A monitor of one PV that comes back after a reconnect and after a fork."""

    def __init__(self, backend: PvaBackend, address: PvAddress, callback: Callable[[Update], None], depth: int) -> None:
        """Remember what to subscribe to; ``open`` does it."""
        self.address = address
        self.callback = callback
        self.closed = False
        #: As far as the last update tells.
        self.connected = False
        self._backend = backend
        self._depth = depth
        self._handle: Any = None
        # Held by the monitor thread while it calls back, so that ``close`` can wait for that.
        self._calling = threading.RLock()
        # Held while the handle is read and while it is closed. A ``pop`` that outlasts a ``close`` in another thread
        # lets go of the last reference; p4p holds the GIL then and waits for its own thread, which may be waiting for
        # the GIL: the whole process stands still (p4p 4.3.0) [M].
        self._reading = threading.Lock()

    def open(self, context: Any, events: queue.SimpleQueue[PvaSubscription | None]) -> None:
        """Subscribe; p4p's thread only appends this subscription to the queue of events."""
        request = f"field()record[queueSize={self._depth}]"
        self._handle = RawContext.monitor(context, self.address.name, lambda: events.put(self), request)
        # p4p tells of an update once, until all are read. One that came before the line above had ended found no handle
        # to read it from, and the subscription would say nothing more for ever.
        events.put(self)
        if self.closed:
            # Meanwhile, in another thread, which found no handle to close.
            self.pause()

    def pause(self) -> None:
        """Unsubscribe for the time of a fork."""
        self.connected = False
        with self._reading:
            handle, self._handle = self._handle, None
            if handle is not None:
                handle.close()

    def close(self) -> None:
        """End it; no callback begins afterwards, and one that runs (in another thread) has ended."""
        self.closed = True
        self._backend.drop(self)
        with self._calling:
            pass

    def forget(self) -> None:
        """In a forked child: it belongs to the parent, and so does the thread that may hold its lock."""
        self.closed = True
        self._handle = None
        self._calling = threading.RLock()
        self._reading = threading.Lock()

    def deliver(self, decode: Callable[[Any], Reading]) -> None:
        """Hand over everything that has arrived (monitor thread)."""
        with self._calling:
            while not self.closed:
                with self._reading:
                    event = None if self._handle is None else self._handle.pop()
                if event is None:
                    return
                try:
                    self.callback(self._update(event, decode))
                except Exception:  # a callback is not ours; its fault must not end the other subscriptions
                    logger.exception("the callback for updates of %s failed", self.address)

    def _update(self, event: Any, decode: Callable[[Any], Reading]) -> Update:
        self.connected = not isinstance(event, Exception)
        if not isinstance(event, Exception):
            return decode(event)
        if isinstance(event, RemoteError):
            return PvRefused(self.address.text, str(event))
        return PvNotConnected(self.address.text, "disconnected")


def dispatch(events: queue.SimpleQueue[PvaSubscription | None], decode: Callable[[Any], Reading]) -> None:
    """Read and hand over updates, until told to end (monitor thread)."""
    while (subscription := events.get()) is not None:
        try:
            subscription.deliver(decode)
        except Exception:  # one broken subscription must not silence the others
            logger.exception("reading an update of %s failed", subscription.address)
