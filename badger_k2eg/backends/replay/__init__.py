"""The backend of a recorded run: it returns what was read then, and reaches no machine.

A put moves it to the recorded point that matches the setpoints; a read returns what the PV returned there. Imports
journal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from ...core import clock, fork
from ...core.backend import Update
from ...core.deadline import Deadline
from ...core.errors import PutMismatch, PvNotConnected, PvTimeout, ReplayMismatch
from ...core.model import Outcome, PutAnswer, PvAddress, Reading, type_of
from ...core.records import Record
from .recording import Match, Point, Recording

__all__ = ["Matching", "Recording", "ReplayBackend"]

logger = logging.getLogger("badger_k2eg")

#: Seconds between two looks for updates, with matching ``time``.
_TICK = 0.02


class Matching(StrEnum):
    """How a recorded point is found for setpoints that the run may never have had."""

    #: The identical point, or an error that tells what differs.
    STRICT = "strict"
    #: The nearest point; its distance is logged.
    NEAREST = "nearest"
    #: The time since the first call, multiplied by the speed, whatever is put.
    TIME = "time"


class ReplayBackend:
    """PVs as a run recorded them.

    :param recording: the run.
    :param matching: how a point is found for the setpoints.
    :param speed: how much faster the run is replayed, for ``time``.
    :ivar last_match: the point that was read last, and its distance from the setpoints.
    """

    def __init__(self, recording: Recording, matching: Matching | str = Matching.STRICT, speed: float = 1.0) -> None:
        """Begin before the first point of the run."""
        self.recording = recording
        self.matching = Matching(matching)
        self.speed = speed
        self.last_match: Match | None = None
        self._began: float | None = None
        #: Every setpoint that was put here, by its own name, and how those of the present call ended in the run.
        self._vector: dict[str, Any] = {}
        self._ended: Mapping[str, Record] = {}
        #: Each setpoint's value before its last put, which a refused put leaves unchanged.
        self._stood: dict[str, Update] = {}
        #: Whether ``last_match`` still matches the setpoints.
        self._present = False
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._watchers: list[_Watcher] = []
        self._clock: threading.Thread | None = None
        self._over = clock.event()

    # -- the present point --------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Return the present time of the run, for ``time``; nanoseconds since the Unix epoch."""
        with self._lock:
            if self._began is None:
                self._began = clock.monotonic()
            return (self.recording.began_ns or 0) + int((clock.monotonic() - self._began) * self.speed * 1e9)

    def expect(self, setpoints: Mapping[str, Any]) -> Mapping[str, Record]:
        """Return, before a call to set, how each of its setpoints ended in the run.

        :param setpoints: values by the PVs' own names.
        :returns: the last record of each; empty if the run had no such point. That is not an error yet, as the call may
            be one of several that make a point: the read after them tells.
        """
        with self._lock:
            # First, as a refused put leaves the value as it is.
            self._stood = {name: self._update(PvAddress.parse(name)) for name in setpoints}
            self._ended = {}
            if self.matching is not Matching.TIME:
                match = self._match({**self._vector, **setpoints})
                if self.matching is Matching.NEAREST or not match.distance:
                    self._ended = {name: line for name, line in match.point.ended.items() if name in setpoints}
            return self._ended

    def point(self) -> Point:
        """Return the recorded point that matches the setpoints; before the first put, the state before the first point.

        :raises ReplayMismatch: with ``strict``, when the run had no such point; says what differs.
        """
        with self._lock:
            if not self._vector or self.matching is Matching.TIME:
                return self.recording.before
            if self._present and self.last_match is not None:
                return self.last_match.point
            match = self._match(self._vector)
            if self.matching is Matching.STRICT and match.distance:
                unknown = self.recording.unknown(self._vector)
                words = f"it never set {', '.join(unknown)}; " if unknown else ""
                raise ReplayMismatch(
                    f"run {self.recording.run} has no such point: {words}the nearest is {match}; "
                    "matching 'nearest' takes it"
                )
            if match.distance:
                logger.info("replay of run %s: %s", self.recording.run, match)
            self.last_match, self._present = match, True
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.tell(self._update(watcher.address))
        return match.point

    def _match(self, vector: Mapping[str, Any]) -> Match:
        return self.recording.match(vector, after=self.last_match.point.number if self.last_match is not None else 0)

    def observed(self, name: str) -> Update | None:
        """Return an observable's value at the present point; None if the run did not record it.

        :raises ReplayMismatch: as ``point``.
        """
        if self.matching is Matching.TIME:
            now = self.now_ns()
            lines = [p.observed[name] for p in self.recording.points if name in p.observed]
            past = [line for line in lines if line.time_ns <= now]
            line = past[-1] if past else lines[0] if lines else None
        else:
            line = self.point().observed.get(name)
        return None if line is None else self.recording.update(line)

    # -- the protocol -----------------------------------------------------------------------------------------------

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Return each PV's value at the present point, or the value that was put to it since."""
        return {address: self._update(address) for address in addresses}

    def _update(self, address: PvAddress) -> Update:
        name = address.read_name
        if self.matching is not Matching.TIME and name in self._vector:
            return self._echo(address)
        try:
            line = self._line(name)
        except ReplayMismatch as error:
            return PvNotConnected(address.text, str(error))
        if line is None:
            return PvNotConnected(address.text, f"run {self.recording.run} did not record it")
        return self.recording.update(line)

    def _line(self, name: str) -> Record | None:
        if self.matching is Matching.TIME:
            return self.recording.at(name, self.now_ns())
        if name in self.recording.baseline and name in self.recording.points[-1].setpoints:
            return self.recording.baseline[name]
        line = self.point().reads.get(name)
        return line if line is not None else self.recording.baseline.get(name)

    def _echo(self, address: PvAddress) -> Update:
        """Read back a setpoint."""
        name, line = address.read_name, self._ended.get(address.read_name)
        if line is not None and line.outcome is Outcome.REFUSED and name in self._stood:
            return self._stood[name]
        if line is not None and line.outcome is not Outcome.APPLIED:
            if line.value is None:
                return PvTimeout(address.text, "it was not answered in the run")
            return self.recording.update(line)
        value = self._vector[name]
        before = self.recording.baseline.get(name)
        reading = self.recording.update(before) if before is not None else None
        stamp = line.time_ns if line is not None else None
        if isinstance(reading, Reading):
            return replace(reading, value=value, timestamp_ns=stamp or reading.timestamp_ns)
        return Reading(value, type_of(value), stamp)

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Move to another point; each put ends as it did in the run."""
        with self._lock:
            self._present = False
            for address, value in values.items():
                self._vector[address.read_name] = value
            return {address: self._answer(self._ended.get(address.read_name)) for address in values}

    @staticmethod
    def _answer(line: Record | None) -> PutAnswer:
        if line is None or line.outcome is None or (line.data or {}).get("error") == PutMismatch.__name__:
            return PutAnswer(Outcome.APPLIED)
        return PutAnswer(line.outcome, line.message or "")

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> _Watcher:
        """Call back with the present value and at every point that is read; with ``time``, at the recorded times."""
        watcher = _Watcher(self._forget, address, callback)
        with self._lock:
            self._watchers.append(watcher)
            if self.matching is Matching.TIME and self._clock is None:
                self._clock = threading.Thread(target=self._tick, name="replay clock", daemon=True)
                self._clock.start()
        watcher.tell(self._update(address))
        return watcher

    def _tick(self) -> None:
        while not self._over.wait(_TICK):
            with self._lock:
                watchers = list(self._watchers)
            for watcher in watchers:
                watcher.tell(self._update(watcher.address))

    def _forget(self, watcher: _Watcher) -> None:
        """Forget a closed watcher."""
        with self._lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs: a point is one instant."""
        return self.get_many(addresses, deadline)

    def suspend(self) -> None:
        """Do nothing: there are no handles."""

    def close(self) -> None:
        """End the thread of matching ``time``."""
        self._over.set()
        with self._lock:
            self._watchers.clear()

    # -- around a fork ----------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Lock, so that the child copies a consistent state."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Unlock."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start over without watchers: they are the parent's."""
        self._begin()


class _Watcher:
    """A monitor, which reports each update once."""

    def __init__(
        self, forget: Callable[[_Watcher], None], address: PvAddress, callback: Callable[[Update], None]
    ) -> None:
        self.address = address
        self._forget = forget
        self._callback = callback
        self._last: object = None

    def tell(self, update: Update) -> None:
        seen = (update.plain, update.timestamp_ns) if isinstance(update, Reading) else str(update)
        if seen != self._last:
            self._last = seen
            self._callback(update)

    def close(self) -> None:
        """End the monitor."""
        self._forget(self)
