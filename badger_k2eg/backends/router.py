"""The router that finds the backend of each address, and the leases of the backends of this process.

A plugin host builds interfaces by the dozen; they share one client per transport. A client without a lease is closed at
the next lease: not by the garbage collector, which may run in a client library's own thread.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from .. import backends
from ..core import fork
from ..core.backend import Backend, Subscription, Update, has_fields
from ..core.deadline import Deadline
from ..core.model import PutAnswer, PvAddress
from .foreign_context import ContextBackend

T = TypeVar("T")


class _Pool:
    """The open backends by key, each with the number of its users."""

    def __init__(self) -> None:
        # In a forked child the backends start over by themselves.
        self._lock = fork.Lock()
        self._live: dict[Hashable, tuple[Backend, int]] = {}
        self._released: deque[Hashable] = deque()

    def lease(self, key: Hashable, make: Callable[[], Backend]) -> Backend:
        with self._lock:
            self._count()
            idle = [k for k, (_, users) in self._live.items() if users <= 0 and k != key]
            closing = [self._live.pop(k)[0] for k in idle]
            backend, users = self._live.get(key) or (make(), 0)
            self._live[key] = (backend, users + 1)
        for other in closing:
            other.close()
        return backend

    def release(self, key: Hashable) -> None:
        # Also called by a finalizer, at any point of any thread: it must take no lock that the thread might hold.
        self._released.append(key)

    def _count(self) -> None:
        """Count the releases (with the lock held)."""
        while self._released:
            if (entry := self._live.get(key := self._released.popleft())) is not None:
                self._live[key] = (entry[0], entry[1] - 1)

    def close_idle(self) -> None:
        with self._lock:
            self._count()
            closing = [self._live.pop(k)[0] for k, (_, users) in list(self._live.items()) if users <= 0]
        for backend in closing:
            backend.close()


_pool = _Pool()


def connect(way: backends.Way, context: Any = None) -> Backend:
    """Return the backend for one interface.

    :param way: the scheme of bare names, ``pva`` or ``ca``; or ``ThroughK2eg``, for names of every scheme.
    :param context: replaces the client: a backend, or any object with ``get`` and ``put`` like p4p's thread
        ``Context`` (also a mock). Its owner closes it.
    """
    if context is None:
        return Router(way)
    return context if _is_backend(context) else ContextBackend(context)


def _is_backend(context: object) -> bool:
    # By class, as a mock instance has every attribute.
    return all(callable(getattr(type(context), name, None)) for name in ("get_many", "put_many", "monitor"))


class Router:
    """Passes each address to the backend of its scheme, or all to the gateway; opens backends at their first use."""

    def __init__(self, way: backends.Way) -> None:
        """Open nothing yet.

        :param way: the scheme of bare names, or the gateway for names of every scheme.
        """
        self._usual = way
        self._leases: dict[backends.Way, Backend] = {}
        # One key per lease: threads that use a backend first at the same time lease it once each.
        self._keys: list[Hashable] = []
        self._finalizer = weakref.finalize(self, _release, self._keys)
        # At interpreter exit the clients close themselves.
        self._finalizer.atexit = False

    @property
    def loses_updates(self) -> bool:
        """Whether the last update of a monitor may differ from the PV's value; see ``backend.loses_updates``."""
        return isinstance(self._usual, backends.ThroughK2eg)

    def has_fields(self, address: PvAddress) -> bool:
        """Return the answer of the address's backend; see ``backend.has_fields``."""
        return has_fields(self._backend(self._way(address)), address)

    def _backend(self, way: backends.Way) -> Backend:
        if way not in self._leases:
            key = backends.identity(way)
            leased = _pool.lease(key, lambda: backends.open_backend(way))
            self._keys.append(key)
            self._leases[way] = leased
        return self._leases[way]

    def _way(self, address: PvAddress) -> backends.Way:
        return self._usual if isinstance(self._usual, backends.ThroughK2eg) else address.scheme or self._usual

    def _groups(self, addresses: Collection[PvAddress]) -> dict[backends.Way, list[PvAddress]]:
        groups: dict[backends.Way, list[PvAddress]] = {}
        for address in addresses:
            groups.setdefault(self._way(address), []).append(address)
        return groups

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs, over every transport at the same time."""
        groups = self._groups(addresses)
        return _together([partial(self._backend(s).get_many, group, deadline) for s, group in groups.items()])

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write PVs, over every transport at the same time."""
        groups = {s: {a: values[a] for a in group} for s, group in self._groups(values).items()}
        return _together([partial(self._backend(s).put_many, group, deadline, wait) for s, group in groups.items()])

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read values of one instant, as far as each transport allows."""
        groups = self._groups(addresses)
        return _together([partial(self._backend(s).snapshot, group, window, deadline) for s, group in groups.items()])

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Subscribe over the transport of the address."""
        return self._backend(self._way(address)).monitor(address, callback, queue)

    def suspend(self) -> None:
        """Close every handle for the time of a fork."""
        for backend in self._leases.values():
            backend.suspend()

    def close(self) -> None:
        """Return the leases; clients without another lease are closed."""
        self._leases.clear()
        _release(self._keys)
        _pool.close_idle()


def _release(keys: list[Hashable]) -> None:
    while keys:
        _pool.release(keys.pop())


def _together(calls: Sequence[Callable[[], dict[PvAddress, T]]]) -> dict[PvAddress, T]:
    """Run calls at the same time and merge their answers; the first, nearly always the only one, in this thread."""
    answers: dict[PvAddress, T] = {}
    errors: list[BaseException] = []

    def run(call: Callable[[], dict[PvAddress, T]]) -> None:
        try:
            answers.update(call())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread, below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls[1:]]
    for thread in threads:
        thread.start()
    if calls:
        run(calls[0])
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers
