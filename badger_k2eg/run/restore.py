"""Undoing a run from its record: what it set is put back to where it was, to its best point, or to any evaluation.

Everything goes through ``Control``: guard, locks, validators, read-only. What somebody else has moved since is left
alone and named, unless it is forced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..backend import NullSink
from ..control import Control
from ..deadline import Deadline
from ..errors import LockRefused, NoSuchRecord, SettingsError
from ..journal import Journal
from ..journal.runs import RecordedRun
from ..lock import locks
from ..model import Outcome, PutResult, PvAddress, SetReport
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
        wanted = _wanted(self.recorded, _evaluation(self.recorded, self.to), validators)
        #: What is to become of each PV, in the order of putting back; after ``run``, what has become of it.
        self.steps = plan(control, wanted, force=force, deadline=deadline)

    @property
    def to_do(self) -> list[Step]:
        """Those that would be set."""
        return [step for step in self.steps if step.fate is Fate.TO_DO]

    def run(self, said: Callable[[Step], object] = lambda step: None) -> list[Step]:
        """Put back, and record it under the run's own id; gives what became of each PV. Raises nothing about a PV.

        :param said: called with each step as it has ended.
        """
        if orphans.is_lost(self.recorded):
            orphans.close(self._journal, self.recorded)
        recorder = Recorder(self._journal, self.recorded.id)
        gate = LockGate(f"{self.recorded.id} (restore)")
        control = Control(self._control.backend, self._control.settings, sink=_Sink(recorder), gate=gate)
        try:
            with recorder.restoring(self.to) as outcome:
                self.steps = carry_out(control, self.steps, deadline=self._deadline, said=said)
                outcome.update(outcome_of(self.steps))
        finally:
            control.close()
        return self.steps


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
    written, latest, baseline = run.last_written(), run.setpoints(), run.baseline()
    targets = run.setpoints(evaluation)
    wanted: dict[str, Wanted] = {}
    for pv in [*(pv for pv in baseline if pv in written), *(pv for pv in written if pv not in baseline)]:
        record = written[pv]
        ours: tuple[Any, ...] = (record.asked,)
        if record.outcome is Outcome.UNKNOWN:
            # It may hold the one or the other.
            ours += tuple(value for value in (record.value, latest.get(pv)) if value is not None)
        wanted[PvAddress.parse(pv).own_name] = Wanted(pv, targets.get(pv), ours, validators.get(pv))
    return list(reversed(wanted.values()))


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
                    locks().take([address.own_name], run=self._run)
                    taken.append(address.own_name)
                except LockRefused as error:
                    denied[address] = str(error)
            yield denied
        finally:
            locks().give(taken)
