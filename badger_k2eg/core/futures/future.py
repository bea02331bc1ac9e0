"""``Future``, ``background``, ``sleep``: a call in the background, and cancelled. Part of ``core.futures``."""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final, Generic, TypeVar, overload

from ..deadline import FOREVER, Deadline, Scope, in_seconds, under
from ..errors import CallCancelled, WaitingForbidden

logger = logging.getLogger("badger_k2eg")

T = TypeVar("T")
#: A time span: seconds, or a Quantity of any unit of time; -1 is for ever.
Time = Any

_numbers = itertools.count(1)


class Absent(Enum):
    """Tells an argument that was left out from None."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT

Callback = Callable[["Future[Any]"], object]


# -- where one must not wait ------------------------------------------------------------------------------------------


class _Forbidden(threading.local):
    reason: str | None = None


_forbidden = _Forbidden()


@contextmanager
def no_waiting(reason: str) -> Iterator[None]:
    """Let waits of this thread fail at once meanwhile: what they wait for could never come."""
    before, _forbidden.reason = _forbidden.reason, reason
    try:
        yield
    finally:
        _forbidden.reason = before


def check_waiting(what: str) -> None:
    """Do nothing where one may wait.

    :raises WaitingForbidden: where the wait would hold up the very thing that it waits for.
    """
    if _forbidden.reason is not None:
        raise WaitingForbidden(f"{what} {_forbidden.reason}; use background(...), or hand the work to another thread")


# -- whose call it is -------------------------------------------------------------------------------------------------


class _Asked(threading.local):
    by: threading.Thread | None = None


_asked = _Asked()


def asker() -> threading.Thread:
    """Give the thread whose call goes on here: for one with ``callback=`` that which made it, else this thread."""
    return _asked.by or threading.current_thread()


@contextmanager
def asked_by(thread: threading.Thread) -> Iterator[None]:
    """Let what this thread does meanwhile be a call of another one."""
    before, _asked.by = _asked.by, thread
    try:
        yield
    finally:
        _asked.by = before


# -- the future and the task ------------------------------------------------------------------------------------------


class _Task(Scope):
    """The calls of one function in the background. A cancel is told one time; then the function may go on."""

    __slots__ = ("_parent",)

    def __init__(self, parent: Deadline | None) -> None:
        self._parent = parent
        self.interrupted()

    def cancel(self) -> None:
        self.deadline.cancel()

    def interrupted(self) -> None:
        self.deadline = Deadline.alone() if self._parent is None else self._parent.child()


class Future(concurrent.futures.Future[T], Generic[T]):
    """What will become of a call. As ``concurrent.futures.Future``, but it can be cancelled while it runs.

    Made by ``background`` and by every call that takes ``callback=``.
    """

    def __init__(self, parent: Deadline | None = None) -> None:
        """Begin a task; nothing runs yet.

        :param parent: what ends it, beside a cancel.
        """
        super().__init__()
        self._task = _Task(parent)
        self._process = os.getpid()
        self._cancelled_by: CallCancelled | None = None

    def cancel(self) -> bool:
        """Ask the call to end: it raises CancelledError where it waits, or as soon as it waits.

        :returns: False when it has ended already. A function may go on all the same: ``cancelled`` tells in the end.
        """
        if self.done():
            return False
        self._task.cancel()
        return True

    def wait(self, timeout: Time = FOREVER) -> Future[T]:
        """Wait until it has ended, however it did. Its own call has a deadline; this wait adds another.

        :raises TimeoutError: when it has not ended in time; it goes on.
        :raises CallCancelled: when the caller itself is cancelled.
        """
        if not self.done():
            check_waiting("waiting for a future")
            if os.getpid() != self._process:
                raise WaitingForbidden("waiting for a future that the parent process began: it never ends here")
            deadline = Deadline(FOREVER if timeout is None else in_seconds(timeout))
            with self._condition:
                if not deadline.wait(self._condition, self.done, what="waiting for a future"):
                    raise TimeoutError(f"not ended within {deadline.seconds:g} s")
        return self

    def result(self, timeout: Time = None) -> T:
        """Wait, and give what the call returned, or raise what it raised.

        :raises CancelledError: when it was cancelled; of a set, its ``report`` says what became of each PV.
        """
        self.wait(timeout)
        if self._cancelled_by is not None:
            raise self._cancelled_by
        return super().result(0)

    def exception(self, timeout: Time = None) -> BaseException | None:
        """Wait, and give what the call raised; None when it returned.

        :raises CancelledError: when it was cancelled.
        """
        self.wait(timeout)
        if self._cancelled_by is not None:
            raise self._cancelled_by
        return super().exception(0)

    def add_done_callback(self, fn: Callback) -> None:
        """Call ``fn(future)`` once it has ended, at once if it has. What ``fn`` raises is logged."""
        super().add_done_callback(lambda future: _told(fn, self))

    def _run(self, work: Callable[[], T]) -> None:
        """Do the work in this thread."""
        try:
            with under(self._task):
                value = work()
        except concurrent.futures.CancelledError as error:
            self._cancelled_by = error if isinstance(error, CallCancelled) else CallCancelled(str(error) or "cancelled")
            # It was never marked as running, so that the state "cancelled" is still to be had.
            super().cancel()
            self.set_running_or_notify_cancel()
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            self.set_exception(error)
        else:
            self.set_result(value)


def _told(fn: Callback, future: Future[Any]) -> None:
    try:
        fn(future)
    except Exception:  # a callback is not ours; whoever waits must hear of the end all the same
        logger.exception("the callback %r of a future failed", fn)


def background(func: Callable[..., T], *args: Any, callback: Callback | None = None, **kwargs: Any) -> Future[T]:
    """Run ``func(*args, **kwargs)`` in a thread of its own.

    When the future is cancelled, CancelledError is raised inside ``func`` by the call of ours that it waits in, or by
    the next one. It may catch that and go on. A daemon thread: the process does not wait for it.

    :param callback: called with the future when it has ended, in that thread.
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


def call(
    work: Callable[[], T],
    callback: Callback | Absent | None,
    *,
    parent: Deadline | None = None,
    name: str = "call",
) -> Any:
    """Run a call as its ``callback=`` says.

    :param callback: left out (``ABSENT``), the call blocks and its result is returned; given, or None, a Future is
        returned at once.
    :param parent: of a call in the background: what ends it, beside a cancel.
    :raises TypeError: for a callback that cannot be called.
    """
    if callback is ABSENT:
        return work()
    if callback is not None and not callable(callback):
        raise TypeError(f"callback= takes a function of the future, or None, not {callback!r}")
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
def sleep(delay: Time, deadline: Deadline | None = ...) -> None: ...
@overload
def sleep(delay: Time, deadline: Deadline | None = ..., *, callback: Callback | None) -> Future[None]: ...
def sleep(
    delay: Time, deadline: Deadline | None = None, *, callback: Callback | Absent | None = ABSENT
) -> Future[None] | None:
    """Wait for at least ``delay``, or less where the deadline ends earlier.

    :param delay: seconds, or a Quantity.
    :param callback: makes it a timer: a Future is returned at once, and ``callback(future)`` called after the delay.
    :raises CallCancelled: as soon as the deadline, or the task that it runs in, is cancelled.
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

    return call(wait, callback, parent=deadline, name="sleep")  # type: ignore[no-any-return] # by the overloads
