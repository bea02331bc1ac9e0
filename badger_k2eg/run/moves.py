"""``Moved``: a PV that a run has set, with its value before. ``PendingSets``: the sets of a run that have not ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..control import Control
from ..core import clock
from ..core.model import PutResult, PvAddress, Reading
from ..journal.recorded_run import MayHold

#: Seconds between two looks at whether the sets of other threads have ended.
_LOOK = 0.01


@dataclass(slots=True)
class Moved:
    """A PV that a run has set.

    :ivar before: its reading before the run set it for the first time.
    :ivar validator: the last one that was used for it.
    :ivar held: what it may hold because of the run; without values as long as nothing was sent.
    """

    pv: str
    control: Control
    before: Reading
    validator: Any = None
    held: MayHold = field(init=False)

    def __post_init__(self) -> None:
        """Start from the value before."""
        self.held = MayHold(sure=(self.before.value,))

    def wrote(self, result: PutResult, *, ended: bool) -> None:
        """Take the outcome of a put into account.

        :param ended: whether the call has ended; before that, an answer of "done" is not read back yet.
        """
        if result.attempts:
            # What is read back counts too: a record may quantise, or overwrite what was put.
            seen = () if result.readback is None else (result.readback.value,)
            self.held = self.held.after(result.outcome, result.asked, *seen, ended=ended)


class PendingSets:
    """The sets of a run that have begun and not ended, in any thread.

    The end of the run withdraws their permission to write, and waits for them.
    """

    def __init__(self) -> None:
        """Start with none."""
        # For each call: its thread, its PVs, and which of these may not be written any more, and why.
        self._open: dict[object, tuple[int, list[PvAddress], dict[PvAddress, str]]] = {}
        self._over: str | None = None

    @contextlib.contextmanager
    def begun(self, addresses: list[PvAddress], denied: dict[PvAddress, str]) -> Iterator[None]:
        """Count a call as pending while the context is open.

        :param denied: the mapping that the gate has given to the call.
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
        """Keep these calls, and those that begin later, from sending anything more. Safe in a signal handler."""
        self._over = reason
        for _, addresses, denied in list(self._open.values()):
            denied.update(dict.fromkeys(addresses, reason))

    def wait(self, seconds: float) -> bool:
        """Wait until the calls of other threads have ended: their puts must not arrive after the restore.

        :returns: whether they have.
        """
        until = clock.monotonic() + seconds
        while any(thread != threading.get_ident() for thread, _, _ in list(self._open.values())):
            if clock.monotonic() > until:
                return False
            clock.sleep(_LOOK)
        return True
