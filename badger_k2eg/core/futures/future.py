"""``Future``, ``background`` and ``sleep``: calls in the background, and how they are cancelled."""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final, Generic, Protocol, TypeVar, overload

from ..deadline import FOREVER, Deadline, Scope, in_seconds, under
from ..errors import CallCancelled, WaitingForbidden

logger = logging.getLogger("badger_k2eg")

T = TypeVar("T")


class TimeSpan(Protocol):
    """A Quantity of time, of any unit."""

    @property
    def magnitude(self) -> Any:
        """The number."""

    def to(self, other: Any = ..., /) -> Any:
        """Convert to another unit."""


#: Seconds, or a Quantity of time; -1 is for ever.
Span = float | TimeSpan
#: A timeout; None adds none to those that apply anyway.
Time = Span | None

_numbers = itertools.count(1)


class Absent(Enum):
    """The type of an argument that was left out, as distinct from None."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT

Callback = Callable[["Future[Any]"], object]


# -- where waiting is forbidden ---------------------------------------------------------------------------------------


class _Forbidden(threading.local):
    reason: str | None = None


_forbidden = _Forbidden()


@contextmanager
def no_waiting(reason: str) -> Iterator[None]:
    """Make waits of this thread fail at once inside the ``with`` block, because they could never end."""
    before, _forbidden.reason = _forbidden.reason, reason
    try:
        yield
    finally:
        _forbidden.reason = before


def check_waiting(what: str) -> None:
    """Raise if this thread must not wait.

    :raises WaitingForbidden: if the wait would block the very thing that it waits for.
    """
    if _forbidden.reason is not None:
        raise WaitingForbidden(f"{what} {_forbidden.reason}; use background(...), or do the work in another thread")


# -- who makes the call -----------------------------------------------------------------------------------------------


class _Asked(threading.local):
    by: threading.Thread | None = None


_asked = _Asked()


def asker() -> threading.Thread:
    """Return the thread that made this call: the caller's for a call with ``callback=``, otherwise this thread."""
    return _asked.by or threading.current_thread()


@contextmanager
def asked_by(thread: threading.Thread) -> Iterator[None]:
    """Attribute the calls of this thread inside the ``with`` block to another thread."""
    before, _asked.by = _asked.by, thread
    try:
        yield
    finally:
        _asked.by = before


# -- the future and the task ------------------------------------------------------------------------------------------


class _Task(Scope):
    """The calls of one function in the background. A cancel is told once; then the function may go on."""

    __slots__ = ("_parent",)

    def __init__(self, parent: Deadline | None) -> None:
        self._parent = parent
        self.interrupted()

    def cancel(self) -> None:
        self.deadline.cancel()

    def interrupted(self) -> None:
        self.deadline = Deadline.alone() if self._parent is None else self._parent.child()


class Future(concurrent.futures.Future[T], Generic[T]):
    """The result of a call in the background: a ``concurrent.futures.Future`` that can be cancelled while it runs.

    ``background`` and every call with ``callback=`` return one.
    """

    def __init__(self, parent: Deadline | None = None) -> None:
        """Create it; nothing runs yet.

        :param parent: ends the call too, beside a cancel.
        """
        super().__init__()
        self._task = _Task(parent)
        self._process = os.getpid()
        self._cancelled_by: CallCancelled | None = None

    def cancel(self) -> bool:
        """Ask the call to end: it raises CancelledError where it waits, or at its next wait.

        :returns: False if it has ended already. The function may go on all the same; ``cancelled`` tells at the end.
        """
        if self.done():
            return False
        self._task.cancel()
        return True

    def wait(self, timeout: Time = FOREVER) -> Future[T]:
        """Wait until the call has ended, successfully or not, and return self.

        :raises TimeoutError: if it has not ended in time; it goes on.
        :raises CallCancelled: if the caller itself is cancelled.
        """
        if not self.done():
            check_waiting("waiting for a future")
            if os.getpid() != self._process:
                raise WaitingForbidden("waiting for a future that the parent process started: it never ends here")
            deadline = Deadline(FOREVER if timeout is None else in_seconds(timeout))
            with self._condition:
                if not deadline.wait(self._condition, self.done, what="waiting for a future"):
                    raise TimeoutError(f"not ended within {deadline.seconds:g} s")
        return self

    def result(self, timeout: Time = None) -> T:
        """Wait, and return what the call returned, or raise what it raised.

        :raises CancelledError: if it was cancelled; for a set, ``report`` of the error says what became of each PV.
        """
        self.wait(timeout)
        if self._cancelled_by is not None:
            raise self._cancelled_by
        return super().result(0)

    def exception(self, timeout: Time = None) -> BaseException | None:
        """Wait, and return what the call raised; None if it returned.

        :raises CancelledError: if it was cancelled.
        """
        self.wait(timeout)
        if self._cancelled_by is not None:
            raise self._cancelled_by
        return super().exception(0)

    def add_done_callback(self, fn: Callback) -> None:
        """Call ``fn(future)`` when the call has ended, at once if it has. What ``fn`` raises is logged."""
        super().add_done_callback(lambda future: _told(fn, self))

    def _run(self, work: Callable[[], T]) -> None:
        """Run the call in this thread."""
        try:
            with under(self._task):
                value = work()
        except concurrent.futures.CancelledError as error:
            self._cancelled_by = error if isinstance(error, CallCancelled) else CallCancelled(str(error) or "cancelled")
            # It was never marked as running, because only then it can become cancelled.
            super().cancel()
            self.set_running_or_notify_cancel()
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            self.set_exception(error)
        else:
            self.set_result(value)


def _told(fn: Callback, future: Future[Any]) -> None:
    try:
        fn(future)
    except Exception:  # a user's callback; other callbacks must be called all the same
        logger.exception("the callback %r of a future failed", fn)


def background(func: Callable[..., T], *args: Any, callback: Callback | None = None, **kwargs: Any) -> Future[T]:
    """Run ``func(*args, **kwargs)`` in a thread of its own.

    When the future is cancelled, the call of this package that ``func`` waits in, or the next one, raises
    CancelledError; ``func`` may catch it and go on. It is a daemon thread: the process does not wait for it.

    :param callback: called with the future at the end, in that thread.
    """
    future: Future[T] = Future()
    if callback is not None:
        future.add_done_callback(callback)
    _start(future, lambda: func(*args, **kwargs), getattr(func, "__name__", "call"))
    return future


def _start(future: Future[T], work: Callable[[], T], name: str) -> None:
    threading.Thread(
        target=future._run,  # noqa: SLF001 - the other half of the same thing
        args=(work,),
        name=f"{name} {next(_numbers)} (background)",
        daemon=True,
    ).start()


@overload
def call(work: Callable[[], T], callback: Absent, *, parent: Deadline | None = ..., name: str = ...) -> T: ...
@overload
def call(
    work: Callable[[], T], callback: Callback | None, *, parent: Deadline | None = ..., name: str = ...
) -> Future[T]: ...
@overload
def call(
    work: Callable[[], T], callback: Callback | Absent | None, *, parent: Deadline | None = ..., name: str = ...
) -> T | Future[T]: ...
def call(
    work: Callable[[], T], callback: Callback | Absent | None, *, parent: Deadline | None = None, name: str = "call"
) -> T | Future[T]:
    """Run a call as its argument ``callback=`` says.

    :param callback: if left out (``ABSENT``), block and return the result; for a function or None, return a Future at
        once.
    :param parent: ends a call in the background too, beside a cancel.
    :raises TypeError: for a callback that cannot be called.
    """
    if callback is ABSENT:
        return work()
    if callback is not None and not callable(callback):
        raise TypeError(f"callback= must be a function that takes the future, or None, not {callback!r}")
    future: Future[T] = Future(parent)
    if callback is not None:
        future.add_done_callback(callback)
    thread = asker()

    def asked() -> T:
        with asked_by(thread):
            return work()

    _start(future, asked, name)
    return future


@overload
def sleep(delay: Span, deadline: Deadline | None = ...) -> None: ...
@overload
def sleep(delay: Span, deadline: Deadline | None = ..., *, callback: Callback | None) -> Future[None]: ...
def sleep(
    delay: Span, deadline: Deadline | None = None, *, callback: Callback | Absent | None = ABSENT
) -> Future[None] | None:
    """Wait for at least ``delay``, or less if the deadline ends earlier.

    :param delay: seconds, or a Quantity.
    :param callback: makes it a timer: a Future is returned at once, and ``callback(future)`` is called at the end.
    :raises CallCancelled: when the deadline, or the task that it runs in, is cancelled.
    :raises WaitingForbidden: in a callback for updates.
    """
    pause = in_seconds(delay)

    def wait() -> None:
        if deadline is None:
            check_waiting("sleeping")
        end = (deadline or Deadline()).child(pause)
        condition = threading.Condition()
        with condition:
            end.wait(condition, lambda: False, what="sleep")

    return call(wait, callback, parent=deadline, name="sleep")
