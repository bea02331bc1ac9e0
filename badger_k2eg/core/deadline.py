"""``Deadline``: how long a call may still take, and whether it has been cancelled.

Every call passes it on to the calls that it makes. A timeout, a cancelled future and a stopped run all end a call in
the same way: through it. A deadline that is made without a parent gets its thread's, if the thread has one (a task in
the background, a validator).
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import clock
from .errors import CallCancelled

#: Seconds; as a timeout, wait for ever (but still end on cancel).
FOREVER = -1.0


def in_seconds(time_span: Any) -> float:
    """Return a time span in seconds, given as a number or as a Quantity of time; -1 means for ever.

    :raises ValueError: for anything else, and for a negative time.
    """
    span = time_span
    try:
        if hasattr(span, "to") and hasattr(span, "magnitude"):
            span = span.magnitude if span.unitless else span.to("second").magnitude
        if isinstance(span, str | bytes | bool):
            raise TypeError
        number = float(span)
    except (TypeError, ValueError, AttributeError):
        raise ValueError(f"a time is a number of seconds or a quantity of time, not {time_span!r}") from None
    if number != FOREVER and not number >= 0:
        raise ValueError(f"a time is a number of seconds, or -1 for ever: not {time_span!r}")
    return number


class Scope:
    """What applies to all calls of one thread.

    :ivar deadline: the parent of every deadline that the thread makes without one.
    """

    __slots__ = ("deadline",)

    def __init__(self, deadline: Deadline) -> None:
        """Apply a deadline."""
        self.deadline = deadline

    def interrupted(self) -> None:
        """Note that the thread was told of the cancel; called once for each."""


class _Here(threading.local):
    scope: Scope | None = None


_here = _Here()


@contextlib.contextmanager
def under(scope: Scope | Deadline | None) -> Iterator[None]:
    """Apply a scope, or a deadline, to all calls of this thread inside the ``with`` block; None lifts the outer one."""
    before, _here.scope = _here.scope, Scope(scope) if isinstance(scope, Deadline) else scope
    try:
        yield
    finally:
        _here.scope = before


def scope() -> Scope | None:
    """Return the scope of this thread, if any."""
    return _here.scope


class Deadline:
    """An absolute time on the monotonic clock that can also be cancelled.

    A child never ends later than its parent, and is cancelled with it.

    :param seconds: from now on; -1 means never.
    :ivar seconds: the same, for messages; if a parent ends earlier, what was left of that, to two digits.
    :raises ValueError: for NaN or a negative number other than -1.
    """

    __slots__ = ("__weakref__", "_callbacks", "_cancelled", "_lock", "_parent", "expires", "seconds")

    def __init__(self, seconds: float = FOREVER, *, _parent: Deadline | None = None) -> None:
        """Start the clock."""
        if seconds != FOREVER and not seconds >= 0:
            raise ValueError(f"a timeout is a number of seconds, or -1 for ever: not {seconds!r}")
        if _parent is None and _here.scope is not None:
            _parent = _here.scope.deadline
        now = clock.monotonic()
        own: float = math.inf if seconds == FOREVER else now + seconds
        self.expires: float = min(own, _parent.expires) if _parent else own
        self.seconds = seconds if self.expires == own else float(f"{max(0.0, self.expires - now):.2g}")
        self._parent = _parent
        self._cancelled: str | None = None
        self._callbacks: list[Callable[[], None]] = []
        # Reentrant: a signal handler may cancel while this very thread is inside.
        self._lock = threading.RLock()

    @classmethod
    def alone(cls, seconds: float = FOREVER) -> Deadline:
        """Return a deadline that does not end with its thread's, for what outlives the call in which it is made."""
        with under(None):
            return cls(seconds)

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled else f"{self.remaining():.3f} s left"
        return f"<Deadline {state}>"

    def remaining(self) -> float:
        """Return the seconds left, never negative; ``inf`` for ever; 0 once cancelled."""
        if self.cancelled:
            return 0.0
        return max(0.0, self.expires - clock.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is over, or the call was cancelled."""
        return self.remaining() <= 0.0

    @property
    def cancelled(self) -> bool:
        """Whether this deadline or one of its parents was cancelled."""
        return self._cancelled is not None or (self._parent is not None and self._parent.cancelled)

    def child(self, seconds: float = FOREVER) -> Deadline:
        """Return a deadline for a part of the work: at most ``seconds``, and at most what is left of this one."""
        return Deadline(seconds, _parent=self)

    def cancel(self, reason: str = "cancelled") -> None:
        """Cancel every call that has this deadline. Idempotent; callbacks run in the calling thread."""
        with self._lock:
            if self._cancelled is not None:
                return
            self._cancelled = reason
            callbacks, self._callbacks = self._callbacks, []
        errors = []
        for callback in callbacks:
            try:
                callback()
            except Exception as error:  # the other callbacks must run too; raised below
                errors.append(error)
        if errors:
            raise errors[0]

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Register a function to be called once on cancel, at once if already cancelled.

        :returns: a function that removes the callback.
        """
        waiting = [callback]

        def call() -> None:
            # Once, though this deadline and one above it may both be cancelled.
            with contextlib.suppress(IndexError):
                waiting.pop()()

        undo = self._parent.on_cancel(call) if self._parent is not None else None
        with self._lock:
            # In this order: a signal may cancel in between.
            self._callbacks.append(call)
            run_now = self._cancelled is not None
        if run_now:
            call()

        def remove() -> None:
            if undo is not None:
                undo()
            with self._lock, contextlib.suppress(ValueError):
                self._callbacks.remove(call)

        return remove

    def check(self, what: str = "call") -> None:
        """Raise if the call was cancelled.

        :raises CallCancelled: then.
        """
        if self.cancelled:
            raise self.interruption(f"{what} cancelled")

    def interruption(self, message: str, report: Any = None) -> CallCancelled:
        """Return the error of a cancelled call, to be raised at once: a thread is told of each cancel only once."""
        if _here.scope is not None and _here.scope.deadline.cancelled:
            _here.scope.interrupted()
        return CallCancelled(message, report)

    def wait(self, condition: threading.Condition, predicate: Callable[[], bool], *, what: str = "call") -> bool:
        """Wait until the predicate is true; the condition must be held.

        :returns: False if the time ran out first.
        :raises CallCancelled: if the call was cancelled first.
        """

        def wake() -> None:
            with condition:
                condition.notify_all()

        if predicate():
            return True
        # The condition uses an RLock, so that a cancel from this very thread cannot block itself.
        remove = self.on_cancel(wake)
        try:
            while not predicate():
                self.check(what)
                left = self.remaining()
                if left <= 0.0:
                    return False
                clock.wait(condition, left)
            return True
        finally:
            remove()
