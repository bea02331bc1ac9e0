"""``ForeignMoves``: notices when another client moves a PV that the run has set.

A monitor on each setpoint reports that it has changed; a read, made when no set of this run is pending, tells whether
another client has changed it. The monitor's thread only hands over; the reading thread compares.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from ..core import clock
from ..core.backend import Subscription
from ..core.errors import ControlError
from ..core.model import PvAddress, Reading
from .moves import Moved
from .restore_plan import is_at

logger = logging.getLogger("badger_k2eg")

#: Seconds between two reads, both of which must show the foreign value.
_LOOK_AGAIN = 0.1


class ForeignMoves:
    """A watch over the setpoints of one run.

    :param moved: the PVs that the run has set, by their own names; it grows while the run goes on.
    :param tell: called with each PV that another client has moved, and its reading.
    :param name: of the thread.
    """

    def __init__(
        self, moved: Mapping[str, Moved], tell: Callable[[Moved, Reading], object], name: str = "foreign moves"
    ) -> None:
        """Keep the parts; nothing is watched before the first set."""
        self._moved, self._tell, self._name = moved, tell, name
        self._subscriptions: dict[str, Subscription] = {}
        self._changed: queue.SimpleQueue[str | None] = clock.simple_queue()
        self._lock = threading.Lock()
        self._in_flight: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        #: What each PV was moved to by another client when that was last told.
        self._told: dict[str, object] = {}

    @contextlib.contextmanager
    def setting(self, addresses: list[PvAddress]) -> Iterator[None]:
        """Attribute changes of these PVs to the run while the context is open."""
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
        """Watch those of the PVs to which something was sent."""
        for name in names:
            moved = self._moved.get(name)
            if self._closed or moved is None or not moved.held.values or name in self._subscriptions:
                continue
            try:
                self._subscriptions[name] = moved.control.monitor(moved.pv, partial(self._hear, name))
            except ControlError as error:
                logger.warning("%s is not watched: %s", moved.pv, error)
                continue
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name=self._name, daemon=True)
                self._thread.start()

    def renew(self, names: list[str]) -> None:
        """Subscribe to these PVs again, by the Control that they have now."""
        for name in names:
            if (subscription := self._subscriptions.pop(name, None)) is not None:
                subscription.close()
        self._attach(names)

    def _hear(self, name: str, update: object) -> None:
        """Hand over from the monitor's thread."""
        if isinstance(update, Reading):
            self._changed.put(name)

    def _look(self) -> None:
        """Check each PV that has changed, until closed."""
        while (name := self._changed.get()) is not None:
            try:
                self._confirm(name)
            except Exception:  # whatever it is, the run must go on watching all other PVs
                logger.exception("%s: cannot be watched", name)

    def _confirm(self, name: str) -> None:
        """Read a PV twice, and tell when it holds what this run cannot have put there."""
        moved = self._moved[name]
        seen: Reading | None = None
        for look in range(2):
            if look:
                clock.sleep(_LOOK_AGAIN)
            held = moved.held
            reading = moved.control.updates([moved.pv])[moved.pv]
            if self._closed or self._in_flight.get(name) or moved.held is not held or not isinstance(reading, Reading):
                # A set of this run is pending: it updates `held` at its end, and its own change leads here again.
                return
            tolerance = moved.control.tolerance_of(PvAddress.parse(moved.pv))
            if any(is_at(reading, value, tolerance) for value in held.values):
                self._told.pop(name, None)
                return
            seen = reading
        if seen is not None and self._told.get(name) != seen.plain:
            self._told[name] = seen.plain
            self._tell(moved, seen)

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        self._changed.put(None)
        for subscription in list(self._subscriptions.values()):
            subscription.close()
