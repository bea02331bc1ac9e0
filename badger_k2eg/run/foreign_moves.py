"""``Watch``: notices when somebody else moves a PV that the run has set.

A monitor on each setpoint says that something has changed; a read, once no set of ours is under way, says whether it
really was somebody else. Only the reading thread compares: the monitor's thread just hands over.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..core import clock
from ..core.backend import Subscription
from ..core.errors import ControlError
from ..core.model import PvAddress, Reading, plain
from ..core.records import Level
from ..journal.reading_fields import told
from .restore_plan import is_at

if TYPE_CHECKING:
    from .moved import Moved
    from .run import Run

logger = logging.getLogger("badger_k2eg")

#: Seconds between two looks, of which both must show it.
_LOOK_AGAIN = 0.1


class Watch:
    """Watches the setpoints of one run.

    :param run: gets an event for each foreign move, and pauses where its settings say so.
    """

    def __init__(self, run: Run) -> None:
        """Watch nothing yet."""
        self._run = run
        self._subscriptions: dict[str, Subscription] = {}
        self._changed: queue.SimpleQueue[str | None] = clock.simple_queue()
        self._lock = threading.Lock()
        self._in_flight: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        #: What each PV was moved to by somebody else.
        self._told: dict[str, object] = {}

    @contextlib.contextmanager
    def setting(self, addresses: list[PvAddress]) -> Iterator[None]:
        """What changes meanwhile is our own doing."""
        names = [address.own_name for address in addresses]
        with self._lock:
            for name in names:
                self._in_flight[name] = self._in_flight.get(name, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for name in names:
                    self._in_flight[name] -= 1
            self._attach(names)

    def _attach(self, names: list[str]) -> None:
        """Begin to watch those that have really been set."""
        for name in names:
            moved = self._run.moved.get(name)
            if self._closed or moved is None or not moved.ours or name in self._subscriptions:
                continue
            try:
                self._subscriptions[name] = moved.control.monitor(moved.pv, partial(self._hear, name))
            except ControlError as error:
                logger.warning("%s is not watched: %s", moved.pv, error)
                continue
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name=f"watch {self._run.id}", daemon=True)
                self._thread.start()

    def renew(self, names: list[str]) -> None:
        """Watch these by the Control that they have now."""
        for name in names:
            if (subscription := self._subscriptions.pop(name, None)) is not None:
                subscription.close()
        self._attach(names)

    def _hear(self, name: str, update: object) -> None:
        if isinstance(update, Reading):
            self._changed.put(name)

    def _look(self) -> None:
        while (name := self._changed.get()) is not None:
            try:
                self._confirm(name)
            except Exception:  # whatever it is, the run must not be blind to all other PVs from now on
                logger.exception("%s: cannot be watched", name)

    def _confirm(self, name: str) -> None:
        moved = self._run.moved[name]
        seen: Reading | None = None
        for look in range(2):
            if look:
                clock.sleep(_LOOK_AGAIN)
            ours = moved.ours
            reading = moved.control.updates([moved.pv])[moved.pv]
            if self._closed or self._in_flight.get(name) or moved.ours is not ours or not isinstance(reading, Reading):
                # A set of ours says at its end what is ours; its own update comes here again.
                return
            tolerance = moved.control.tolerance_of(PvAddress.parse(moved.pv))
            if any(is_at(reading, value, tolerance) for value in ours):
                self._told.pop(name, None)
                return
            seen = reading
        if seen is not None and self._told.get(name) != seen.plain:
            self._told[name] = seen.plain
            self._tell(moved, seen)

    def _tell(self, moved: Moved, reading: Reading) -> None:
        last = " or ".join(dict.fromkeys(repr(plain(value)) for value in moved.ours))
        message = f"{moved.pv} was moved by somebody else to {reading.plain!r}; this run had set {last}"
        logger.warning("run %s: %s", self._run.id, message)
        fields = told(reading) | {"message": message}
        self._run.recorder.event("foreign move", level=Level.WARNING, pv=moved.pv, **fields)
        if self._run.settings.on_foreign_move == "pause":
            self._run.pause(f"paused: {message}")

    def close(self) -> None:
        """Watch nothing any more."""
        self._closed = True
        self._changed.put(None)
        for subscription in list(self._subscriptions.values()):
            subscription.close()
