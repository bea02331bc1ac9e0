"""Undoing a run from its record: what it set is put back to where it was, to its best point, or to any evaluation.

Everything goes through ``Control``: guard, locks, validators, read-only. What somebody else has moved since is left
alone and named, unless it is forced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..backend import NullSink
from ..control import Control
from ..deadline import Deadline
from ..errors import LockRefused, NoSuchRecord, SettingsError
from ..journal import Journal
from ..journal.query import Query
from ..journal.readings import update_of
from ..journal.runs import RecordedRun
from ..lock import locks
from ..model import Outcome, PutResult, PvAddress, Reading, SetReport
from ..records import RecordKind
from . import orphans
from .recorder import Recorder
from .undo import Fate, Step, Wanted, carry_out, outcome_of, plan
from .validators import validator_of

START, BEST = "start", "best"


class Restore:
    """One restore: first look, then do it.

    ::

        restore = Restore(control, Journal.open(), "last", to="start")
        for step in restore.steps:
            print(step.pv, step.now, "->", step.value, step.fate)
        restore.run()

    :param control: the way to the PVs, and the options in force.
    :param run: id, unique beginning of one, name, or ``last``.
    :param to: ``start``, ``best``, or the number of an evaluation.
    :param force: also what somebody else has moved since.
    :param validators: ``{set pv: validator}``, as for a set; None takes those of the run, as far as they are on record:
        a function of somebody's own is not.
    :raises NoSuchRecord: for a run, an evaluation or a best one that is not there.
    :raises SettingsError: for a run that goes on.
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
        """Look at what differs."""
        self.recorded = journal.run(run)
        self.to = str(to)
        self._control, self._journal, self._deadline = control, journal, deadline
        if self.recorded.open and self.recorded.alive is not False:
            raise SettingsError(f"run {self.recorded.id} goes on (or its host is another): stop it before it is undone")
        if validators is None:
            validators = {pv: validator_of(told) for pv, told in self.recorded.validators().items()}
        for pv, tolerance in self.recorded.tolerances().items():
            control.tolerances.setdefault(PvAddress.parse(pv).own_name, tolerance)
        self._wanted = _wanted(self.recorded, _evaluation(self.recorded, self.to), validators)
        self._force = force
        #: What is to become of each PV, in the order of putting back; after ``run``, what has become of it.
        self.steps = plan(control, self._wanted, force=force, deadline=deadline)

    @property
    def to_do(self) -> list[Step]:
        """Those that would be set."""
        return [step for step in self.steps if step.fate is Fate.TO_DO]

    def run(self, said: Callable[[Step], object] = lambda step: None) -> list[Step]:
        """Put back, and record it under the run's own id; gives what became of each PV. Raises nothing about a PV.

        It looks once more first: what has changed since ``steps`` were made, while somebody was asked, is left alone.

        :param said: called with each step as it has ended, and with those that have changed.
        """
        if orphans.is_lost(self.recorded):
            orphans.close(self._journal, self.recorded)
        recorder = Recorder(self._journal, self.recorded.id)
        gate = LockGate(f"{self.recorded.id} (restore)")
        control = Control(self._control.backend, self._control.settings, sink=_Sink(recorder), gate=gate)
        control.tolerances |= self._control.tolerances
        try:
            with recorder.restoring(self.to) as outcome:
                self.steps = carry_out(control, self._look_again(said), deadline=self._deadline, said=said)
                outcome.update(outcome_of(self.steps))
        finally:
            control.close()
        return self.steps

    def _look_again(self, said: Callable[[Step], object]) -> list[Step]:
        """Plan once more, and take out what nobody has agreed to: a yes is to what was shown."""
        now = plan(self._control, self._wanted, force=self._force, deadline=self._deadline)
        steps = [_agreed(shown, step, force=self._force) for shown, step in zip(self.steps, now, strict=True)]
        for shown, step in zip(self.steps, steps, strict=True):
            if step.fate is not shown.fate:
                said(step)
        return steps


def _agreed(shown: Step, now: Step, *, force: bool) -> Step:
    """Leave a PV alone that is not as it was when it was shown."""
    if now.fate is Fate.TO_DO and shown.fate is not Fate.TO_DO:
        return replace(now, fate=Fate.NOT_SENT, message=f"it holds {now.now!r} now, and was: {shown.fate}; look again")
    # By their texts: NaN is not equal to itself. Without force the plan itself knows what is somebody else's.
    if now.fate is Fate.TO_DO and force and repr(now.now) != repr(shown.now):
        message = f"it holds {now.now!r} now, and held {shown.now!r} when it was looked at"
        return replace(now, fate=Fate.FOREIGN, message=message)
    if now.fate is not shown.fate:
        return replace(now, message=", ".join(filter(None, (now.message, "since it was looked at"))))
    return now


def _evaluation(run: RecordedRun, to: str) -> int:
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
    return run.evaluation(int(to)).number


def _wanted(run: RecordedRun, evaluation: int, validators: Mapping[str, Any]) -> list[Wanted]:
    """Find where every PV that the run has set shall go; the last one that it set first."""
    written, latest, baseline, one = run.last_written(), run.setpoints(), run.baseline(), run.naming()
    validators = {one(pv): validator for pv, validator in validators.items()}
    targets, sources = run.setpoints(evaluation), _sources(run, evaluation)
    wanted: dict[str, Wanted] = {}
    for pv in [*(pv for pv in baseline if pv in written), *(pv for pv in written if pv not in baseline)]:
        record = written[pv]
        # What was read back is ours as well. Where nobody is sure, it may hold what it held before.
        others = [record.value] if record.outcome is Outcome.APPLIED else [record.value, latest.get(pv)]
        ours = (record.asked, *(value for value in others if value is not None))
        wanted[pv] = Wanted(pv, targets.get(pv), ours, validators.get(pv), sources.get(pv))
    return list(reversed(wanted.values()))


def _sources(run: RecordedRun, evaluation: int) -> dict[str, Reading]:
    """Give the readings of the baseline, of those PVs that were still there at the end of an evaluation."""
    found = {pv: update for pv, record in run.baseline().items() if isinstance(update := update_of(record), Reading)}
    if evaluation:
        end = run.evaluation(evaluation).end
        puts = Query(kinds=(RecordKind.PUT, RecordKind.SETPOINT), outcomes=(Outcome.APPLIED,), end=end)
        one = run.naming()
        for record in run.records(puts):
            if (record.evaluation or 0) <= evaluation:
                found.pop(one(record.pv or ""), None)
    return found


class _Sink(NullSink):
    """Records what is set under the id of the run that is undone."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def set_began(self, before: Mapping[PvAddress, Any], asked: Mapping[str, Any], validators: object) -> None:
        self._recorder.set_began(asked)

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        self._recorder.puts_attempted(results)

    def set_finished(self, report: SetReport) -> None:
        self._recorder.set_finished(report)


class LockGate:
    """Holds the locks of PVs for the time of each call."""

    def __init__(self, run: str = "") -> None:
        """Hold nothing yet.

        :param run: what it is for, to be told to those who are refused.
        """
        self._run = run

    @contextmanager
    def writing(self, addresses: Collection[PvAddress]) -> Iterator[Mapping[PvAddress, str]]:
        """Hold the locks of these PVs."""
        taken: list[str] = []
        denied: dict[PvAddress, str] = {}
        try:
            for address in sorted(addresses, key=lambda each: each.own_name):
                try:
                    locks().take(address.names, run=self._run)
                    taken += address.names
                except LockRefused as error:
                    denied[address] = str(error)
            yield denied
        finally:
            locks().give(taken)
