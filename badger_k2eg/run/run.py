"""``Run``: from the first set to its one end. Baseline, evaluations, what each PV was set to, and the restore.

A run belongs to its process: ``process`` begins and ends it; ``gate`` tells it what a ``Control`` does.
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
from ..core.errors import ControlError, PvError, SettingsError
from ..core.model import PutResult, PvAddress, Reading, SetReport, plain
from ..core.records import Level, Record, RecordKind
from ..journal import Journal
from ..journal.reading_fields import told, told_error
from . import restore_plan
from .evaluations import Evaluations
from .foreign_moves import ForeignMoves
from .moves import Moved, PendingSets
from .pv_locks import Claim, locks
from .recorder import Recorder
from .settings import RunSettings

logger = logging.getLogger("badger_k2eg")

#: The part of the time for the restore in which validators may wait.
_WITH_VALIDATORS = 0.6
#: Seconds that the end waits for calls of other threads.
_CALLS_END = 10.0


class State(StrEnum):
    """Where a run is on the way to its end."""

    #: Sets go through.
    OPEN = "open"
    #: There is a reason to end; nothing is set any more.
    STOPPING = "stopping"
    #: One thread ends it; that thread alone may set.
    ENDING = "ending"
    ENDED = "ended"


class Event(StrEnum):
    """What brings a run to its end."""

    #: A signal, STOP of the status PVs, Stop in Badger's window.
    STOP = "stop"
    #: The outermost frame was left, the process exits, another run begins.
    END = "end"
    #: The machine is restored where the policy says so, and the record is complete.
    DONE = "done"


#: The state that each event leads to; a pair that is not listed changes nothing.
TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.OPEN, Event.STOP): State.STOPPING,
    (State.OPEN, Event.END): State.ENDING,
    (State.STOPPING, Event.END): State.ENDING,
    (State.ENDING, Event.DONE): State.ENDED,
}


class Reason(StrEnum):
    """Why a run ended. The fourth, ``lost``, is found by the run that comes after it."""

    SUCCESS = "success"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"


class Run:
    """One run.

    :param journal: where its record goes; None keeps none.
    :param manifest: describes the run: environment, interface, options, user.
    :param settings: what becomes of the machine at its end.
    :param deadline: ends every call of the run when it is cancelled.
    :param holds: whether it keeps the locks of its PVs until its end; otherwise for the time of each call.
    :ivar state: where it is on the way to its end, by ``TRANSITIONS``.
    :ivar reason: why it ended, or is about to; None while it is open. The first one is kept.
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
        """Keep the parts; nothing is written to disk before the first set."""
        self.id = Journal.new_run_id()
        self.recorder = Recorder(journal, self.id)
        self.evaluations = Evaluations(self.recorder)
        self.manifest = dict(manifest)
        self.settings = settings
        self.deadline = deadline
        self.holds = holds
        self.state = State.OPEN
        self.reason: Reason | None = None
        self.message = ""
        #: What the last call raised; None after one that succeeded.
        self.failure: BaseException | None = None
        #: Called when it is stopped, or has failed, before anything is restored; an error in one is logged.
        self.on_cancelled: list[Callable[[Run], object]] = []
        self.on_exception: list[Callable[[Run, BaseException | None], object]] = []
        #: Called with the run when it begins (its baseline is on disk), and when it has ended.
        self.on_begin: list[Callable[[Run], object]] = []
        self.on_end: list[Callable[[Run], object]] = []
        #: Called when nothing is set any more, and its end is not recorded yet.
        self.before_end: list[Callable[[], object]] = []
        #: More for the record of its end: ``archive``, ``best``, ...
        self.outcome: dict[str, Any] = {}
        self.moved: dict[str, Moved] = {}
        self.foreign_moves = ForeignMoves(self.moved, self._moved_by_another, f"watch {self.id}")
        self.pending = PendingSets()
        self._paused: str | None = None
        self.restored: list[restore_plan.Step] = []
        self.ended = clock.event()
        self._lock = threading.RLock()
        # Taken in signal handlers too: nothing inside waits, and what comes in between only leads further.
        self._moving_on = threading.RLock()
        self._begin: int | None = None
        self._claim: Claim | None = None
        self._locking = threading.Lock()
        self._ender: int | None = None

    @property
    def began(self) -> bool:
        """Whether its beginning is recorded."""
        return self._begin is not None

    @property
    def stopping(self) -> bool:
        """Whether it has ended, or is about to: nothing is set any more except by the thread that ends it."""
        return self.state is not State.OPEN and not self.is_closing

    @property
    def is_closing(self) -> bool:
        """Whether the calling thread is ending it."""
        return self._ender == threading.get_ident()

    # -- before a put -----------------------------------------------------------------------------------------------

    def _over(self) -> str:
        return f"run {self.id} is over: {self.message or self.reason}"

    def why_not(self) -> str | None:
        """Return why nothing may be set now; a pause refuses one set, as the user who retries has read why."""
        if self.stopping:
            return self._over()
        if self.is_closing:
            return None
        reason, self._paused = self._paused, None
        return reason

    @contextlib.contextmanager
    def locked(self, addresses: list[PvAddress], *, force: bool = False) -> Iterator[dict[PvAddress, str]]:
        """Hold the locks of these PVs, those called by an alias by both names: for the call, or until the run ends.

        :param force: whether to lock all the same those that can be locked, when others cannot.
        :returns: on entry, which may not be written, and why.
        """
        # Of a run that has released its locks (it ended meanwhile) none is kept beyond the call.
        with self._locking:
            keeps = self.holds and not self.ended.is_set()
            claim = (self._claim if keeps else None) or locks().claim(self.id)
            if keeps:
                self._claim = claim
            try:
                refused = claim.add(addresses, force=force)
            except SettingsError as error:
                refused = dict.fromkeys(addresses if force else addresses[:1], str(error))
        try:
            yield refused
        finally:
            if not keeps:
                claim.close()

    def replaced(self, before: Control, control: Control) -> None:
        """Use another Control, with other options, for the restore and the watch too."""
        names = [name for name, moved in self.moved.items() if moved.control is before]
        for name in names:
            self.moved[name].control = control
        self.foreign_moves.renew(names)

    def _moved_by_another(self, moved: Moved, reading: Reading) -> None:
        """Record a foreign move, and pause where the settings say so."""
        last = " or ".join(dict.fromkeys(repr(plain(value)) for value in moved.held.values))
        message = f"{moved.pv} was moved by somebody else to {reading.plain!r}; this run had set {last}"
        logger.warning("run %s: %s", self.id, message)
        fields = told(reading) | {"message": message}
        self.recorder.event("foreign move", level=Level.WARNING, pv=moved.pv, **fields)
        if self.settings.on_foreign_move == "pause":
            self._paused = f"paused: {message}"

    def set_began(
        self,
        control: Control,
        before: Mapping[PvAddress, Reading],
        asked: Mapping[str, Any],
        validators: Mapping[str, Any],
        may_set: Callable[[], list[str]],
        point: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Record the baseline of PVs that are set for the first time, and open an evaluation for a new point.

        :param may_set: returns the PVs that are to be in the baseline too.
        :param point: what the optimizer asked for, where this call is only a part of the way there.
        :returns: why nothing may be sent; None when it may.
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
        """Record the beginning of a run that has set nothing yet."""
        if not self.began:
            self._open(self.recorder.write(self.recorder.line(RecordKind.RUN_BEGIN, data=self.manifest)))

    def _open(self, line: int | None) -> None:
        """Call the hooks of the beginning, once."""
        if self._begin is None:
            self._begin = line or 0
            _call_all(self.on_begin, self)

    def _baseline(
        self, control: Control, before: Mapping[PvAddress, Reading], may_set: Callable[[], list[str]]
    ) -> list[Record]:
        """Return the lines of a baseline, with the PVs that the run may come to set."""
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
        """Drop PVs whose baseline could not be written, as nothing was sent to them."""
        for address in before:
            if (moved := self.moved.get(address.own_name)) is not None and not moved.held.values:
                del self.moved[address.own_name]
        self.recorder.aliases.clear()

    # -- what a Control tells ---------------------------------------------------------------------------------------

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        """Record one attempt on each PV."""
        for address, result in results.items():
            self._wrote(address.own_name, result, ended=False)
        self.recorder.puts_attempted(results)

    def _wrote(self, name: str, result: PutResult, *, ended: bool) -> None:
        """Take the outcome of a put into account."""
        if (moved := self.moved.get(name)) is not None:
            moved.wrote(result, ended=ended)

    def set_finished(self, report: SetReport, point: Mapping[str, Any] | None = None) -> None:
        """Record the end of a call; a call that was refused, or only logged, begins the record as well."""
        if not report.results:
            return
        self._open_without_baseline()
        if not self.recorder.in_call and not self.is_closing:
            self.evaluations.at(point or {result.pv: result.asked for result in report.results})
        for result in report.results:
            with contextlib.suppress(PvError):
                self._wrote(self.recorder.own_name(result.pv), result, ended=True)
        if not report.ok:
            self.evaluations.has_failed()
        self.recorder.set_finished(report)

    def unguarded(self, message: str, point: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """Record an evaluation whose sets did not come through a Control.

        :param message: what is missing: recorded once, and again at the end of the run.
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
        """Record what was read for the user."""
        self.evaluations.read(updates)

    def is_best(self, objectives: Mapping[str, float]) -> None:
        """Record that the newest evaluation is the best so far."""
        if self.began:
            self.evaluations.is_best(objectives)

    # -- the end ----------------------------------------------------------------------------------------------------

    def stop(self, message: str, reason: Reason = Reason.STOPPED) -> None:
        """Cancel every call of the run at once; the first reason is kept. Safe in a signal handler.

        ``process`` sees to the end itself (hooks, restore, record), where no lock is held.
        """
        self._move_on(Event.STOP, reason, message)
        self.pending.deny(self._over())
        self.deadline.cancel(message)

    def _move_on(self, event: Event, reason: Reason | None = None, message: str = "") -> bool:
        """Take the transition of an event; return whether there is one."""
        with self._moving_on:
            if (state := TRANSITIONS.get((self.state, event))) is None:
                return False
            if self.reason is None:
                self.message, self.reason = message, reason
            self.state = state
            return True

    @contextlib.contextmanager
    def closing(self, seconds: float | None = None) -> Iterator[Deadline]:
        """Let the calling thread, and no other, set PVs at the end of the run, with a deadline of its own."""
        before, self._ender = self._ender, threading.get_ident()
        self.evaluations.close()
        deadline = Deadline.alone(self.settings.restore_timeout if seconds is None else seconds)
        try:
            with under(deadline):
                yield deadline
        finally:
            self._ender = before

    def end(self, reason: Reason, message: str = "") -> bool:
        """End it: hooks, policy, record, locks. Runs once; a second call waits for the first.

        :returns: whether this call has ended it.
        """
        if not self._move_on(Event.END, reason, message):
            if not self.is_closing:
                self.ended.wait(self.settings.restore_timeout + 5.0)
            return False
        # Each step is taken even if the one before is interrupted: Ctrl-C may come again while it waits.
        try:
            self.pending.deny(self._over())
            if not self.pending.wait(_CALLS_END):
                logger.warning("run %s: a set of another thread has not ended; it sends nothing more", self.id)
        finally:
            try:
                self.foreign_moves.close()
                with self.closing() as deadline:
                    self._follow_policy(deadline)
            finally:
                _call_all(self.before_end)
                self._write_end()
                # Last: until the end is recorded, no other run may set these PVs.
                with self._locking:
                    if self._claim is not None:
                        self._claim.close()
                    self._move_on(Event.DONE)
                    self.ended.set()
                _call_all(self.on_end, self)
        return True

    def _follow_policy(self, deadline: Deadline) -> None:
        """Call the hooks of the reason, and restore where the policy says so."""
        stopped, failed = self.reason is Reason.STOPPED, self.reason is Reason.FAILED
        if stopped:
            _call_all(self.on_cancelled, self)
        if failed:
            _call_all(self.on_exception, self, self.failure)
        policy = self.settings.on_cancelled if stopped else self.settings.on_exception if failed else "leave"
        if policy == "restore" and self.began:
            self.restore(deadline)

    def restore(self, deadline: Deadline | None = None, *, force: bool = False) -> list[restore_plan.Step]:
        """Restore every PV that the run has set to its value before, in reverse order; raises nothing.

        What another client has moved since is left alone, unless ``force``.
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
                # A validator that took all the time must not keep the other PVs from being restored. They are read
                # once more: another client may have moved them meanwhile.
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
        """Record the end of a run that is on record."""
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
            # A full disk at the end: the journal has warned of it, and the machine is more important.
            self.recorder.write(record, sync=True)

    @property
    def place(self) -> str:
        """Where its record is, as a text for the user; empty where none is kept."""
        journal = self.recorder.journal
        return "" if journal is None else str(journal.directory)


def _wanted(group: Sequence[Moved], *, validated: bool = True) -> list[restore_plan.Wanted]:
    """Return where the PVs of a run go back to, those to which something was sent."""
    return [
        restore_plan.Wanted(m.pv, m.before.value, m.held.values, m.validator if validated else None, m.before)
        for m in group
        if m.held.values
    ]


def _call_all(hooks: list[Callable[..., object]], *arguments: Any) -> None:
    """Call every hook; an error in one is logged."""
    for hook in list(hooks):
        try:
            hook(*arguments)
        except Exception:  # a user's hook must not keep the run from its end, nor hide why it ended
            logger.exception("a hook of the run failed")
