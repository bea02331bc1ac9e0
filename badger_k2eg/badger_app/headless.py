"""``HeadlessRun``: one run of a routine without Badger's window.

Owns the ends of a run, where it leaves the machine, and the archive, which is written whatever happened. From Python::

    open_badger(Path("output"))
    routine = load_routine("routine.yaml")
    run = HeadlessRun(routine, evaluations=20)
    run.run(print)
    print(run.best, run.archive)

Installs no signal handlers: a caller's own may call ``stop``. Badger is imported inside functions only.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.replay import NotRecorded
from ..core import clock
from ..core.deadline import FOREVER
from ..core.errors import ControlError, ReadError, SettingsError
from ..run import Run, inside
from . import run_frames
from .build_routine import load_routine
from .evaluation import Evaluation, direction, front, is_read_only
from .session import open_badger, reaching, run
from .witness import Witness

if TYPE_CHECKING:
    from badger.routine import Routine

__all__ = ["AtEnd", "Evaluation", "HeadlessRun", "State", "load_routine", "open_badger"]

logger = logging.getLogger("badger_k2eg")

#: The end of a run for which neither the caller nor the file gives one.
DEFAULT_EVALUATIONS = 20

_STAMP = "%Y-%m-%d-%H%M%S"


class AtEnd(StrEnum):
    """Where a run leaves the machine: at the last point, at the best one, or where it was before."""

    STAY = "stay"
    BEST = "best"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class State:
    """The values of variables and observables at one moment."""

    variables: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)


class HeadlessRun:
    """One run of a routine.

    :param routine: of ``load_routine`` or ``make_routine``; it can be run once.
    :param evaluations: the number after which it ends, initial points included; in place of the routine's own.
    :param seconds: the time after which no further evaluation begins.
    :param target: the value of the one objective that is good enough.
    :param at_end: where to leave the machine.
    :raises SettingsError: for an end that can never be reached.

    The first of all ends to come true ends the run, the routine's stopping condition included; without any, 20
    evaluations do.

    :ivar start: the state before anything was set; None before.
    :ivar end: the state at the end; None if the machine did not answer, ``end_error`` says why.
    :ivar reason: why it ended, in words.
    :ivar archive: the file for Badger's window; None without an evaluation.
    :ivar moved: the outcome of ``at_end``, in words.
    :ivar record: the recorded run: its ``id``, the ``place`` of its journal; None before.
    """

    def __init__(
        self,
        routine: Routine,
        *,
        evaluations: int | None = None,
        seconds: float | None = None,
        target: float | None = None,
        at_end: AtEnd | str = AtEnd.STAY,
    ) -> None:
        self.routine = routine
        self.at_end = AtEnd(at_end)
        self.direction = direction(routine)
        self._condition = routine.stopping_condition
        # In read-only nothing is the best, so a target is never reached.
        reachable = None if self.read_only else target
        self.is_default = all(each is None for each in (evaluations, seconds, reachable, self._condition))
        self.most = DEFAULT_EVALUATIONS if self.is_default else evaluations
        self.seconds = seconds
        self.target = target
        self._take_over_number()
        self._check_ends()
        self.start: State | None = None
        self.end: State | None = None
        self.end_error: str | None = None
        self.evaluations: list[Evaluation] = []
        self.reason = "not begun"
        self.archive: Path | None = None
        self.moved: str | None = None
        self._witness = Witness(routine)
        self._began = 0.0
        self._stopped: str | None = None
        self.record: Run | None = None

    def _take_over_number(self) -> None:
        """Count evaluations here if that is all that the routine's condition does."""
        if type(self._condition).__name__ == "MaxEvaluationsCondition":
            self.most = self.most or self._condition.max_evaluations
            self._condition = None

    def _check_ends(self) -> None:
        if self.most is not None and self.most < 1:
            raise SettingsError(f"a run needs 1 evaluation or more, not {self.most}")
        if self.seconds is not None and not self.seconds > 0:
            raise SettingsError(f"a run needs more than 0 seconds, not {self.seconds:g}")
        if self.direction is None and (self.target is not None or self.at_end == AtEnd.BEST):
            what = "a target" if self.target is not None else "a best point"
            raise SettingsError(f"{what} needs a routine with one objective to minimize or maximize")

    @property
    def ends(self) -> str:
        """The ends of the run, in words."""
        ends = [] if self.most is None else [f"after {self.most} evaluation{'s' if self.most > 1 else ''}"]
        if self.seconds is not None:
            ends.append(f"after {self.seconds:g} s")
        if self.target is not None and not self.read_only:
            ends.append(f"when {self.objective} is {self.target:g} or {'more' if self.direction == 1 else 'less'}")
        if self._condition is not None:
            ends.append(f"by the routine's {type(self._condition).__name__}")
        return " or ".join(ends)

    @property
    def objective(self) -> str:
        """The first objective."""
        return str(self.routine.vocs.objective_names[0])

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation so far; None if there is none."""
        return next((each for each in reversed(self.evaluations) if each.best), None)

    @property
    def front(self) -> list[Evaluation]:
        """The evaluations that no other beats in all of several objectives; empty for one objective."""
        return front(self.routine, self.evaluations)

    @property
    def read_only(self) -> bool:
        """Whether the interface sets nothing, so that every evaluation measures the machine as it is."""
        return is_read_only(self.routine.environment)

    @property
    def unguarded(self) -> str | None:
        """What is missing, in one line, if evaluations have bypassed the interface; None if they have not."""
        return self._witness.unguarded

    @property
    def title(self) -> str:
        """The routine's name; with a remark if the machine may not have been at its points."""
        about = "unguarded" if self.unguarded else "read-only: nothing was set" if self.read_only else ""
        return f"{self.routine.name} ({about})" if about else str(self.routine.name)

    @property
    def stopping(self) -> str | None:
        """The reason for which it is about to stop; None if it is not."""
        if self._stopped is None and self.record is not None and self.record.stopping:
            return self.record.message
        return self._stopped

    def stop(self, reason: str) -> None:
        """End the run: the present set or read is cancelled. May be called in a signal handler."""
        self._stopped = self._stopped or reason
        if self.record is not None:
            self.record.stop(reason)

    def run(self, on_evaluation: Callable[[Evaluation], object] | None = None) -> list[Evaluation]:
        """Run, leave the machine as asked, and write the archive whatever happens.

        :param on_evaluation: called after each.
        :raises ControlError: what a set or a read raised; ``evaluations``, ``archive`` and so on describe the part that
            was done. Also if the machine could not be left as asked, or the archive could not be written.
        """
        environment = self.routine.environment

        def evaluated(evaluation: Evaluation) -> None:
            self.evaluations.append(evaluation)
            if evaluation.best and self.record is not None:
                self.record.is_best(evaluation.objectives)
            if on_evaluation is not None:
                on_evaluation(evaluation)

        self.record = run_frames.begin(self.routine, keeps_policy=self.at_end == AtEnd.STAY)
        try:
            self.start = self._look_first()
            if self.at_end == AtEnd.RESTORE and not self.read_only:
                self._check_way_back(self.start)
        except BaseException as error:
            run_frames.end(self.record, "not begun", error, None)
            raise
        if (interface := environment.interface) is not None:
            interface.start_recording()
        self._began = clock.monotonic()
        failure: BaseException | None = None
        try:
            with inside(ends=False):
                run(self.routine, None, evaluated, ended=self._is_over, witness=self._witness)
        except ControlError as error:
            # A stop cancels the present call, and refuses the next one.
            how = "was not begun" if self._witness.refused else "failed"
            self.reason = self.stopping or f"evaluation {len(self.evaluations) + 1} {how}"
            if self.stopping is None:
                failure = error
                raise
        except BaseException as error:
            failure = error
            self.reason = f"evaluation {len(self.evaluations) + 1} failed"
            if isinstance(error, KeyboardInterrupt):
                self.reason = "interrupted"
            raise
        finally:
            # Each step here is done even if another fails: the first error is what the caller must see.
            with self.record.closing(FOREVER):
                self._leave()
            wrong = self._archive()
            run_frames.end(self.record, self.reason, failure, self.archive)
            self._look_again()
        if self.move_failed:
            raise ControlError(self.moved)
        if wrong:
            raise ControlError(wrong)
        return self.evaluations

    def _is_over(self, done: Sequence[Evaluation]) -> bool:
        reason = self.stopping
        if reason is None and self.target is not None and (best := self.best) is not None and self.direction:
            value = best.objectives[self.objective]
            if self.direction * value >= self.direction * self.target:
                reason = f"target reached: {self.objective} is {value:g}"
        if reason is None and self.most is not None and len(done) >= self.most:
            reason = f"{len(done)} evaluation{'s' if len(done) > 1 else ''} done"
        if reason is None and self.seconds is not None and clock.monotonic() - self._began >= self.seconds:
            reason = f"{self.seconds:g} s are over"
        if reason is None and self._condition is not None and done:
            if self._condition.should_stop(self.routine.data, self.routine.vocs):
                reason = f"the routine's {type(self._condition).__name__} holds"
        self.reason = reason or "running"
        return reason is not None

    # -- the machine --------------------------------------------------------------------------------------------------

    def _look_first(self) -> State:
        try:
            return self._look()
        except ReadError as error:
            # Badger's window measures nothing before its first set, so a replay of its run has nothing to give here.
            if not error.errors or not all(isinstance(each, NotRecorded) for each in error.errors.values()):
                raise
        return self._look(measured=False)

    def _look(self, *, measured: bool = True) -> State:
        environment, vocs = self.routine.environment, self.routine.vocs
        with reaching(environment):
            variables = environment.get_variables(list(vocs.variable_names))
        names = list(vocs.output_names) if measured else []
        outputs = environment.get_observables(names) if names else {}
        return State(
            {name: float(variables[name]) for name in vocs.variable_names},
            {name: _number(outputs[name]) for name in names},
        )

    def _check_way_back(self, start: State) -> None:
        bounds = self.routine.environment.get_bounds(list(start.variables))
        for name, (low, high) in bounds.items():
            if not low <= start.variables[name] <= high:
                raise ControlError(
                    f"{name} is at {start.variables[name]:g}, outside its bounds, {low:g} to {high:g}: "
                    "it could not be restored, so the run was not begun"
                )

    def _leave(self) -> None:
        """Move the machine to where it is to be left."""
        if self.read_only:
            where = "through the interface" if self.unguarded else "on the machine"
            self.moved = f"read-only: nothing was set {where}"
        elif self.evaluations or self.at_end == AtEnd.RESTORE:
            target = None
            if self.at_end == AtEnd.RESTORE and self.start is not None:
                target = self.start.variables
            elif self.at_end == AtEnd.BEST and self.best is not None:
                target = self.best.variables
            if target is not None:
                self._move(target)

    def _look_again(self) -> None:
        try:
            self.end = self._look()
        except Exception as error:
            # Whatever the environment raises: the run's outcome is what counts, this is only for the table.
            self.end_error = first_line(error)

    def _move(self, target: dict[str, float]) -> None:
        where = {AtEnd.BEST: "at the best point", AtEnd.RESTORE: "where it was before"}[self.at_end]
        try:
            self.routine.environment.set_variables(target)
        except Exception as error:
            # Whatever the environment raises: the archive must still be written. Raised at the end.
            self.moved = f"the machine is NOT {where}: {first_line(error)}"
            self.move_failed = True
            return
        self.moved = f"the machine is {where}"

    #: Whether ``at_end`` could not be done.
    move_failed = False

    # -- the archive --------------------------------------------------------------------------------------------------

    def _archive(self) -> str | None:
        """Write what Badger's window opens: the routine with its data, and the record of the interface.

        :returns: what went wrong, if anything.
        """
        if not self.evaluations:
            return None
        from badger.archive import BADGER_ARCHIVE_ROOT, archive_run

        environment = self.routine.environment
        stamp = datetime.datetime.strptime(self.routine.creation_ts, _STAMP)
        # The file's name has whole seconds, and must not be that of another run.
        while _archive_file(Path(BADGER_ARCHIVE_ROOT), environment.name, stamp).exists():
            stamp += datetime.timedelta(seconds=1)
        self.routine.creation_ts = stamp.strftime(_STAMP)
        try:
            archived = archive_run(self.routine)
            self.archive = Path(archived["path"]) / archived["filename"]
            if environment.interface is not None:
                environment.interface.stop_recording(str(self.archive.with_suffix(".pickle")))
        except Exception as error:
            # A full disk, or a value that cannot be written: what the evaluations raised is more important.
            return f"the archive could not be written: {first_line(error)}"
        return None


def _archive_file(root: Path, environment: str, stamp: datetime.datetime) -> Path:
    day = root / f"{stamp:%Y}" / f"{stamp:%Y-%m}" / f"{stamp:%Y-%m-%d}"
    return day / f"{environment}-{stamp.strftime(_STAMP)}.yaml"


def _number(value: Any) -> float:
    """Return the first element of an array, as the table of evaluations does."""
    return float(value[0] if isinstance(value, list | tuple) and value else value)


def first_line(error: BaseException) -> str:
    """Return an error in one line, with its type unless it is one of this package."""
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip()).replace(":; ", ": ")
    return text if isinstance(error, ControlError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
