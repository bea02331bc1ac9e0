"""``Evaluations``: counts and records the points of the optimizer, each with its sets and reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..core.backend import Update
from ..core.errors import PvError
from ..core.model import Reading, plain
from ..core.records import Level, Record, RecordKind
from ..journal.reading_fields import told, told_error
from .recorder import Recorder


class Evaluations:
    """The evaluations of a run. A new vector of setpoints opens one; the next vector, or the end of the run, closes it.

    :ivar count: number of the newest one, from 1; 0 before the first set.
    :ivar best: number and objectives of the best so far; None where the optimizer does not tell.
    """

    def __init__(self, recorder: Recorder) -> None:
        """Keep the recorder; no evaluation is open yet."""
        self.count = 0
        self.best: tuple[int, dict[str, float]] | None = None
        #: Called with the number of each one that begins, and with the objective of each one that is the best so far.
        self.on_begin: list[Callable[[int], object]] = []
        self.on_best: list[Callable[[float], object]] = []
        self._recorder = recorder
        self._lock = threading.RLock()
        self._begin: int | None = None
        self._point: dict[str, Any] = {}
        self._observed: dict[str, Any] = {}
        self._has_read = False
        self._has_failed = False
        #: The last read of each PV before the first evaluation.
        self._before: dict[tuple[str | None, str | None], Record] = {}

    def at(self, point: Mapping[str, Any]) -> None:
        """Take into account that a point is about to be set.

        Sets without a read between them make one point; the same point once more after a failure is a Retry.
        """
        point = {name: plain(value) for name, value in point.items()}
        with self._lock:
            moves_on = any(name in self._point and self._point[name] != value for name, value in point.items())
            is_retry = self._has_failed and point.items() <= self._point.items()
            if self._begin is not None and (is_retry or not self._has_read) and not moves_on:
                self._point |= point
                self._has_failed = False
                return
            records = [*self._before.values(), *self._end()]
            self._before = {}
            self.count += 1
            self._recorder.evaluation = self.count
            self._point, self._has_read, self._has_failed = point, False, False
            records.append(self._recorder.line(RecordKind.EVALUATION_BEGIN, data={"point": point}))
            line = self._recorder.write(*records, sync=len(records) > 1)
            self._begin = 0 if line is None else line + len(records) - 1
        for hook in self.on_begin:
            hook(self.count)

    def has_failed(self) -> None:
        """Note that a set did not end as asked: the same point once more is a Retry."""
        self._has_failed = True

    def close(self) -> None:
        """Close the open evaluation: what is set from now on belongs to the end of the run."""
        with self._lock:
            self._recorder.write(*self._end(), sync=True)

    def _end(self) -> list[Record]:
        """Return the last line of the open evaluation, if there is one."""
        if self._begin is None:
            return []
        data = {"observables": dict(self._observed)} if self._observed else None
        record = self._recorder.line(RecordKind.EVALUATION_END, begin=self._begin, data=data)
        self._begin, self._observed, self._recorder.evaluation = None, {}, 0
        return [record]

    def is_best(self, objectives: Mapping[str, float]) -> None:
        """Record that the newest evaluation is the best so far."""
        self.best = (self.count, dict(objectives))
        data = {"objectives": dict(objectives)}
        self._recorder.write(self._recorder.line(RecordKind.BEST, evaluation=self.count, data=data))
        for hook in self.on_best:
            hook(next(iter(objectives.values())))

    def read(self, updates: Mapping[str, Update]) -> None:
        """Record what was read for the user."""
        self._has_read = True
        self._has_failed |= any(isinstance(update, PvError) for update in updates.values())
        self._observed |= {pv: update.plain for pv, update in updates.items() if isinstance(update, Reading)}
        self._keep(self._recorder.reads(updates))

    def observed(
        self,
        values: Mapping[str, Any],
        readings: Mapping[str, tuple[Reading, ...]],
        errors: Mapping[str, PvError] | None = None,
    ) -> None:
        """Record observables: values, each from one reading or from several; and errors, where there is no value."""
        self._has_read = True
        self._has_failed |= bool(errors)
        self._observed |= {name: plain(value) for name, value in values.items()}
        records = []
        for name, value in values.items():
            taken = readings.get(name, ())
            fields = told(taken[-1]) if len(taken) == 1 else {}
            fields["value"] = value
            if len(taken) > 1:
                fields["data"] = {"values": [r.value for r in taken], "stamps": [r.timestamp_ns for r in taken]}
            records.append(self._recorder.line(RecordKind.READ, name=name, **fields))
        for name, error in (errors or {}).items():
            records.append(self._recorder.line(RecordKind.READ, name=name, level=Level.WARNING, **told_error(error)))
        self._keep(records)

    def _keep(self, records: list[Record]) -> None:
        """Write the lines of a read; those before the first set are kept, to follow the baseline."""
        with self._lock:
            if not self.count:
                self._before |= {(record.pv, record.name): record for record in records}
                return
        self._recorder.write(*records)
