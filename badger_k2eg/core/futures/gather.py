"""Waiting for several futures: ``gather``, ``first_completed``, ``first_exception`` and ``all_completed``."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, overload

from ..deadline import FOREVER, Deadline, in_seconds
from .future import Span, check_waiting

T = TypeVar("T")


class Ended(NamedTuple):
    """The state of several futures, by their positions or names in the call.

    :ivar done: the results of those that returned.
    :ivar pending: the futures that have not ended; they were cancelled, unless ``cancel_pending=False``.
    :ivar error: the exceptions of those that raised; None for one that was cancelled.
    """

    done: dict[Hashable, Any]
    pending: dict[Hashable, concurrent.futures.Future[Any]]
    error: dict[Hashable, BaseException | None]


@overload
def gather(
    *futures: concurrent.futures.Future[T],
    timeout: Span = ...,
    return_exceptions: Literal[False] = ...,
    cancel_pending: bool = ...,
) -> list[T]: ...
@overload
def gather(
    *futures: concurrent.futures.Future[Any],
    timeout: Span = ...,
    return_exceptions: bool = ...,
    cancel_pending: bool = ...,
) -> list[Any]: ...
def gather(
    *futures: concurrent.futures.Future[Any],
    timeout: Span = FOREVER,
    return_exceptions: bool = False,
    cancel_pending: bool = True,
) -> list[Any]:
    """Wait for all futures, and return their results in the order of the arguments.

    :param return_exceptions: return exceptions in the places of results, instead of raising the first.
    :param cancel_pending: cancel the others when one raises, at the timeout, and when the caller itself is cancelled.
    :raises TimeoutError: if they have not all ended in time.
    """
    named: dict[Hashable, concurrent.futures.Future[Any]] = dict(enumerate(futures))
    stop = (lambda: False) if return_exceptions else (lambda: any(map(_failed, futures)))
    ended = _wait(named, stop, timeout, cancel_pending, "gathering")
    if ended.error and not return_exceptions:
        # One that was cancelled may have been cancelled because another one raised.
        raised = [key for key, error in ended.error.items() if error is not None] or list(ended.error)
        named[raised[0]].result()
    if ended.pending:
        raise TimeoutError(
            f"{len(ended.pending)} of {len(futures)} calls have not ended within {in_seconds(timeout):g} s"
        )
    return [_outcome(future) for future in futures]


def first_completed(
    *futures: concurrent.futures.Future[Any],
    timeout: Span = FOREVER,
    cancel_pending: bool = True,
    **named: concurrent.futures.Future[Any],
) -> Ended:
    """Wait until one future has ended, successfully or not.

    :param cancel_pending: cancel the others then.
    :returns: also at the timeout, with nothing in ``done`` and ``error``.
    """
    every = _named(futures, named)
    return _wait(every, lambda: any(f.done() for f in every.values()), timeout, cancel_pending, "waiting for the first")


def first_exception(
    *futures: concurrent.futures.Future[Any],
    timeout: Span = FOREVER,
    cancel_pending: bool = True,
    **named: concurrent.futures.Future[Any],
) -> Ended:
    """Wait until one future has raised or was cancelled, or all have ended; otherwise as ``first_completed``."""
    every = _named(futures, named)
    return _wait(every, lambda: any(map(_failed, every.values())), timeout, cancel_pending, "waiting for the first")


def all_completed(
    *futures: concurrent.futures.Future[Any],
    timeout: Span = FOREVER,
    cancel_pending: bool = True,
    **named: concurrent.futures.Future[Any],
) -> Ended:
    """Wait until all futures have ended, successfully or not; otherwise as ``first_completed``."""
    return _wait(_named(futures, named), lambda: False, timeout, cancel_pending, "waiting for all")


def _named(
    futures: tuple[concurrent.futures.Future[Any], ...], named: Mapping[str, concurrent.futures.Future[Any]]
) -> dict[Hashable, concurrent.futures.Future[Any]]:
    every: dict[Hashable, concurrent.futures.Future[Any]] = dict(enumerate(futures))
    every.update(named)
    return every


def _failed(future: concurrent.futures.Future[Any]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)


def _outcome(future: concurrent.futures.Future[Any]) -> Any:
    try:
        return future.result()
    except BaseException as error:  # noqa: BLE001 - asked for as a value
        return error


def _wait(
    futures: Mapping[Any, concurrent.futures.Future[Any]],
    stop: Callable[[], bool],
    timeout: Span,
    cancel_pending: bool,
    what: str,
) -> Ended:
    for future in futures.values():
        if not isinstance(future, concurrent.futures.Future):
            raise TypeError(f"expected a future, not {future!r}: call with callback=None, or use background(...)")
    deadline = Deadline(in_seconds(timeout))
    changed = threading.Condition()

    def wake(_: object) -> None:
        with changed:
            changed.notify_all()

    if not stop() and not all(future.done() for future in futures.values()):
        check_waiting(what)
        for future in futures.values():
            future.add_done_callback(wake)
    try:
        with changed:
            deadline.wait(changed, lambda: stop() or all(f.done() for f in futures.values()), what=what)
    finally:
        pending = {key: future for key, future in futures.items() if not future.done()}
        if cancel_pending:
            for future in pending.values():
                future.cancel()
    ended = {key: future for key, future in futures.items() if key not in pending}
    errors = {key: None if f.cancelled() else f.exception() for key, f in ended.items() if _failed(f)}
    return Ended({key: f.result() for key, f in ended.items() if key not in errors}, pending, errors)
