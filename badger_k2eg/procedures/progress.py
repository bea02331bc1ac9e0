"""The progress of a procedure, for a display. Imports no other module of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A completed step of a procedure.

    :ivar done: how many steps are complete.
    :ivar total: how many there will be; None if that is not known.
    :ivar text: what was done, in one line.
    """

    done: int
    total: int | None = None
    text: str = ""


_listener: ContextVar[Callable[[Step], object] | None] = ContextVar("listener", default=None)


def progress(done: int, total: int | None = None, text: str = "") -> None:
    """Report a completed step to the listener, if there is one."""
    if (listener := _listener.get()) is not None:
        listener(Step(done, total, text))


@contextmanager
def reported_to(listener: Callable[[Step], object]) -> Iterator[None]:
    """Report every step that is completed in this thread, inside the context, to a listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
