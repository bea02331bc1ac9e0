"""``RecordedPvs``: records every update of some PVs for the length of a run, arrays too, as lines of its journal.

A monitor's thread only hands over; one thread of the run writes, a batch at a time. When updates come faster than they
can be written, the oldest of those that wait are dropped and counted, and the record tells how many.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from functools import partial

from ..control import Control
from ..core import clock
from ..core.backend import Subscription, Update
from ..core.errors import ControlError, PvError, PvNotConnected
from ..core.model import Reading
from ..core.records import Level, Record, RecordKind
from ..journal.reading_fields import told, told_error
from .recorder import Recorder

logger = logging.getLogger("badger_k2eg")

#: Seconds between two batches.
_PERIOD = 0.1
#: The most updates that may wait.
_MOST = 20_000
_WARNING = Level.WARNING


class RecordedPvs:
    """The recording of PVs, from its construction until it is closed.

    :param control: monitors them.
    :param recorder: writes their lines, each with the evaluation of its time.
    """

    def __init__(self, control: Control, recorder: Recorder, pvs: Iterable[str]) -> None:
        """Begin; a PV that does not exist yet is recorded as soon as it does."""
        self._recorder = recorder
        self._waiting: deque[tuple[str, Update]] = deque(maxlen=_MOST)
        self._came = 0
        self._taken = 0
        self._profiled: set[str] = set()
        self._over = clock.event()
        self._subscriptions: list[Subscription] = []
        self._silent = dict.fromkeys(pvs)
        for pv in list(self._silent):
            try:
                self._subscriptions.append(control.monitor(pv, partial(self._hear, pv)))
            except ControlError as error:
                logger.warning("%s is not recorded: %s", pv, error)
        self._thread = threading.Thread(target=self._write_on, name=f"samples {recorder.run}", daemon=True)
        self._thread.start()

    def _hear(self, pv: str, update: Update) -> None:
        """Hand over from the monitor's thread."""
        self._came += 1
        self._silent.pop(pv, None)
        self._waiting.append((pv, update))

    def _write_on(self) -> None:
        """Write a batch now and then, until closed."""
        while not self._over.wait(_PERIOD):
            self._write()

    def _write(self) -> None:
        """Write what waits, and how many updates were lost."""
        records = []
        while self._waiting:
            records.append(self._line(*self._waiting.popleft()))
        self._taken += len(records)
        # Pushed out by later ones. An update that is just being handed over may be counted a moment early.
        if (lost := self._came - self._taken - len(self._waiting)) > len(self._subscriptions):
            self._taken += lost
            message = f"{lost} updates of recorded PVs came too fast and are lost"
            records.append(self._recorder.line(RecordKind.EVENT, name="samples lost", message=message, level=_WARNING))
        self._recorder.write(*records)

    def _line(self, pv: str, update: Update) -> Record:
        """Return the line of an update."""
        if isinstance(update, PvError):
            return self._recorder.line(RecordKind.SAMPLE, pv=pv, level=_WARNING, **told_error(update))
        assert isinstance(update, Reading)  # noqa: S101 - the other half of Update
        is_first = pv not in self._profiled
        self._profiled.add(pv)
        return self._recorder.line(RecordKind.SAMPLE, pv=pv, **told(update, profile=is_first))

    def close(self) -> None:
        """Stop, and write what waits."""
        for subscription in self._subscriptions:
            subscription.close()
        self._over.set()
        self._thread.join()
        for pv in list(self._silent):
            self._hear(pv, PvNotConnected(pv, "no update came while the run went on"))
        self._write()
