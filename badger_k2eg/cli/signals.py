"""The end of a process: by a signal, or with the process that started it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from . import INTERRUPTED, TERMINATED

# The signals that stop a command which sets PVs: name and exit code.
_STOPS = {signal.SIGINT: ("Ctrl-C", INTERRUPTED), signal.SIGTERM: ("SIGTERM", TERMINATED)}


class Ended:
    """Whether this process was told to end, and the wait for it.

    Not an ``Event``: a signal handler that sets one while the same thread is about to wait for it waits for a lock that
    this thread holds. A ``SimpleQueue`` may be put into from a handler at any instant.
    """

    def __init__(self) -> None:
        """Nobody has told it yet."""
        self._told = False
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Tell the process to end; from a signal handler, too."""
        self._told = True
        self._wakes.put(None)

    def is_set(self) -> bool:
        """Return whether it was told."""
        return self._told

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is told, at most so long; return whether it was. Only one thread may wait."""
        if not self._told:
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=seconds)
        return self._told


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Ended]:
    """Yield an event that Ctrl-C and SIGTERM set: both are the ordinary end of a server."""
    ended = Ended()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[str, int], None]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM; a signal that is ignored (as in a background job of a script) stays ignored.

    :param stop: called with the name of the signal for people, and with its exit code.
    """
    ours = os.getpid()

    def heard(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:
            stop(*_STOPS[signal.Signals(number)])
            return
        # A child that was forked meanwhile: it ends as it would without this handler.
        signal.signal(number, previous[signal.Signals(number)])
        os.kill(os.getpid(), number)

    # None: a handler that was not installed from Python.
    left = (signal.SIG_IGN, None)
    previous = {number: old for number in _STOPS if (old := signal.getsignal(number)) not in left}
    for number in previous:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_with_parent() -> None:
    """End this process when its parent ends, which closes standard input."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
