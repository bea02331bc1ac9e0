"""``RecordedRun``: one run in the journal: what it set, what it read, and its annotations."""

from __future__ import annotations

import math
import os
import socket
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

from ..core.errors import NoSuchRecord
from ..core.model import Outcome, plain
from ..core.pv_names import own_name
from ..core.records import Level, Record, RecordKind
from ..core.suggestions import close_to
from .index_tables import KINDS
from .lookup import Event, Reader
from .query import Query

#: The name of the event that records an alias; ``data`` has the name of the record.
ALIAS = "alias"
_NAMED = 5
_NO_END = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a run.

    :ivar start: its first line.
    :ivar end: the line after its last; None while it is open, or if its writer died in it.
    :ivar asked: ``{pv: value}`` of the setpoints, in the order of setting.
    :ivar readings: ``{pv or observable: value}``, the last of each.
    :ivar failed: the lines of puts and setpoints that did not end as asked.
    :ivar data: what its last line holds (observables, objectives).
    :ivar damaged: the numbers of its lines whose checksum does not match; their contents are included above.
    """

    number: int
    start: int
    end: int | None
    began_ns: int
    ended_ns: int | None
    asked: dict[str, Any] = field(default_factory=dict)
    readings: dict[str, Any] = field(default_factory=dict)
    failed: list[Record] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it ended, with every setpoint as asked."""
        return self.end is not None and not self.failed


class Kept(Enum):
    """Which of the values before a put a PV may still hold after it."""

    NONE = "none"
    #: What it held when that was last certain: of a ramp, the steps before are over.
    SURE = "sure"
    ALL = "all"


#: What a PV may still hold besides what was asked and read back, by the outcome of a put: while its call goes on (an
#: answer is not read back yet), and after its end. An outcome that is not listed was not sent.
KEPT: Mapping[Outcome, tuple[Kept, Kept]] = {
    Outcome.APPLIED: (Kept.SURE, Kept.NONE),
    Outcome.UNKNOWN: (Kept.ALL, Kept.ALL),
    # A server may refuse a put, and have written all the same.
    Outcome.REFUSED: (Kept.ALL, Kept.ALL),
}


@dataclass(frozen=True, slots=True)
class MayHold:
    """What a PV may hold because of a run.

    :ivar values: every value that it may hold; none as long as nothing was sent.
    :ivar sure: what it held when that was last certain: before the run, or after a set that was read back.
    """

    values: tuple[Any, ...] = ()
    sure: tuple[Any, ...] = ()

    def after(self, outcome: Outcome, *told: Any, ended: bool) -> MayHold:
        """Return what it may hold after one more put.

        :param told: the value asked, and the one read back where there is one.
        :param ended: whether the call has ended.
        """
        if outcome not in KEPT:
            return self
        kept = KEPT[outcome][ended]
        more = () if kept is Kept.NONE else self.sure if kept is Kept.SURE else self.values or self.sure
        values = tuple({repr(plain(value)): value for value in (*told, *more)}.values())
        return MayHold(values, values if kept is Kept.NONE else self.sure)


@dataclass(frozen=True, slots=True)
class Written:
    """What a run has put to one PV.

    :ivar last: the last line about it.
    :ivar held: what it may hold.
    :ivar reached: the last value whose put was answered in a call that has not ended.
    :ivar way: the last point and the target of an interrupted ramp.
    """

    last: Record
    held: MayHold
    reached: Any = None
    way: tuple[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What a run did to its setpoints, each PV by the name that it has in the baseline.

    :ivar one: gives the name of a PV here, whatever it is called elsewhere.
    :ivar baseline: the line of each PV from before the run moved anything.
    :ivar lines: where each PV stood: its line of the baseline, or of the last put that was applied.
    :ivar written: what each PV that was sent something may hold, up to the end of the run.
    :ivar validators: the validator that each PV was set with last, in plain values.
    :ivar validator_lines: the lines of these.
    :ivar tolerances: how far from the value asked each PV may rest, in its unit, where that was declared.
    :ivar damaged: ``{pv: line}``: lines whose checksum does not match; ``lines`` cannot be trusted for these PVs. None
        stands for a line that is gone or cannot be read: it may have set any PV.
    """

    one: Callable[[str], str]
    baseline: dict[str, Record]
    lines: dict[str, Record]
    written: dict[str, Written] = field(default_factory=dict)
    validators: dict[str, Any] = field(default_factory=dict)
    validator_lines: dict[str, Record] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)
    damaged: dict[str | None, int] = field(default_factory=dict)

    @property
    def setpoints(self) -> dict[str, Any]:
        """The value at which each PV stood."""
        return {pv: r.value if r.kind is RecordKind.BASELINE else r.asked for pv, r in self.lines.items()}

    @property
    def last_written(self) -> dict[str, Record]:
        """The line of the last put to each PV that was done or may have been done.

        A put whose call did not end (its process died) is UNKNOWN.
        """
        return {pv: written.last for pv, written in self.written.items()}


class RecordedRun:
    """One run of a journal. Everything is read when it is asked for.

    :ivar id: as its first line has it.
    :ivar event: its range of lines and its times; open for a run that is still going, or has crashed.
    """

    def __init__(self, reader: Reader, event: Event) -> None:
        """Remember where it is."""
        self._reader = reader
        self.event = event
        self.id = event.run or str(event.start)

    def __repr__(self) -> str:
        return f"<RecordedRun {self.id}, {self.state}>"

    # -- what it was ----------------------------------------------------------------------------------------------

    @property
    def started_ns(self) -> int:
        """When it began, in nanoseconds since the Unix epoch."""
        return self.event.began_ns

    @property
    def ended_ns(self) -> int | None:
        """When it ended, in nanoseconds since the Unix epoch; None while it is open."""
        return self.event.ended_ns

    @property
    def reason(self) -> str | None:
        """Why it ended: success, stopped, failed, lost; None while it is open."""
        return self.event.reason

    @property
    def open(self) -> bool:
        """Whether no line has ended it: it is still going, or its process died."""
        return self.event.open

    @cached_property
    def first(self) -> Record:
        """Its first line, with its host, user and process, and its manifest in ``data``."""
        lines = Query(first=self.event.start, end=self.event.start + 1)
        return next(self._reader.records(lines), Record(kind=RecordKind.RUN_BEGIN, run=self.id))

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What it recorded at its beginning: environment, interface, options, PVs."""
        return self.first.data or {}

    @property
    def alive(self) -> bool | None:
        """Whether its process exists; None if this host cannot know. An open run without a process has crashed."""
        if not self.open:
            return False
        if self.first.host != socket.gethostname() or not self.first.process:
            return None
        try:
            os.kill(self.first.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's: it exists
        return True

    @property
    def state(self) -> str:
        """The reason of its end, ``open``, or ``crashed``."""
        return self.reason or ("ended" if not self.open else "crashed" if self.alive is False else "open")

    # -- annotations ----------------------------------------------------------------------------------------------

    @cached_property
    def _said(self) -> list[Record]:
        kinds = ("note", "tag", "rename", "link", "attach", "best")
        found = self._reader.events(kinds, run=self.id)
        return [r for e in found for r in self._reader.records(Query(first=e.start, end=e.start + 1))]

    def _of(self, kind: RecordKind) -> list[Record]:
        return [record for record in self._said if record.kind is kind]

    @property
    def name(self) -> str:
        """The last name that it was given, or an empty text."""
        renamed = self._of(RecordKind.RENAME)
        return (renamed[-1].name if renamed else self.event.name) or ""

    @property
    def tags(self) -> dict[str, str | float]:
        """Its tags: ``{tag: text or number}``, with the last value of each."""
        found = {record.name or "": record.value for record in self._of(RecordKind.TAG)}
        return {
            name: value if isinstance(value, str | int | float) and not isinstance(value, bool) else str(value)
            for name, value in found.items()
            if value is not None
        }

    @property
    def notes(self) -> list[Record]:
        """The lines of its notes, with user and time."""
        return self._of(RecordKind.NOTE)

    @property
    def parent(self) -> str | None:
        """The id of the run that it continues."""
        links = self._of(RecordKind.LINK)
        parent = ((links[-1].data or {}) if links else self.manifest).get("parent")
        return parent if isinstance(parent, str) else None

    @property
    def attachments(self) -> list[Record]:
        """The lines of its attached files; ``data`` has path, bytes and sha256."""
        return self._of(RecordKind.ATTACH)

    @property
    def bests(self) -> list[int]:
        """The numbers of the evaluations that were the best so far, in order; empty if none was marked."""
        return [record.evaluation for record in self._of(RecordKind.BEST) if record.evaluation is not None]

    @property
    def best(self) -> int | None:
        """The number of its best evaluation; None if none was marked."""
        return self.bests[-1] if self.bests else None

    @property
    def best_line(self) -> Record | None:
        """The line that marks its best evaluation."""
        return next((r for r in reversed(self._of(RecordKind.BEST)) if r.evaluation is not None), None)

    @cached_property
    def unguarded(self) -> str:
        """What shows that it set PVs past its interface; empty if nothing does."""
        end = next(self.records(Query(kinds=(RecordKind.RUN_END,))), None)
        if end is not None:
            return str((end.data or {}).get("unguarded", ""))
        events = [r for r in self.records(Query(kinds=(RecordKind.EVENT,))) if r.name == "unguarded"]
        return events[-1].message or "" if events else ""

    # -- what it did ----------------------------------------------------------------------------------------------

    def records(self, query: Query | None = None) -> Iterator[Record]:
        """Yield its lines, those after its end (annotations, restores) included.

        :param query: restricts them.
        """
        # A PV that the run does not have gives no lines, and is not an error.
        return self._reader.records(replace(query or Query(), run=self.id), strict=False)

    def texts(self) -> Iterator[bytes]:
        """Yield its lines as they are in the journal, without newlines."""
        return (text for _, text in self._reader.texts(Query(run=self.id)))

    @property
    def evaluation_count(self) -> int:
        """How many evaluations it began."""
        sql = "SELECT count(DISTINCT evaluation) FROM events WHERE kind = 'evaluation' AND run = ?"
        return int(self._reader.index.ask(sql, (self.id,))[0][0])

    def evaluations(self) -> list[Evaluation]:
        """Return its evaluations, each with what was asked and read in it."""
        return list(self._evaluations(None).values())

    def evaluation(self, number: int) -> Evaluation:
        """Return one evaluation.

        :raises NoSuchRecord: when it has no evaluation of that number.
        """
        found = self._evaluations(number)
        if number not in found:
            events = self._reader.events(("evaluation",), run=self.id)
            last = max((event.evaluation for event in events if event.evaluation is not None), default=None)
            has = "none" if last is None else f"1 to {last}"
            raise NoSuchRecord(f"run {self.id} has no evaluation {number}; it has {has}")
        return found[number]

    def _evaluations(self, number: int | None) -> dict[int, Evaluation]:
        found = {
            event.evaluation: Evaluation(event.evaluation, event.start, event.end, event.began_ns, event.ended_ns)
            for event in self._reader.events(("evaluation",), run=self.id)
            if event.evaluation is not None and number in (None, event.evaluation)
        }
        if found:
            kinds = (
                RecordKind.SET_BEGIN, RecordKind.PUT, RecordKind.SETPOINT, RecordKind.READ, RecordKind.EVALUATION_END
            )  # fmt: skip
            for record in self.records(Query(kinds=kinds, evaluation=number)):
                if (evaluation := found.get(record.evaluation or 0)) is not None:
                    _add(evaluation, record)
        return found

    def baseline(self) -> dict[str, Record]:
        """Return, for each PV, the line of its value before the run set anything; it has no value if none was read."""
        return self._names()[0]

    def _names(self) -> tuple[dict[str, Record], Callable[[str], str]]:
        """Return the baseline, and a function that maps every spelling and alias of a PV to its name there."""
        aliases: dict[str, str] = {}
        spelt: dict[str, str] = {}

        def one(pv: str) -> str:
            name = own_name(pv)
            return spelt.setdefault(aliases.get(name, name), pv)

        lines = list(self.records(Query(kinds=(RecordKind.BASELINE, RecordKind.EVENT))))
        for record in lines:
            if record.kind is RecordKind.BASELINE:
                one(record.pv or "")
            elif record.name == ALIAS and record.intact and isinstance(real := (record.data or {}).get("record"), str):
                aliases[own_name(record.pv or "")] = real
        found = (record for record in lines if record.kind is RecordKind.BASELINE)
        return {one(record.pv): record for record in found if record.pv is not None}, one

    def history(self, evaluation: int | None = None) -> History:
        """Return what it did to its setpoints, and where they stood at the end of an evaluation.

        :param evaluation: its number; None takes the end of the run, 0 the baseline.
        :raises NoSuchRecord: when there is no such evaluation.
        """
        end = self.evaluation(evaluation).end if evaluation else None
        baseline, one = self._names()
        found = History(one, baseline, {pv: line for pv, line in baseline.items() if line.value is not None})
        if evaluation != 0 and (gap := self._gap(end)) is not None:
            found.damaged[None] = gap
        last = math.inf if evaluation is None else evaluation
        begun: dict[str, Record] = {}
        before = {pv: MayHold(sure=(line.value,)) for pv, line in found.lines.items()}

        def put(pv: str, record: Record) -> None:
            found.written[pv] = _after(found.written.get(pv), before.get(pv, MayHold()), record)

        kinds = (RecordKind.SET_BEGIN, RecordKind.PUT, RecordKind.SETPOINT, RecordKind.SET_END)
        for record in self.records(Query(kinds=kinds)):
            if record.kind is RecordKind.SET_BEGIN:
                for pv, asked in record.part("setpoints").items():
                    words = "begun, and not known to have ended"
                    begun[one(pv)] = replace(record, pv=pv, asked=asked, outcome=Outcome.UNKNOWN, message=words)
                for pv, told in record.part("validators").items():
                    found.validators[one(pv)], found.validator_lines[one(pv)] = told, record
                continue
            if record.kind is RecordKind.SET_END:
                # Calls of other threads, and calls nested in this one, have not ended with it.
                begun = {pv: line for pv, line in begun.items() if line.line != record.begin}
                continue
            name = None if record.pv is None else one(record.pv)
            # The baseline needs none of the lines after it.
            counts = evaluation != 0 and (end is None or record.line < end)
            if counts and not record.intact:
                found.damaged.setdefault(name, record.line)
            if name is None:
                continue
            if counts and record.outcome is Outcome.APPLIED and (record.evaluation or 0) <= last:
                found.lines[name] = record
            if record.kind is RecordKind.SETPOINT:
                begun.pop(name, None)
                if (tolerance := _tolerance(record)) is not None:
                    found.tolerances[name] = tolerance
            if record.outcome in KEPT:
                put(name, record)
        for pv, record in begun.items():
            put(pv, record)
        return found

    def setpoints(self, evaluation: int | None = None) -> dict[str, Any]:
        """Return the setpoints as they stood at the end of an evaluation; see ``history``."""
        return self.history(evaluation).setpoints

    def _gap(self, end: int | None) -> int | None:
        """Return a line between the first and the last that is gone or cannot be read, or None.

        The line in which a writer died does not count: that writer wrote nothing after it.
        """
        end = min(end or _NO_END, self.event.end or _NO_END)
        sql = (
            "SELECT line + 1 FROM records AS here WHERE line >= ? AND line + 1 < ? AND NOT EXISTS"
            " (SELECT 1 FROM records WHERE line = here.line + 1)"
            " AND EXISTS (SELECT 1 FROM records WHERE line > here.line + 1)"
            " AND NOT EXISTS (SELECT 1 FROM records WHERE line = here.line + 2 AND kind = ?) LIMIT 1"
        )
        gone = self._reader.index.ask(sql, (self.event.start, end, KINDS[RecordKind.TORN]))
        return int(gone[0][0]) if gone else None

    def latencies(self) -> dict[str, list[float]]:
        """Return the seconds that each PV took to arrive, validation included; the slowest PV (by median) first."""
        found: dict[str, list[float]] = {}
        for kind in (RecordKind.SETPOINT, RecordKind.PUT):
            for record in self.records(Query(kinds=(kind,), outcomes=(Outcome.APPLIED,))):
                if record.pv is not None and record.duration is not None:
                    found.setdefault(record.pv, []).append(record.duration)
            if found:
                break
        return dict(sorted(found.items(), key=lambda item: -statistics.median(item[1])))


def _tolerance(record: Record) -> float | None:
    tolerance = (record.data or {}).get("tolerance")
    # A wider one would take a PV for restored that is not: only an intact line is believed.
    if not record.intact or not isinstance(tolerance, int | float):
        return None
    return float(tolerance) if 0.0 < tolerance < math.inf else None


def _after(last: Written | None, before: MayHold, record: Record) -> Written:
    """Return what a PV may hold after one more line about it."""
    told = [value for value in (record.asked, record.value) if value is not None]
    ended = record.kind is RecordKind.SETPOINT
    held = last.held if last is not None else before
    held = held.after(record.outcome or Outcome.UNKNOWN, *told, ended=ended)
    if record.outcome is Outcome.APPLIED:
        return Written(record, held, reached=None if ended else record.asked)
    is_open = record.kind is RecordKind.SET_BEGIN and last is not None and last.reached is not None
    return Written(record, held, way=(last.reached, record.asked) if is_open and last is not None else None)


def _add(evaluation: Evaluation, record: Record) -> None:
    """Add a line to its evaluation."""
    if not record.intact:
        evaluation.damaged.append(record.line)
    if record.kind is RecordKind.EVALUATION_END:
        evaluation.data.update(record.data or {})
    elif record.kind is RecordKind.SET_BEGIN:
        evaluation.asked.update(record.part("setpoints"))
    elif record.kind is RecordKind.READ:
        evaluation.readings[record.pv or record.name or ""] = record.value
    elif record.pv is not None:
        evaluation.asked[record.pv] = record.asked
        if record.kind is RecordKind.SETPOINT:
            # The final outcome of a setpoint replaces those of its attempts.
            evaluation.failed[:] = [each for each in evaluation.failed if each.pv != record.pv]
        if record.own_level >= Level.WARNING:
            evaluation.failed.append(record)


def all_runs(reader: Reader) -> list[RecordedRun]:
    """Return the runs of a journal, the newest last."""
    return [RecordedRun(reader, event) for event in reader.events(("run",))]


def find_run(reader: Reader, text: str) -> RecordedRun:
    """Return a run by its id, the unique beginning of one, its name, or ``last``.

    :raises NoSuchRecord: when no run matches, or more than one.
    """
    events = {event.run: event for event in reader.events(("run",)) if event.run is not None}
    if text == "last" and events:
        return RecordedRun(reader, list(events.values())[-1])
    found = [text] if text in events else [run for run in events if text and run.startswith(text)]
    if not found:
        renamed = {event.run for event in reader.events(("rename",), name=text)}
        named = [run for run, event in events.items() if event.name == text or run in renamed]
        found = [run for run in named if RecordedRun(reader, events[run]).name == text]
    if len(found) == 1:
        return RecordedRun(reader, events[found[0]])
    if found:
        shown = ", ".join(found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
        raise NoSuchRecord(f"{text!r} matches {len(found)} runs: {shown}")
    if not events:
        raise NoSuchRecord(f"there is no run {text!r}: the journal has no run yet")
    close = close_to(text, events)
    hint = f"did you mean {close!r}?" if close else f"the newest is {list(events)[-1]}"
    raise NoSuchRecord(f"there is no run {text!r}; {hint}")
