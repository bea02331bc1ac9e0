"""``Run``: from the first set to its one end. Baseline, evaluations, what each PV was set to, and the way back.

A run belongs to its process: ``process`` opens and ends it; ``attachment`` tells it what a ``Control`` does.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from ..control import Control
from ..core import clock
from ..core.backend import Update
from ..core.deadline import Deadline, under
from ..core.errors import ControlError, LockRefused, PvError, SettingsError
from ..core.model import PutResult, PvAddress, Reading, SetReport
from ..core.records import Level, Record, RecordKind
from ..journal import Journal
from ..journal.reading_fields import told, told_error
from . import restore_plan
from .calls import Calls
from .evaluations import Evaluations
from .foreign_moves import Watch
from .moved import Moved
from .pv_locks import locks
from .recorder import Recorder
from .settings import RunSettings

logger = logging.getLogger("badger_k2eg")

#: The part of the time for putting back in which it is waited for that each PV has arrived.
_WITH_VALIDATORS = 0.6
# Seconds that the end waits for calls of other threads.
_CALLS_END = 10.0


class Reason(StrEnum):
    """Why a run ended. The fourth, ``lost``, is found by whoever comes after it."""

    SUCCESS = "success"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"


class Run:
    """One run.

    :param journal: where its record goes; None keeps none.
    :param manifest: what it is a run of, for its record.
    :param settings: what becomes of the machine at its end.
    :param deadline: ends every call of the run when it is cancelled.
    :param holds: whether it keeps the locks of its PVs until its end; otherwise for the time of each call.
    :ivar reason: why it ended, or is about to; None while it goes on.
    :ivar message: the same in words.
    """

    def __init__(
        self,
        journal: Journal | None,
        manifest: Mapping[str, Any],
        settings: RunSettings,
        deadline: Deadline,
        *,
        holds: bool = True,
    ) -> None:
        """Keep the parts; nothing is on disk before the first set."""
        self.id = Journal.new_run_id()
        self.recorder = Recorder(journal, self.id)
        self.evaluations = Evaluations(self.recorder)
        self.manifest = dict(manifest)
        self.settings = settings
        self.deadline = deadline
        self.holds = holds
        self.reason: Reason | None = None
        self.message = ""
        #: What the last call that failed raised; None after one that went well.
        self.failure: BaseException | None = None
        #: Called when it is stopped, or has failed, before anything is put back; an error in one is logged.
        self.on_cancelled: list[Callable[[Run], object]] = []
        self.on_exception: list[Callable[[Run, BaseException | None], object]] = []
        #: Called with the run when it begins (its baseline is on disk), and when it has ended.
        self.on_begin: list[Callable[[Run], object]] = []
        self.on_end: list[Callable[[Run], object]] = []
        #: Called when nothing is set any more, and its end is not on record yet.
        self.before_end: list[Callable[[], object]] = []
        #: Said at the end, in its record: ``archive``, ``best``, ...
        self.outcome: dict[str, Any] = {}
        self.moved: dict[str, Moved] = {}
        self.watch = Watch(self)
        self._paused: str | None = None
        self.restored: list[restore_plan.Step] = []
        self.ended = clock.event()
        self._lock = threading.RLock()
        self._begin: int | None = None
        self._locked: list[str] = []
        self._locking = threading.Lock()
        self.calls = Calls()
        self._ender: int | None = None
        self._end_began = False

    @property
    def began(self) -> bool:
        """Whether it is on record."""
        return self._begin is not None

    @property
    def stopping(self) -> bool:
        """Whether it has ended, or is about to: nothing is set any more but what belongs to its end."""
        return self.reason is not None and not self.is_closing

    # -- before a put -----------------------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether this very thread is bringing it to its end."""
        return self._ender == threading.get_ident()

    def pause(self, reason: str) -> None:
        """Refuse the next set. Whoever asks again (Retry in Badger's window) has read why, and goes on."""
        self._paused = reason

    def _over(self) -> str:
        return f"run {self.id} is over: {self.message or self.reason}"

    def why_not(self) -> str | None:
        """Say why nothing may be set now."""
        if self.stopping:
            return self._over()
        if self.is_closing:
            return None
        reason, self._paused = self._paused, None
        return reason

    @contextlib.contextmanager
    def locked(self, addresses: list[PvAddress]) -> Iterator[dict[PvAddress, str]]:
        """Hold the locks of these PVs, those called by an alias by both names: for the call, or until the run ends.

        :returns: on entry, which may not be written, and why.
        """
        registry = locks()
        names = list(dict.fromkeys(name for address in addresses for name in address.names))
        if lost := set(registry.lost(names)):
            reason = "its lock was taken away (badger-k2eg unlock --force): somebody else may set it"
            yield {address: reason for address in addresses if lost.intersection(address.names)}
            return
        try:
            # One thread after the other: a lock that is taken twice would have to be given back twice.
            with self._locking:
                # Of a run that has given its locks back (it ended meanwhile) none is kept beyond the call.
                keeps = self.holds and not self.ended.is_set()
                new = [name for name in names if name not in self._locked] if keeps else names
                registry.take(new, run=self.id)
                if keeps:
                    self._locked += new
        except (LockRefused, SettingsError) as error:
            refused = [a for a in addresses if isinstance(error, LockRefused) and error.pv in a.names]
            yield {(refused or addresses)[0]: str(error)}
            return
        try:
            yield {}
        finally:
            if not keeps:
                registry.give(new)

    def replaced(self, before: Control, control: Control) -> None:
        """Other options are in force: they go for the way back and for the watch too."""
        names = [name for name, moved in self.moved.items() if moved.control is before]
        for name in names:
            self.moved[name].control = control
        self.watch.renew(names)

    def set_began(
        self,
        control: Control,
        before: Mapping[PvAddress, Reading],
        asked: Mapping[str, Any],
        validators: Mapping[str, Any],
        may_set: Callable[[], list[str]],
        point: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Take the baseline of what is set for the first time, and open an evaluation for a new point.

        :param may_set: gives the PVs that are to be in the baseline too.
        :param point: what the optimizer asked for, where this call is only a part of the way there.
        :returns: why nothing may be sent.
        """
        with self._lock:
            if (reason := self.why_not()) is not None:
                return reason
            records = self._baseline(control, before, may_set)
            if records:
                try:
                    line = self.recorder.write(*records, required=True, sync=True)
                except (ControlError, OSError) as error:
                    self._forget(before)
                    return f"no baseline on disk, so nothing is set: {restore_plan.first_line(error)}"
                self._open(line)
            for pv in asked:
                if (validator := validators.get(pv)) is not None:
                    self.moved[self.recorder.own_name(pv)].validator = validator
            if self._ender is None:
                self.evaluations.at(point or asked)
            self.recorder.set_began(asked, validators)
        return None

    def _open_without_baseline(self) -> None:
        if not self.began:
            self._open(self.recorder.write(self.recorder.line(RecordKind.RUN_BEGIN, data=self.manifest)))

    def _open(self, line: int | None) -> None:
        if self._begin is None:
            self._begin = line or 0
            _call_all(self.on_begin, self)

    def _baseline(
        self, control: Control, before: Mapping[PvAddress, Reading], may_set: Callable[[], list[str]]
    ) -> list[Record]:
        records = []
        is_first = not self.moved
        if not self.began:
            records.append(self.recorder.line(RecordKind.RUN_BEGIN, data=self.manifest))
        for address, reading in before.items():
            records += self.recorder.alias(address)
            if address.own_name not in self.moved:
                self.moved[address.own_name] = Moved(address.text, control, reading)
                records.append(self.recorder.line(RecordKind.BASELINE, pv=address.text, **told(reading, profile=True)))
        if is_first:
            others = [pv for pv in may_set() if self.recorder.own_name(pv) not in self.moved]
            for pv, update in control.updates(others).items() if others else ():
                if isinstance(update, PvError):
                    records.append(self.recorder.line(RecordKind.BASELINE, pv=pv, **told_error(update)))
                else:
                    records.append(self.recorder.line(RecordKind.BASELINE, pv=pv, **told(update, profile=True)))
        return records

    def _forget(self, before: Mapping[PvAddress, Reading]) -> None:
        for name in [a.own_name for a in before if a.own_name in self.moved and not self.moved[a.own_name].ours]:
            del self.moved[name]
        self.recorder.aliases.clear()

    # -- what a Control tells ---------------------------------------------------------------------------------------

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """One attempt on each has ended."""
        for address, result in results.items():
            self._wrote(address.own_name, result, is_last=False)
        self.recorder.puts_attempted(results)

    def _wrote(self, name: str, result: PutResult, *, is_last: bool) -> None:
        if (moved := self.moved.get(name)) is not None:
            moved.wrote(result, is_last=is_last)

    def set_finished(self, report: SetReport, point: Mapping[str, Any] | None = None) -> None:
        """A call has ended; one that was refused, or only to be logged, begins the record as well."""
        if not report.results:
            return
        self._open_without_baseline()
        if not self.recorder.in_call and not self.is_closing:
            self.evaluations.at(point or {result.pv: result.asked for result in report.results})
        for result in report.results:
            with contextlib.suppress(PvError):
                self._wrote(self.recorder.own_name(result.pv), result, is_last=True)
        if not report.ok:
            self.evaluations.has_failed()
        self.recorder.set_finished(report)

    def unguarded(self, message: str, point: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """An evaluation has ended of which nothing was set here.

        :param message: what is missing: said once, and again at its end.
        """
        with self._lock:
            self._open_without_baseline()
            if self.outcome.get("unguarded") != message:
                self.outcome["unguarded"] = message
                self.recorder.event("unguarded", message, level=Level.WARNING)
            self.evaluations.at(point)
            self.evaluations.observed(measured, {})
            self.evaluations.close()

    def read_finished(self, updates: Mapping[str, Update]) -> None:
        """PVs were read for the user."""
        self.evaluations.read(updates)

    def is_best(self, objectives: Mapping[str, float]) -> None:
        """The newest evaluation is the best so far."""
        if self.began:
            self.evaluations.is_best(objectives)

    # -- the end ----------------------------------------------------------------------------------------------------

    def stop(self, message: str, reason: Reason = Reason.STOPPED) -> None:
        """End every call of the run at once; the first reason is kept. May be called in a signal handler.

        What belongs to its end (hooks, restore, the record) is done by ``process``, where no lock is held.
        """
        if self.reason is None:
            self.message = message
            self.reason = reason
        self.calls.deny(self._over())
        self.deadline.cancel(message)

    @contextlib.contextmanager
    def closing(self, seconds: float | None = None) -> Iterator[Deadline]:
        """Let this thread, and no other, set PVs at the end of the run, with a deadline of their own."""
        before, self._ender = self._ender, threading.get_ident()
        self.evaluations.close()
        deadline = Deadline.alone(self.settings.restore_timeout if seconds is None else seconds)
        try:
            with under(deadline):
                yield deadline
        finally:
            self._ender = before

    def end(self, reason: Reason, message: str = "") -> bool:
        """End it: hooks, policy, record, locks. Runs once; whoever comes second waits for it.

        :returns: whether it was this call that ended it.
        """
        with self._lock:
            is_first, self._end_began = not self._end_began, True
        if not is_first:
            if not self.is_closing:
                self.ended.wait(self.settings.restore_timeout + 5.0)
            return False
        if self.reason is None:
            self.reason, self.message = reason, message
        self.calls.deny(self._over())
        if not self.calls.wait(_CALLS_END):
            logger.warning("run %s: a set is still under way in another thread; it sends nothing more", self.id)
        self.watch.close()
        try:
            with self.closing() as deadline:
                self._follow_policy(deadline)
        finally:
            _call_all(self.before_end)
            self._write_end()
            # Last: as long as it is not on record that the run has ended, nobody else may begin.
            with self._locking:
                locks().give(self._locked)
                self._locked = []
                self.ended.set()
            _call_all(self.on_end, self)
        return True

    def _follow_policy(self, deadline: Deadline) -> None:
        stopped, failed = self.reason is Reason.STOPPED, self.reason is Reason.FAILED
        if stopped:
            _call_all(self.on_cancelled, self)
        if failed:
            _call_all(self.on_exception, self, self.failure)
        policy = self.settings.on_cancelled if stopped else self.settings.on_exception if failed else "leave"
        if policy == "restore" and self.began:
            self.restore(deadline)

    def restore(self, deadline: Deadline | None = None, *, force: bool = False) -> list[restore_plan.Step]:
        """Put every PV that the run has set back where it was, in reverse order; raises nothing.

        What somebody else has moved since is left alone, unless ``force``.
        """
        deadline, self.restored = deadline or Deadline(), []
        with self.recorder.restoring("start") as outcome:
            by_control: dict[int, list[Moved]] = {}
            for moved in reversed(self.moved.values()):
                by_control.setdefault(id(moved.control), []).append(moved)
            for group in by_control.values():
                control = group[0].control
                steps = restore_plan.plan(control, _wanted(group), force=force, deadline=deadline)
                part = deadline.child(_WITH_VALIDATORS * min(deadline.remaining(), self.settings.restore_timeout))
                done = {step.pv: step for step in restore_plan.carry_out(control, steps, deadline=part)}
                # A validator that took all the time must not keep the other PVs from their place. They are looked at
                # once more: somebody may have moved them meanwhile.
                late = [m for m in group if m.pv in done and done[m.pv].fate is restore_plan.Fate.NOT_SENT]
                if late and not deadline.expired:
                    again = restore_plan.plan(control, _wanted(late, validated=False), force=force, deadline=deadline)
                    done |= {step.pv: step for step in restore_plan.carry_out(control, again, deadline=deadline)}
                self.restored += done.values()
            outcome.update(restore_plan.outcome_of(self.restored))
        left = [step for step in self.restored if step.fate in restore_plan.UNDONE]
        level = logging.WARNING if left else logging.INFO
        logger.log(level, "run %s: %s", self.id, restore_plan.summary(self.restored))
        for step in left:
            logger.warning("run %s: %s", self.id, step)
        return self.restored

    def _write_end(self) -> None:
        if not self.began:
            return
        data = {"evaluations": self.evaluations.count, **self.outcome}
        if self.restored:
            data["restored"] = restore_plan.summary(self.restored)
        if self.failure is not None and self.reason is Reason.FAILED:
            data["error"] = f"{type(self.failure).__name__}: {restore_plan.first_line(self.failure)}"
        level = None if self.reason is Reason.SUCCESS else Level.WARNING
        record = self.recorder.line(
            RecordKind.RUN_END,
            begin=self._begin,
            name=str(self.reason),
            message=self.message or None,
            level=level,
            data=data,
        )
        with contextlib.suppress(ControlError, OSError):
            # A full disk at the end: the journal has warned of it, and the machine matters more.
            self.recorder.write(record, sync=True)

    @property
    def place(self) -> str:
        """Where its record is, for people; empty where none is kept."""
        journal = self.recorder.journal
        return "" if journal is None else str(journal.directory)


def _wanted(group: Sequence[Moved], *, validated: bool = True) -> list[restore_plan.Wanted]:
    """Say where the PVs of a run go back to."""
    return [
        restore_plan.Wanted(m.pv, m.before.value, m.ours, m.validator if validated else None, m.before)
        for m in group
        if m.ours
    ]


def _call_all(hooks: list[Callable[..., object]], *arguments: Any) -> None:
    for hook in list(hooks):
        try:
            hook(*arguments)
        except Exception:  # a hook is not ours; it must not keep the run from its end, nor hide why it ended
            logger.exception("a hook of the run failed")
