"""The handles of librdkafka: how each is made, and what a forked child does with those that it inherits.

Using, closing or collecting an inherited handle hangs or crashes, because its threads exist in the parent only. So
every handle is made here, and a child makes those it inherits immortal; also one that only a traceback still refers to.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any

import confluent_kafka
import confluent_kafka.cimpl
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from ..core import fork
from ..core.errors import SettingsError
from .connection import KafkaConnection
from .resolver_lock import release_orphaned

#: Held while a handle is made: no fork may come between, because the library holds locks of its own then.
making = fork.Lock()


def c_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of librdkafka with these types, e.g. ``"opaque"`` for ``rd_kafka_opaque``; None if hidden."""
    try:
        # The extension module depends on librdkafka, wherever that is installed: symbols of both are found through it.
        # By item a new object is made each time, so that its types belong to the caller.
        function = ctypes.CDLL(confluent_kafka.cimpl.__file__)[f"rd_kafka_{name}"]
    except (OSError, AttributeError):
        return None
    function.restype, function.argtypes = result, arguments
    return function


# Only classes made in Python have weak references. (The library has no types.)
class ConsumerHandle(confluent_kafka.Consumer):  # type: ignore[misc]
    """A consumer of the library."""


class ProducerHandle(confluent_kafka.Producer):  # type: ignore[misc]
    """A producer of the library."""


class _Handles:
    """All handles of this process."""

    def __init__(self) -> None:
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()
        # Held during a fork, so that no garbage collection in the child comes before they are kept.
        self._held: list[Any] = []
        # Stays true once the last one is gone: that one may still be ending its threads.
        self._any_made = False
        fork.register(self)

    def add(self, handle: Any) -> None:
        """Remember a new handle for as long as it lives."""
        self._alive.add(handle)
        self._any_made = True

    def before_fork(self) -> None:
        """Hold all handles; those of the parent keep working."""
        self._held = list(self._alive)

    def after_fork_in_parent(self) -> None:
        """Let go of the handles again."""
        self._held = []

    def after_fork_in_child(self) -> None:
        """Keep the inherited handles until the process ends, past the end of the interpreter."""
        for handle in self._held:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
        self._alive, self._held = weakref.WeakSet(), []
        if self._any_made:
            # One of their threads may have been looking up an address.
            release_orphaned()


_handles = _Handles()


def make(kind: type[Any], configuration: dict[str, Any]) -> Any:
    """Make a `ConsumerHandle`, a `ProducerHandle` or an `AdminClient`.

    :raises SettingsError: naming the option that the library does not accept.
    """
    with making:
        try:
            handle = kind(configuration)
        except KafkaException as error:
            raise SettingsError(f"Kafka: {error.args[0].str()}") from None
        except (TypeError, ValueError) as error:
            raise SettingsError(f"Kafka: {error}") from None
        _handles.add(handle)
        return handle


class LazyHandle:
    """Base of everything that opens its handle when it is first needed.

    A fork leaves the parent's as it is; the child starts without one.

    :param connection: where the brokers are.
    :param name: for the thread and the log.
    """

    def __init__(self, connection: KafkaConnection, name: str) -> None:
        """Open nothing."""
        self._connection = connection
        self._name = name
        self._closed = False
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        """Set the initial state; called again in a forked child."""
        self._lock = threading.Lock()

    def before_fork(self) -> None:
        """Do nothing: the parent's handle keeps working."""

    def after_fork_in_parent(self) -> None:
        """Do nothing."""

    def after_fork_in_child(self) -> None:
        """Return to the initial state."""
        self._begin()


__all__ = ["AdminClient", "ConsumerHandle", "LazyHandle", "ProducerHandle", "c_function", "make", "making"]
