"""The backend of a recorded run: what was put and read then, and no machine. It reaches nothing, so it writes nothing.

A put moves it to the recorded point that the setpoints stand for; a read gives what the PV gave there. Imports journal.
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

__all__ = ["Matching", "NotRecorded", "Recording", "ReplayBackend"]

logger = logging.getLogger("badger_k2eg")

#: Seconds between two looks at what has come due, in ``time``.
_TICK = 0.02


class Matching(StrEnum):
    """What stands for setpoints that the run may never have had."""

    #: The very point, or an error that tells what differs.
    STRICT = "strict"
    #: The nearest point; how far it is away is logged.
    NEAREST = "nearest"
    #: The time since the first call, times the speed, whatever is put.
    TIME = "time"


class NotRecorded(PvNotConnected):
    """A PV or an observable that the run did not record."""


class ReplayBackend:
    """PVs as a run recorded them.

    :param recording: the run.
    :param matching: how a point is found for what is put.
    :param speed: for ``time``: how much faster than then.
    :ivar last_match: the point that was read last, and how far it is from what was put.
    """

    def __init__(self, recording: Recording, matching: Matching | str = Matching.STRICT, speed: float = 1.0) -> None:
        """Stand at the beginning of the run."""
        self.recording = recording
        self.matching = Matching(matching)
        self.speed = speed
        self.last_match: Match | None = None
        self._began: float | None = None
        #: Every setpoint that was put here, by its own name, and how each of the present call ended then.
        self._vector: dict[str, Any] = {}
        self._ended: Mapping[str, Record] = {}
        #: What each setpoint was before its last put, which one that was refused has left as it was.
        self._stood: dict[str, Update] = {}
        #: Whether ``last_match`` still stands for what was put.
        self._present = False
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._watchers: list[_Watcher] = []
        self._clock: threading.Thread | None = None
        self._over = clock.event()

    # -- where it stands --------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Give the present time of the run, for ``time``; nanoseconds since the Unix epoch."""
        with self._lock:
            if self._began is None:
                self._began = clock.monotonic()
            return (self.recording.began_ns or 0) + int((clock.monotonic() - self._began) * self.speed * 1e9)

    def expect(self, setpoints: Mapping[str, Any]) -> Mapping[str, Record]:
        """Tell, before a call to set, how each of its setpoints ended then.

        :param setpoints: by the PVs' own names.
        :returns: the last line on each; empty where the run had no such point. A call may be one of several that make
            a point, so that this is no error: the read after them tells.
        """
        with self._lock:
            # Before it is told how they end: what one that is refused leaves as it is.
            self._stood = {name: self._update(PvAddress.parse(name)) for name in setpoints}
            self._ended = {}
            if self.matching is not Matching.TIME:
                match = self._match({**self._vector, **setpoints})
                if self.matching is Matching.NEAREST or not match.distance:
                    self._ended = {name: line for name, line in match.point.ended.items() if name in setpoints}
            return self._ended

    def point(self) -> Point:
        """Give the recorded point that stands for what was put; before the first put, what was read before the first.

        :raises ReplayMismatch: in ``strict``, when the run had no such point; says what differs.
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
        """Give what an observable was at the present point; None where the run did not record one of that name.

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
        """Give what each PV gave at the present point, or was put to since."""
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
            return NotRecorded(address.text, f"run {self.recording.run} did not record it")
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
                return PvTimeout(address.text, "it was not answered then")
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
        """Move to another point; each put ends as it did then."""
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
        """Call back with the present value, and at every point that is read; in ``time``, as it came."""
        watcher = _Watcher(self, address, callback)
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

    def forget(self, watcher: _Watcher) -> None:
        """Tell a watcher nothing any more."""
        with self._lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read: a point is one instant."""
        return self.get_many(addresses, deadline)

    def suspend(self) -> None:
        """Nothing is live."""

    def close(self) -> None:
        """End the clock."""
        self._over.set()
        with self._lock:
            self._watchers.clear()

    # -- around a fork ----------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let nobody be inside."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin with no watchers: they are the parent's."""
        self._begin()


class _Watcher:
    """One monitor; tells each update once."""

    def __init__(self, backend: ReplayBackend, address: PvAddress, callback: Callable[[Update], None]) -> None:
        self.address = address
        self._backend = backend
        self._callback = callback
        self._last: object = None

    def tell(self, update: Update) -> None:
        seen = (update.plain, update.timestamp_ns) if isinstance(update, Reading) else str(update)
        if seen != self._last:
            self._last = seen
            self._callback(update)

    def close(self) -> None:
        """End it."""
        self._backend.forget(self)
