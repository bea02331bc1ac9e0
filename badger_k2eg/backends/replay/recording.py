"""``Recording``: one run, read whole from its lines: its points, and what every PV gave at each of them.

Pure: where the lines come from (a journal, an exported file) is the caller's affair. Imports journal, records, model.
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

#: Nothing was sent, so it is no point of the run.
_NOTHING = (Outcome.BLOCKED, Outcome.SKIPPED)
#: Floats that went through a text and back are the same.
_SAME = 1e-12


@dataclass(slots=True)
class Point:
    """One evaluation.

    :ivar number: from 1; 0 is the state before the first set.
    :ivar setpoints: every setpoint PV as it was asked for, by its own name; those of earlier points stay.
    :ivar ended: the last word on each setpoint that was set here.
    :ivar reads: the last line of each PV that was read here.
    :ivar observed: the line of each observable, by its name.
    """

    number: int
    setpoints: dict[str, Any] = field(default_factory=dict)
    ended: dict[str, Record] = field(default_factory=dict)
    reads: dict[str, Record] = field(default_factory=dict)
    observed: dict[str, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """The recorded point that stands for a vector.

    :ivar distance: 0 for the very point; otherwise the norm of the differences, each over the PV's range in the run.
    :ivar differences: ``{pv: (asked, recorded)}``.
    """

    point: Point
    distance: float
    differences: Mapping[str, tuple[Any, Any]]

    def __str__(self) -> str:
        words = ", ".join(f"{pv} = {asked!r} (recorded: {there!r})" for pv, (asked, there) in self.differences.items())
        return f"evaluation {self.point.number}, distance {self.distance:.3g}" + (f": {words}" if words else "")


class Recording:
    """What a run left.

    :param run: its id.
    :param records: its lines, in order.
    :raises NoSuchRecord: when they tell of no set at all.
    :ivar points: those of the run, in order.
    :ivar baseline: the line of each PV before the run moved anything.
    :ivar damaged: the numbers of lines whose checksum does not fit.
    """

    def __init__(self, run: str, records: Iterable[Record]) -> None:
        """Read them all."""
        self.run = run
        self.manifest: Mapping[str, Any] = {}
        self.baseline: dict[str, Record] = {}
        self.damaged: list[int] = []
        #: What was read before the first set.
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
            # What a restore puts back is no point of the run.
            elif not restoring:
                self._take(record)
        # Where nothing was sent, the machine stayed at the point before.
        self.points = [point for point in self.points if point.ended]
        if not self.points:
            raise NoSuchRecord(f"run {run} set nothing: there is nothing to replay")

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

    # -- which point ------------------------------------------------------------------------------------------------

    def match(self, vector: Mapping[str, Any], after: int = 0) -> Match:
        """Find the point that is nearest to a vector.

        :param vector: by the own names of setpoint PVs; a PV that the run never set tells points apart by nothing.
        :param after: number of the point served before: of several that are equally near the next one is taken.
        """
        ranges = self._ranges()
        matches = [self._compare(point, vector, ranges) for point in self.points]
        least = min(match.distance for match in matches)
        nearest = [match for match in matches if match.distance == least]
        return next((match for match in nearest if match.point.number > after), nearest[-1])

    def unknown(self, vector: Iterable[str]) -> list[str]:
        """Name the setpoints that the run never set."""
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

    # -- what it gave -----------------------------------------------------------------------------------------------

    def at(self, name: str, time_ns: int) -> Record | None:
        """Give the newest line of a PV at a time of the run; before its first one, the first."""
        lines = self._history.get(name, [])
        if not lines:
            return None
        return lines[max(0, bisect_right(lines, time_ns, key=lambda record: record.time_ns) - 1)]

    def update(self, record: Record) -> Reading | PvError:
        """Make of a line what the PV gave then."""
        return update_of(record, self.profiles.get(read_name(record.pv or "")))


def read_name(text: str) -> str:
    """Give the name by which a PV is known here, however it was written."""
    try:
        return PvAddress.parse(text).read_name if text else ""
    except PvNameError:  # in a record that somebody edited; nobody will ask for it
        return text


def same_value(one: Any, other: Any) -> bool:
    """Whether two setpoints are the same."""
    if _numbers(one, other):
        return math.isclose(one, other, rel_tol=_SAME, abs_tol=0.0)
    return bool(one == other)


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
