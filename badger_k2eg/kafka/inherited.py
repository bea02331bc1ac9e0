"""What a forked child inherits of librdkafka and must neither use nor let go. Imports fork.

Using, closing or collecting such a handle hangs or crashes: its threads are the parent's. So every handle is made
here, and what a child inherits is made immortal there; also one of which nobody knows any more, but a traceback.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient

from ..core import fork
from .broker_health import opened
from .resolver_lock import open_orphaned

#: Held while a handle is made: no fork may come between, as the library holds locks of its own then.
making = fork.Lock()


# Only a class made in Python has weak references. (The library has no types.)
class Consumer(confluent_kafka.Consumer):  # type: ignore[misc]
    """A consumer that is known here for as long as it lives."""


class Producer(confluent_kafka.Producer):  # type: ignore[misc]
    """A producer that is known here for as long as it lives."""


class _Handles:
    """All handles of this process."""

    def __init__(self) -> None:
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()
        # Through a fork, so that no garbage collection in the child comes before they are kept.
        self._held: list[Any] = []
        # Also once the last is gone from here: it may be about to end its threads.
        self._any_made = False
        fork.register(self)

    def add(self, handle: Any) -> None:
        self._alive.add(handle)
        self._any_made = True

    def before_fork(self) -> None:
        """Let none go; the parent's go on."""
        self._held = list(self._alive)

    def after_fork_in_parent(self) -> None:
        """Hold none any more."""
        self._held = []

    def after_fork_in_child(self) -> None:
        """Keep them all, up to the end of the interpreter and past it."""
        for handle in self._held:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
        self._alive, self._held = weakref.WeakSet(), []
        if self._any_made:
            # One of their threads may have been looking up an address.
            open_orphaned()


_handles = _Handles()


def make(kind: type[Any], configuration: dict[str, Any]) -> Any:
    """Make a `Consumer`, a `Producer` or an `AdminClient`.

    :raises SettingsError: naming the option that the library does not take.
    """
    with making:
        handle = opened(lambda: kind(configuration))
        _handles.add(handle)
        return handle


__all__ = ["AdminClient", "Consumer", "Producer", "make", "making"]
