"""Restoring what a run has set, from its record: to the values before, to its best point, or to any evaluation.

Everything goes through ``Control``: guard, locks, validators, read-only. What another client has moved since is left
alone and named, unless it is forced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..control import Control
from ..core.deadline import Deadline
from ..core.errors import JournalError, NoSuchRecord, SettingsError
from ..core.model import PvAddress, Reading
from ..core.owner import this_owner
from ..core.pv_names import own_name
from ..core.records import Record, RecordKind
from ..journal import Journal
from ..journal.reading_fields import update_of
from ..journal.recorded_run import History, RecordedRun
from . import lost_runs
from .manifest import validator_of
from .outside_puts import Outside
from .pv_locks import locks
from .recorder import Recorder
from .restore_plan import Fate, Step, Wanted, carry_out, outcome_of, plan

START, BEST = "start", "best"
_DAMAGED = "line {} of the journal is damaged or was edited: its checksum does not fit"


class Restore:
    """One restore: the plan is made first, then carried out.

    ::

        restore = Restore(control, Journal.open(), "last", to="start")
        for step in restore.steps:
            print(step.pv, step.now, "->", step.value, step.fate)
        restore.run()

    :param control: the way to the PVs, and the options in force.
    :param run: id, unique beginning of one, name, or ``last``.
    :param to: ``start``, ``best``, or the number of an evaluation.
    :param force: whether to set also what another client has moved since, what another process has locked, and what
        lines tell whose checksum does not fit. That is recorded. (A checksum reveals damage; it is not a signature.)
    :param validators: ``{set pv: validator}``, as for a set; None takes those of the run, as far as they are recorded:
        a user's own function is not.
    :ivar recorded: the run.
    :ivar steps: what is to become of each PV, in the order of setting; after ``run``, what has become of it.
    :raises NoSuchRecord: for a run, an evaluation or a best one that does not exist.
    :raises SettingsError: for a run that goes on.
    :raises JournalError: where the line by which the run began, or the one that tells which was the best, is damaged.
    """

    def __init__(
        self,
        control: Control,
        journal: Journal,
        run: str,
        *,
        to: str | int = START,
        force: bool = False,
        validators: Mapping[str, Any] | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        """Make the plan; nothing is set yet."""
        self.recorded = journal.run(run)
        self.to = str(to)
        self._journal, self._deadline = journal, deadline
        if self.recorded.open and self.recorded.alive is not False:
            raise SettingsError(f"run {self.recorded.id} goes on (or its host is another): stop it before it is undone")
        if not force:
            _check_whole(self.recorded, self.to)
        history = self.recorded.history(_evaluation(self.recorded, self.to))
        if validators is None:
            validators = {pv: _validator_of(told) for pv, told in history.validators.items()}
        # A Control of its own: the tolerances of the record hold for the restore alone.
        self._control = Control(control.backend, control.settings)
        self._control.record_names = control.record_names
        declared = {own_name(pv): tolerance for pv, tolerance in history.tolerances.items()}
        self._control.tolerances = declared | control.tolerances
        self._wanted = _wanted(history, validators)
        self._force = force
        self.steps = self._plan()

    @property
    def to_do(self) -> list[Step]:
        """The steps that would set a PV."""
        return [step for step in self.steps if step.fate is Fate.TO_DO]

    def run(self, said: Callable[[Step], object] = lambda step: None) -> list[Step]:
        """Carry out the plan, and record it under the run's own id; return what became of each PV.

        The PVs are read once more first: what has changed since the plan was made and shown is left alone. A PV that
        cannot be set raises nothing.

        :param said: called with each step as it has ended, and with those that have changed.
        """
        if lost_runs.is_lost(self.recorded):
            lost_runs.close(self._journal, self.recorded)
        recorder = Recorder(self._journal, self.recorded.id, what="restore")
        # A full disk must not keep the machine from being restored: what cannot be recorded is warned of.
        sink = Outside(recorder, f"{self.recorded.id} (restore)", force=self._force, required=False)
        control = sink.attach(Control(self._control.backend, self._control.settings))
        control.tolerances |= self._control.tolerances
        try:
            with recorder.restoring(self.to, force=self._force) as outcome:
                self.steps = carry_out(control, self._look_again(said), deadline=self._deadline, said=said)
                outcome.update(outcome_of(self.steps))
        finally:
            control.close()
        return self.steps

    def _plan(self) -> list[Step]:
        """Return what is to become of each PV now."""
        steps = plan(self._control, self._wanted, force=self._force, deadline=self._deadline)
        return [self._with_lock(step) if step.fate is Fate.TO_DO else step for step in steps]

    def _with_lock(self, step: Step) -> Step:
        """Add who has locked a PV, where it is another process."""
        owner = locks().owner(PvAddress.parse(step.pv).own_name)
        if owner is None or (owner.host, owner.pid) == (this_owner().host, os.getpid()):
            return step
        message = f"{step.pv} is locked by {owner}"
        return replace(step, message=message) if self._force else replace(step, fate=Fate.BLOCKED, message=message)

    def _look_again(self, said: Callable[[Step], object]) -> list[Step]:
        """Make the plan again, without what was not shown: the user has agreed to what was shown."""
        now = self._plan()
        steps = [_agreed(shown, step, force=self._force) for shown, step in zip(self.steps, now, strict=True)]
        for shown, step in zip(self.steps, steps, strict=True):
            if step.fate is not shown.fate:
                said(step)
        return steps


def _agreed(shown: Step, now: Step, *, force: bool) -> Step:
    """Return the step to take: none for a PV that is not as it was when it was shown."""
    if now.fate is Fate.TO_DO and shown.fate is not Fate.TO_DO:
        return replace(now, fate=Fate.NOT_SENT, message=f"it holds {now.now!r} now, and was: {shown.fate}; look again")
    # By their texts: NaN is not equal to itself. Without force the plan itself finds foreign moves.
    if now.fate is Fate.TO_DO and force and repr(now.now) != repr(shown.now):
        message = f"it holds {now.now!r} now, and held {shown.now!r} when it was looked at"
        return replace(now, fate=Fate.FOREIGN, message=message)
    if now.fate is not shown.fate:
        return replace(now, message=", ".join(filter(None, (now.message, "since it was looked at"))))
    return now


def _evaluation(run: RecordedRun, to: str) -> int:
    """Return the number of the evaluation that is meant; 0 for the start."""
    if to == START:
        return 0
    if to == BEST:
        if run.best is None:
            raise NoSuchRecord(
                f"run {run.id} does not say which evaluation was its best; give the number of one, "
                f"see badger-k2eg runs show {run.id}"
            )
        return run.best
    if not to.isdigit() or to == "0":
        raise SettingsError(f"--to {to}: write start, best, or the number of an evaluation")
    return int(to)


def _check_whole(run: RecordedRun, to: str) -> None:
    """Check the lines that all PVs depend on: how they are reached, and which evaluation is meant."""
    for line in (run.first, run.best_line if to == BEST else None):
        if line is not None and (doubt := _doubt(line)) is not None:
            raise JournalError(f"run {run.id}: {doubt}; nothing was set, --force uses it all the same")


def _doubt(*lines: Record | None) -> str | None:
    """Return why what lines tell must not be put to a machine; None when it may."""
    for line in lines:
        if line is not None and not line.intact:
            return _DAMAGED.format(line.line)
    return None


def _wanted(history: History, validators: Mapping[str, Any]) -> list[Wanted]:
    """Return where every PV that the run has set is to go; the one that it set last comes first."""
    written, baseline = history.written, history.baseline
    validators = {history.one(pv): validator for pv, validator in validators.items()}
    targets, damaged = history.setpoints, history.damaged
    wanted: dict[str, Wanted] = {}
    for pv in [*(pv for pv in baseline if pv in written), *(pv for pv in written if pv not in baseline)]:
        line, put = history.lines.get(pv), written[pv]
        doubt = _doubt(line, put.last, history.validator_lines.get(pv))
        validator = validators.get(pv)
        if isinstance(validator, JournalError):
            doubt, validator = doubt or str(validator), None
        elif pv in damaged:
            doubt = doubt or _DAMAGED.format(damaged[pv])
        elif None in damaged:
            doubt = doubt or f"line {damaged[None]} of the run cannot be read, and may have set it later"
        wanted[pv] = Wanted(pv, targets.get(pv), put.held.values, validator, _source(line), doubt, put.way)
    return list(reversed(wanted.values()))


def _source(line: Record | None) -> Reading | None:
    """Return the reading of the baseline that a PV is to go back to; None where it is to go to what was put."""
    update = update_of(line) if line is not None and line.kind is RecordKind.BASELINE else None
    return update if isinstance(update, Reading) else None


def _validator_of(told: Any) -> Any:
    """Return the validator that plain values tell, or the error."""
    try:
        return validator_of(told)
    except JournalError as error:
        return error
