"""``Recorder``: writes what a ``Control`` does as lines of a journal; those of a run carry its id.

Used by a run while it goes on, and by what is set outside of one. Without a journal it keeps nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ..core.backend import Update
from ..core.errors import PvError
from ..core.model import PutResult, PvAddress, SetReport, plain
from ..core.records import Level, Record, RecordKind
from ..journal import Journal
from ..journal import settings as journal_settings
from ..journal.reading_fields import told, told_error
from ..journal.recorded_run import ALIAS
from .manifest import told_validator


def own_journal() -> Journal | None:
    """Return the journal of this user; None where the settings say that nothing is recorded.

    :raises SettingsError: for a wrong option.
    """
    chosen = journal_settings.load()
    return Journal(chosen.directory, chosen) if chosen.enabled else None


class Recorder:
    """A writer of the lines of a run, or of what is set outside of one.

    :param journal: None keeps no record.
    :param run: the id of the run that every line belongs to; None outside of a run.
    :param what: a word for what sets outside of a run; then each setpoint's line also tells what the PV held before,
        which in a run the baseline and the lines before tell.
    :ivar evaluation: the number of the evaluation that lines belong to; 0 for none.
    """

    def __init__(self, journal: Journal | None, run: str | None, *, what: str | None = None) -> None:
        """Keep the parts; nothing is written yet."""
        self.journal = journal
        self.run = run
        self._what = what
        self.evaluation = 0
        #: The records of PVs that were set by an alias.
        self.aliases: dict[str, str] = {}
        self._calls = threading.local()
        self._profiled: set[str] = set()
        self._validators: dict[str, tuple[Any, list[dict[str, Any]] | None]] = {}

    def write(self, *records: Record, required: bool = False, sync: bool = False) -> int | None:
        """Append lines.

        :returns: the number of the first; None where nothing was written.
        :raises JournalWriteError: when they are required, and cannot be written.
        """
        if self.journal is None or not records:
            return None
        lines = self.journal.write(*records, required=required, sync=sync)
        return lines.start if lines else None

    def line(self, kind: RecordKind, **fields: Any) -> Record:
        """Return a line of this run, and of its present evaluation."""
        fields.setdefault("evaluation", self.evaluation or None)
        return Record(kind=kind, run=self.run, **fields)

    def alias(self, address: PvAddress) -> list[Record]:
        """Return the line that tells, once, which record is called by an alias."""
        if address.real is None or address.text in self.aliases:
            return []
        self.aliases[address.text] = address.real
        message, data = f"{address.text} is an alias of {address.real}", {"record": address.real}
        return [self.line(RecordKind.EVENT, name=ALIAS, pv=address.text, message=message, data=data)]

    def own_name(self, pv: str) -> str:
        """Return the own name of a PV that was set, also by an alias.

        :raises PvNameError: for a malformed name.
        """
        return self.aliases.get(pv) or PvAddress.parse(pv).own_name

    def event(self, name: str, message: str, *, level: Level = Level.INFO, **fields: Any) -> None:
        """Record an event."""
        self.write(self.line(RecordKind.EVENT, name=name, message=message, level=level, **fields))

    def forced(self, address: PvAddress, reason: str) -> Record:
        """Return the line of a PV that is set by force.

        :param reason: why it should not be set.
        """
        message = f"set all the same, by force: {reason}"
        return self.line(RecordKind.EVENT, name="forced", pv=address.text, message=message, level=Level.WARNING)

    # -- what a Control tells ---------------------------------------------------------------------------------------

    @property
    def _open(self) -> list[int | None]:
        """The lines by which the calls of this thread began.

        There may be several: a validator may set something itself, within the call that it validates.
        """
        if not hasattr(self._calls, "open"):
            self._calls.open = []
        calls: list[int | None] = self._calls.open
        return calls

    @property
    def in_call(self) -> bool:
        """Whether this thread is in a call whose beginning is recorded."""
        return bool(self._open)

    def set_began(
        self, asked: Mapping[str, Any], validators: Mapping[str, Any] | None = None, *, required: bool = False
    ) -> None:
        """Record that a call is about to send something.

        :param validators: those of this package are recorded, each where it is new.
        :param required: whether the line must be on disk.
        :raises JournalWriteError: when it is required, and cannot be written.
        """
        data: dict[str, Any] = {"setpoints": {pv: plain(value) for pv, value in asked.items()}}
        new = {}
        for pv, validator in (validators or {}).items():
            known, told = self._validators.get(pv, (None, None))
            # Recorded again only for another validator: most sets come with those of the set before.
            if pv in asked and validator is not known:
                self._validators[pv] = (validator, parts := told_validator(validator))
                if parts and parts != told:
                    new[pv] = parts
        if new:
            data["validators"] = new
        begin = self.line(RecordKind.SET_BEGIN, name=self._what, data=data)
        self._open.append(self.write(begin, required=required, sync=required))

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Record one attempt on each PV."""
        self.write(*(self._result(RecordKind.PUT, result) for result in results.values()))

    def set_finished(self, report: SetReport) -> None:
        """Record the end of a call; and its beginning, where that is not recorded yet."""
        records = [self._result(RecordKind.SETPOINT, result) for result in report.results]
        if not records:
            return
        if not self._open:
            self.set_began({result.pv: result.asked for result in report.results})
        begin = self._open.pop()
        message = None if report.ok else "; ".join(str(result) for result in report.failed)
        level = None if report.ok else Level.WARNING
        self.write(*records, self.line(RecordKind.SET_END, begin=begin, message=message, level=level))

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """Record what was read for the user."""
        self.write(*self.reads(updates))

    def reads(self, updates: Mapping[str, Update]) -> list[Record]:
        """Return the lines of a read."""
        return [self._read(pv, update) for pv, update in updates.items()]

    def _read(self, pv: str, update: Update) -> Record:
        """Return the line of one PV that was read."""
        if isinstance(update, PvError):
            return self.line(RecordKind.READ, pv=pv, level=Level.WARNING, **told_error(update))
        # Type, limits and choices once for each PV: they hardly ever change.
        is_first = pv not in self._profiled
        self._profiled.add(pv)
        return self.line(RecordKind.READ, pv=pv, **told(update, profile=is_first))

    def _result(self, kind: RecordKind, result: PutResult) -> Record:
        """Return the line of a put, or of a setpoint at the end of its call."""
        seen = {} if result.readback is None else told(result.readback)
        more: dict[str, Any] = {"arrived": plain(result.arrived)} if result.arrived is not None else {}
        if result.tolerance:
            more["tolerance"] = result.tolerance
        if self._what is not None and kind is RecordKind.SETPOINT and result.before is not None:
            more["before"] = plain(result.before.value)
        if result.error is not None:
            more["error"] = type(result.error).__name__
        if more:
            seen["data"] = (seen.get("data") or {}) | more
        seen["message"] = result.message or None
        return self.line(
            kind,
            pv=result.pv,
            asked=plain(result.asked),
            outcome=result.outcome,
            attempt=result.attempts or None,
            duration=result.seconds,
            **seen,
        )

    @contextlib.contextmanager
    def restoring(self, where: str, *, force: bool = False) -> Iterator[dict[str, Any]]:
        """Record the beginning and the end of a restore; the dict that it gives takes the outcome."""
        data = {"force": True} if force else None
        begin = self.write(self.line(RecordKind.RESTORE_BEGIN, name=where, data=data), sync=True)
        outcome: dict[str, Any] = {}
        try:
            yield outcome
        finally:
            self.write(self.line(RecordKind.RESTORE_END, name=where, begin=begin, data=outcome), sync=True)
