"""``Recording``: a recorded run in memory: its points, and the readings of every PV at each of them.

Pure: the caller gets the records from a journal or an exported file. Imports journal, records and model.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...core.errors import NoSuchRecord, PvError, PvNameError
from ...core.model import Outcome, PvAddress, Reading
from ...core.records import Record, RecordKind
from ...journal.reading_fields import profile_of, update_of

#: Outcomes of setpoints that were not sent, which make no point of the run.
_NOTHING = (Outcome.BLOCKED, Outcome.SKIPPED)
#: Relative difference of floats that count as the same, after a conversion to text and back.
_SAME = 1e-12


@dataclass(slots=True)
class Point:
    """One evaluation.

    :ivar number: from 1; 0 is the state before the first set.
    :ivar setpoints: the requested value of every setpoint, by its PV's own name, including those of earlier points.
    :ivar ended: the last record of each setpoint that was set here.
    :ivar reads: the last record of each PV that was read here.
    :ivar observed: the record of each observable, by its name.
    """

    number: int
    setpoints: dict[str, Any] = field(default_factory=dict)
    ended: dict[str, Record] = field(default_factory=dict)
    reads: dict[str, Record] = field(default_factory=dict)
    observed: dict[str, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """The recorded point that is nearest to a vector of setpoints.

    :ivar distance: 0 for the identical point; otherwise the norm of the differences, each divided by the PV's range in
        the run.
    :ivar differences: ``{pv: (asked, recorded)}``.
    """

    point: Point
    distance: float
    differences: Mapping[str, tuple[Any, Any]]

    def __str__(self) -> str:
        words = ", ".join(f"{pv} = {asked!r} (recorded: {there!r})" for pv, (asked, there) in self.differences.items())
        return f"evaluation {self.point.number}, distance {self.distance:.3g}" + (f": {words}" if words else "")


class Recording:
    """The records of a run, arranged by points.

    :param run: its id.
    :param records: its records, in order.
    :raises NoSuchRecord: when the run set nothing.
    :ivar points: the points of the run, in order.
    :ivar baseline: the record of each PV before the run moved anything.
    :ivar damaged: the numbers of lines with a wrong checksum.
    """

    def __init__(self, run: str, records: Iterable[Record]) -> None:
        """Read all records."""
        self.run = run
        self.manifest: Mapping[str, Any] = {}
        self.baseline: dict[str, Record] = {}
        self.damaged: list[int] = []
        #: The state before the first set.
        self.before = Point(0)
        self.points: list[Point] = []
        self.profiles: dict[str, Mapping[str, Any]] = {}
        self._history: dict[str, list[Record]] = {}
        self.began_ns: int | None = None
        restoring = False
        for record in records:
            if not record.intact:
                self.damaged.append(record.line)
            if record.kind in (RecordKind.RESTORE_BEGIN, RecordKind.RESTORE_END):
                restoring = record.kind is RecordKind.RESTORE_BEGIN
            # A restore makes no points of the run.
            elif not restoring:
                self._take(record)
        # If nothing was sent, the machine stayed at the previous point.
        self.points = [point for point in self.points if point.ended]
        if not self.points:
            raise NoSuchRecord(f"run {run} set nothing, so there is nothing to replay")

    def _take(self, record: Record) -> None:
        self.began_ns = record.time_ns if self.began_ns is None else self.began_ns
        if record.kind is RecordKind.RUN_BEGIN:
            self.manifest = record.data or {}
        elif record.kind is RecordKind.EVALUATION_BEGIN:
            before = self.points[-1].setpoints if self.points else {}
            self.points.append(Point(record.evaluation or len(self.points) + 1, dict(before)))
        point = self.points[-1] if self.points else self.before
        if record.kind is RecordKind.READ and record.name is not None:
            point.observed[record.name] = record
        if record.pv is None:
            return
        name = read_name(record.pv)
        if found := profile_of(record):
            self.profiles[name] = found
        if record.kind is RecordKind.BASELINE:
            self.baseline[name] = record
        elif record.kind is RecordKind.READ:
            point.reads[name] = record
        elif record.kind is RecordKind.SETPOINT and record.outcome not in _NOTHING:
            point.setpoints[name] = record.asked
            point.ended[name] = record
        if record.kind is RecordKind.SETPOINT and record.outcome is Outcome.APPLIED:
            self._history.setdefault(name, []).append(replace(record, value=record.asked))
        elif record.kind in (RecordKind.READ, RecordKind.SAMPLE, RecordKind.BASELINE):
            self._history.setdefault(name, []).append(record)

    # -- matching ------------------------------------------------------------------------------------------------

    def match(self, vector: Mapping[str, Any], after: int = 0) -> Match:
        """Return the point that is nearest to a vector.

        :param vector: values by the setpoint PVs' own names; a PV that the run never set makes no difference.
        :param after: the number of the previous point: of several equally near points the next one is taken.
        """
        ranges = self._ranges()
        matches = [self._compare(point, vector, ranges) for point in self.points]
        least = min(match.distance for match in matches)
        nearest = [match for match in matches if match.distance == least]
        return next((match for match in nearest if match.point.number > after), nearest[-1])

    def unknown(self, vector: Iterable[str]) -> list[str]:
        """Return the names of the setpoints that the run never set."""
        known = set(self.points[-1].setpoints)
        return [name for name in vector if name not in known]

    def _compare(self, point: Point, vector: Mapping[str, Any], ranges: Mapping[str, float]) -> Match:
        differences: dict[str, tuple[Any, Any]] = {}
        square = 0.0
        for name, asked in vector.items():
            there = point.setpoints.get(name, self.baseline[name].value if name in self.baseline else None)
            if same_value(asked, there):
                continue
            differences[name] = asked, there
            span = ranges.get(name) or 1.0
            square += ((asked - there) / span) ** 2 if _numbers(asked, there) else 1.0
        return Match(point, math.sqrt(square), differences)

    def _ranges(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in self.points[-1].setpoints:
            values = [float(point.setpoints[name]) for point in self.points if _numbers(point.setpoints.get(name))]
            found[name] = max(values) - min(values) if values else 0.0
        return found

    # -- values -----------------------------------------------------------------------------------------------

    def at(self, name: str, time_ns: int) -> Record | None:
        """Return the newest record of a PV at a time of the run; before its first one, the first."""
        lines = self._history.get(name, [])
        if not lines:
            return None
        return lines[max(0, bisect_right(lines, time_ns, key=lambda record: record.time_ns) - 1)]

    def update(self, record: Record) -> Reading | PvError:
        """Translate a record into the reading or error of its PV."""
        return update_of(record, self.profiles.get(read_name(record.pv or "")))


def read_name(text: str) -> str:
    """Return the PV's own name, however it was written."""
    try:
        return PvAddress.parse(text).read_name if text else ""
    except PvNameError:  # in an edited record; it will not be asked for
        return text


def same_value(one: Any, other: Any) -> bool:
    """Return whether two setpoints are the same."""
    if _numbers(one, other):
        return math.isclose(one, other, rel_tol=_SAME, abs_tol=0.0)
    return bool(one == other)


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
