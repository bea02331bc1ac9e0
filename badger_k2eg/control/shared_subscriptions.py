"""Live subscriptions of one interface, shared by all who watch the same PV and kept for the next call.

To subscribe to a hundred readbacks costs as much as to read them; an optimizer moves the same knobs again and again.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Callable

from ..core import clock, fork
from ..core.backend import Backend, Subscription, Update
from ..core.futures import no_waiting
from ..core.model import PvAddress

logger = logging.getLogger(__name__)

#: Seconds for which an unused subscription is kept, at least.
_KEEP = 60.0


class SharedSubscriptions:
    """The subscriptions of one interface, by PV."""

    def __init__(self, backend: Backend) -> None:
        """Subscribe to nothing yet."""
        self._backend = backend
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._feeds: dict[PvAddress, _Feed] = {}

    def attach(self, address: PvAddress, callback: Callable[[Update], None]) -> Subscription:
        """Call back with the last known state, at once, and with every update from now on, until closed."""
        with self._lock:
            feed = self._feeds.get(address)
            is_new = feed is None
            if feed is None:
                feed = self._feeds[address] = _Feed()
            # Wanted from here on: not to be pruned before it has its listener.
            feed.idle_since = math.inf
        if is_new:
            self._subscribe(address, feed)
        return _Listener(feed, callback)

    def _subscribe(self, address: PvAddress, feed: _Feed) -> None:
        # Not under the lock: a fork may hold the backend's, and wait for this one.
        try:
            feed.subscription = self._backend.monitor(address, _forward(feed))
        except BaseException:
            with self._lock:
                self._feeds.pop(address, None)
            raise

    @property
    def watched(self) -> list[PvAddress]:
        """The PVs that have listeners now."""
        with self._lock:
            return [address for address, feed in self._feeds.items() if feed.listeners]

    def prune(self) -> None:
        """Close the subscriptions that have not been used for a while."""
        before = clock.monotonic() - _KEEP
        with self._lock:
            idle = [address for address, feed in self._feeds.items() if feed.idle_since < before]
            closing = [self._feeds.pop(address) for address in idle]
        for feed in closing:
            feed.close()

    def close(self) -> None:
        """Close every subscription."""
        with self._lock:
            feeds, self._feeds = self._feeds, {}
        for feed in feeds.values():
            feed.close()

    def before_fork(self) -> None:
        """Take the lock, so that the child's copy is consistent."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Release the lock."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start without subscriptions: those are the parent's."""
        self._begin()


class _Feed:
    """One subscription, its last update and its listeners."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None
        self.listeners: list[_Listener] = []
        self.idle_since = math.inf
        # Held while listeners are told, so that each hears the last state first, and everything in order.
        self.lock = threading.RLock()
        self._last: Update | None = None

    def tell(self, update: Update) -> None:
        with self.lock:
            self._last = update
            for listener in list(self.listeners):
                # One may have closed another.
                if listener in self.listeners:
                    listener.tell(update)

    def add(self, listener: _Listener) -> None:
        with self.lock:
            self.listeners.append(listener)
            self.idle_since = math.inf
            if self._last is not None:
                listener.tell(self._last)

    def remove(self, listener: _Listener) -> None:
        with self.lock:
            if listener in self.listeners:
                self.listeners.remove(listener)
            if not self.listeners:
                self.idle_since = clock.monotonic()

    def close(self) -> None:
        if self.subscription is not None:
            self.subscription.close()


class _Listener:
    """One listener of a feed."""

    def __init__(self, feed: _Feed, callback: Callable[[Update], None]) -> None:
        self._callback = callback
        self._feed = feed
        feed.add(self)

    def tell(self, update: Update) -> None:
        try:
            with no_waiting("in a callback for updates would hold up the very updates that it waits for"):
                self._callback(update)
        except Exception:  # a callback is not ours; its fault must not keep the news from the others
            logger.exception("a callback for updates failed")

    def close(self) -> None:
        """End it. Idempotent; no callback begins after it returns."""
        self._feed.remove(self)


def _forward(feed: _Feed) -> Callable[[Update], None]:
    """Return a callback that tells the feed for as long as its interface lives, and then ends the subscription."""
    alive = weakref.ref(feed)
    subscription: list[Subscription] = []

    def tell(update: Update) -> None:
        if (living := alive()) is not None:
            if not subscription and living.subscription is not None:
                subscription.append(living.subscription)
            living.tell(update)
        elif subscription:
            subscription.pop().close()

    return tell
