"""The end of a process that serves: told to stop, or with the process that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from . import INTERRUPTED, TERMINATED

#: What stops a command that sets PVs: how it is called, and the exit code.
STOPS = {signal.SIGINT: ("Ctrl-C", INTERRUPTED), signal.SIGTERM: ("SIGTERM", TERMINATED)}


@contextlib.contextmanager
def ended_by_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set: both are the ordinary end of a server."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_with_parent() -> None:
    """End with the process that started this one: its end of the pipe closes then."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
