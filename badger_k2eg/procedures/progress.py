"""How far a procedure has come, for whoever wants to show it. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step that is done.

    :ivar done: how many are.
    :ivar total: how many there will be; None where nobody knows.
    :ivar text: what was done, in one line.
    """

    done: int
    total: int | None = None
    text: str = ""


_listener: ContextVar[Callable[[Step], object] | None] = ContextVar("listener", default=None)


def progress(done: int, total: int | None = None, text: str = "") -> None:
    """Say that a step is done; nothing happens where nobody listens."""
    if (listener := _listener.get()) is not None:
        listener(Step(done, total, text))


@contextmanager
def reported_to(listener: Callable[[Step], object]) -> Iterator[None]:
    """Tell a listener of every step that is done in this thread meanwhile."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
