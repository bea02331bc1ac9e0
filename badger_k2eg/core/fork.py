"""The one ``os.register_at_fork`` of the package, and the registry of what must not survive a fork.

Badger forks its children from a process that may hold live clients. A p4p context or server that is open at that
moment makes the child hang for ever, and so does an inherited Kafka handle: everything of that kind registers here.

The order is: every ``before_fork`` (newest first, so that users go before what they use), the fork, then
``after_fork_in_parent`` or ``after_fork_in_child`` (oldest first). An exception in one is logged, and the others are
still called: a fork cannot be refused.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Protocol

logger = logging.getLogger(__name__)


class ForkSensitive(Protocol):
    """An object with live handles, which is called around every fork."""

    def before_fork(self) -> None:
        """Close every handle. Runs in the thread that forks; must end in bounded time."""

    def after_fork_in_parent(self) -> None:
        """Open again what was closed."""

    def after_fork_in_child(self) -> None:
        """Forget inherited state: there is no other thread, and any lock may be held by one that is gone."""


_registry: list[weakref.ref[ForkSensitive]] = []
_lock = threading.Lock()
# One fork at a time; those that are prepared for it.
_forking = threading.Lock()
_prepared: list[ForkSensitive] = []


def register(participant: ForkSensitive) -> None:
    """Call the participant around every fork; only a weak reference to it is kept."""
    with _lock:
        _registry[:] = [ref for ref in _registry if ref() is not None]
        _registry.append(weakref.ref(participant))


def unregister(participant: ForkSensitive) -> None:
    """Forget the participant."""
    with _lock:
        _registry[:] = [ref for ref in _registry if ref() not in (None, participant)]


def _participants() -> list[ForkSensitive]:
    return [participant for ref in _registry if (participant := ref()) is not None]


def _call(participant: ForkSensitive, step: str) -> None:
    try:
        getattr(participant, step)()
    except Exception:  # a fork cannot be refused: log it and call the others
        logger.exception("%s of %r failed", step, participant)


def _before() -> None:
    _forking.acquire()
    while True:
        _lock.acquire()
        new = [participant for participant in reversed(_participants()) if not _is_prepared(participant)]
        if not new:
            # Held until after the fork, so that no other thread can be inside when the memory is copied.
            return
        # Not held meanwhile: a thread may register something while it holds the very lock that is waited for here.
        _lock.release()
        for participant in new:
            _call(participant, "before_fork")
            _prepared.append(participant)


def _is_prepared(participant: ForkSensitive) -> bool:
    return any(participant is other for other in _prepared)


def _after(step: str) -> None:
    # Those that were prepared, also if they were unregistered meanwhile.
    prepared = _prepared[::-1]
    _prepared.clear()
    _lock.release()
    for participant in prepared:
        _call(participant, step)
    _forking.release()


def _after_in_parent() -> None:
    _after("after_fork_in_parent")


def _after_in_child() -> None:
    _after("after_fork_in_child")


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


class Lock:
    """A lock that is free in a forked child: no thread of the parent can be inside while the memory is copied."""

    def __init__(self) -> None:
        """Create it, free."""
        self._lock = threading.Lock()
        register(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Acquire it, so that no thread is inside."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Release it."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Replace it by a free one."""
        self._lock = threading.Lock()
