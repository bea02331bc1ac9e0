"""The sets of a run that are under way, in whatever thread: its end takes their right to write back, and waits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ..core import clock
from ..core.model import PvAddress

_LOOK = 0.01


class Calls:
    """Those that have begun and not ended."""

    def __init__(self) -> None:
        """Know of none."""
        # By a key of its own each: thread, PVs, and which of these may not be written any more, and why.
        self._open: dict[object, tuple[int, list[PvAddress], dict[PvAddress, str]]] = {}
        self._over: str | None = None

    @contextlib.contextmanager
    def begun(self, addresses: list[PvAddress], denied: dict[PvAddress, str]) -> Iterator[None]:
        """One of them, for its time.

        :param denied: what the gate has given for the call.
        """
        key = object()
        self._open[key] = threading.get_ident(), addresses, denied
        if self._over is not None:
            self.deny(self._over)
        try:
            yield
        finally:
            del self._open[key]

    def deny(self, reason: str) -> None:
        """Let none of them send anything more, nor one that begins later. May be called in a signal handler."""
        self._over = reason
        for _, addresses, denied in list(self._open.values()):
            denied.update(dict.fromkeys(addresses, reason))

    def wait(self, seconds: float) -> bool:
        """Wait until those of other threads have ended: what they have on the wire must not come after the way back.

        :returns: whether they have.
        """
        until = clock.monotonic() + seconds
        while any(thread != threading.get_ident() for thread, _, _ in list(self._open.values())):
            if clock.monotonic() > until:
                return False
            clock.sleep(_LOOK)
        return True
