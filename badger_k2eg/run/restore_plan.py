"""The restore of setpoints: what differs, what must be left alone, and what became of each PV.

For a run that ends, and for one that ended long ago. Everything goes through ``Control``: guard, lock, validators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ..control import Control
from ..control.put_rules import not_a_reading, same
from ..core.deadline import Deadline
from ..core.errors import CallCancelled, ControlError, PvError, PvNameError, SetError, SetpointBlocked
from ..core.model import Kind, Outcome, PvAddress, Reading, Severity, plain
from ..core.printable import printable
from ..core.settings import Settings, matches
from ..core.suggestions import is_number

logger = logging.getLogger("badger_k2eg")


class Fate(StrEnum):
    """What is to become, or has become, of one PV of a restore."""

    #: It is to be set.
    TO_DO = "to do"
    RESTORED = "restored"
    #: It holds the value already.
    THERE = "already there"
    #: Another client has moved it since.
    FOREIGN = "moved by somebody else"
    #: It cannot be read, or its value before is not known.
    UNREADABLE = "cannot be read"
    #: The guard refuses the value: limits have changed, another process holds the lock, ...
    BLOCKED = "blocked"
    #: A command or a tweak, which cannot be undone.
    RELATIVE = "a command, which cannot be undone"
    READ_ONLY = "read-only"
    #: There was no time left, or the call was cancelled.
    NOT_SENT = "not sent"
    FAILED = "not restored"


#: The fates that leave a PV unrestored.
UNDONE = (Fate.TO_DO, Fate.FOREIGN, Fate.UNREADABLE, Fate.BLOCKED, Fate.NOT_SENT, Fate.FAILED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where one PV is to go.

    :ivar value: the value to set.
    :ivar ours: what it may hold because of the run; any other value is a foreign move.
    :ivar source: the reading that the value was taken from; None for a value that was set.
    :ivar doubt: why the value must not be trusted; then it is set by force alone.
    :ivar way: the two ends of a ramp that was cut off at an unknown step; all numbers between them are the run's.
    """

    pv: str
    value: Any
    ours: tuple[Any, ...] = ()
    validator: Any = None
    source: Reading | None = None
    doubt: str | None = None
    way: tuple[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One PV of a restore.

    :ivar value: the value to set.
    :ivar now: the value before; None where it cannot be read.
    """

    pv: str
    value: Any
    now: Any = None
    unit: str = ""
    fate: Fate = Fate.TO_DO
    message: str = ""
    validator: Any = None

    def __str__(self) -> str:
        text = f"{self.pv}: {self.fate}"
        return printable(f"{text}, {self.message}" if self.message else text)


def plan(
    control: Control, wanted: Sequence[Wanted], *, force: bool = False, deadline: Deadline | None = None
) -> list[Step]:
    """Return what is to become of each PV; set nothing.

    :param wanted: in the order in which the PVs are to be set.
    :param force: whether to set also what another client has moved.
    """
    if not wanted:
        return []
    deadline = deadline or Deadline()
    patience = deadline.child(control.settings.timeout)
    addresses, by_pv = [], dict[str, Reading | PvError]()
    for each in wanted:
        try:
            addresses.append(PvAddress.parse(each.pv))
        except PvNameError as error:  # the record was edited
            by_pv[each.pv] = error
    updates = control.backend.get_many(addresses, patience)
    by_pv.update((address.text, update) for address, update in updates.items())
    if control.settings.depend_on_names:
        # Settings for a record's own name hold for an alias too; all names are asked for at once.
        living = [address for address, update in updates.items() if isinstance(update, Reading)]
        control.record_names.learn(control.backend, living, deadline, control.settings.timeout)
    steps = [_step(control, each, by_pv[each.pv], force) for each in wanted]
    return [_checked(control, step, deadline) if step.fate is Fate.TO_DO else step for step in steps]


def _step(control: Control, wanted: Wanted, update: Reading | PvError, force: bool) -> Step:
    """Return what is to become of one PV, by what it holds now."""
    step = Step(wanted.pv, wanted.value, validator=wanted.validator)
    if isinstance(update, PvError):
        return replace(step, fate=Fate.UNREADABLE, message=update.message)
    step = replace(step, now=plain(update.value), unit=update.units)
    if wanted.value is None:
        return replace(step, fate=Fate.UNREADABLE, message="its value before is not known")
    if wanted.doubt is not None and not force:
        return replace(step, fate=Fate.UNREADABLE, message=f"{wanted.doubt}; --force restores it all the same")
    if wanted.doubt is not None:
        step = replace(step, message=f"by force: {wanted.doubt}")
    if (reason := never_a_value(wanted.source, control.settings)) is not None:
        return replace(step, fate=Fate.UNREADABLE, message=f"its value before is not known: {reason}")
    address = control.record_names.known(PvAddress.parse(wanted.pv))
    if matches(address, control.settings.relative):
        return replace(step, fate=Fate.RELATIVE)
    tolerance = control.tolerance_of(address)
    if is_at(update, wanted.value, tolerance):
        return replace(step, fate=Fate.THERE)
    is_ours = any(is_at(update, value, tolerance) for value in wanted.ours) or _is_on(update, wanted.way)
    if not force and not is_ours:
        last = " or ".join(dict.fromkeys(repr(plain(value)) for value in wanted.ours)) or "nothing"
        return replace(step, fate=Fate.FOREIGN, message=f"it holds {step.now!r}, and the run last wrote {last}")
    return step


def _checked(control: Control, step: Step, deadline: Deadline) -> Step:
    """Return the step, blocked where the guard would refuse it."""
    try:
        control.check({step.pv: step.value}, deadline=deadline)
    except SetpointBlocked as error:
        reason = error.report[step.pv].message if error.report else str(error)
        return replace(step, fate=Fate.BLOCKED, message=reason)
    return step


def never_a_value(source: Reading | None, settings: Settings) -> str | None:
    """Return why a setpoint cannot be restored to a reading; None when it can.

    The 0.0 of a record that was never processed is not a value that it had. A value in a lesser alarm is.
    """
    if source is None or source.severity is not Severity.INVALID:
        return None
    return not_a_reading(source, settings)


def _is_on(reading: Reading, way: tuple[Any, Any] | None) -> bool:
    """Return whether a number lies on the way of a ramp."""
    if way is None or not all(is_number(value) for value in (reading.value, *way)):
        return False
    return bool(min(way) <= reading.value <= max(way))


def is_at(reading: Reading, value: Any, tolerance: float = 0.0) -> bool:
    """Return whether a PV holds a value, compared in its own type; an enum also by its label.

    :param tolerance: how far from it a record that quantises may rest, in its unit.
    """
    if isinstance(value, Mapping) and value.keys() == {"value"}:
        # As asked with Fields; a table may have a column of that name.
        inner = value["value"]
        value = inner if isinstance(inner, Mapping) or reading.type.kind is not Kind.TABLE else value
    if isinstance(value, str) and reading.choices:
        return reading.equals(value)
    return same(reading, value, tolerance)


def carry_out(
    control: Control,
    steps: Sequence[Step],
    *,
    deadline: Deadline | None = None,
    said: Callable[[Step], object] = lambda step: None,
) -> list[Step]:
    """Set what is to be set, in the order given, and go on where one PV fails; raise nothing.

    :param said: called with each step as it has ended.
    :returns: every step, with what became of it.
    """
    done = {step.pv: step for step in steps}
    left = [step for step in steps if step.fate is Fate.TO_DO]
    while left:
        results = _set(control, left, deadline or Deadline())
        for step in left:
            if step.pv in results:
                done[step.pv] = results[step.pv]
                said(done[step.pv])
        left = [step for step in left if step.pv not in results]
    return list(done.values())


def _set(control: Control, steps: Sequence[Step], deadline: Deadline) -> dict[str, Step]:
    """Set PVs in one call, which ends at its first failure unless it is parallel.

    :returns: the steps whose fate is known now: one at least.
    """
    validators = {step.pv: step.validator for step in steps if step.validator is not None}
    # Failures of the run, or of another PV, must not keep this one from being restored.
    control.resume()
    report = None
    try:
        report = control.set({step.pv: step.value for step in steps}, validators, deadline=deadline)
    except (SetError, CallCancelled) as error:
        report = error.report
        if isinstance(error, CallCancelled) or report is None or not report.results:
            return _failed(steps, report, first_line(error))
        if isinstance(error, SetpointBlocked) and len(steps) > 1:
            # All or nothing is right for a run; here one bad PV must not keep the others from being restored.
            return {pv: step for each in steps for pv, step in _set(control, [each], deadline).items()}
    except ControlError as error:
        return _failed(steps, report, first_line(error))
    ended = {}
    for step in steps:
        result = report[step.pv]
        if result.outcome is Outcome.SKIPPED:
            ended[step.pv] = replace(step, fate=Fate.READ_ONLY)
        elif result.ok:
            ended[step.pv] = replace(step, fate=Fate.RESTORED)
        elif result.outcome is Outcome.BLOCKED:
            ended[step.pv] = replace(step, fate=Fate.BLOCKED, message=result.message)
        elif result.error is not None:
            fate = Fate.NOT_SENT if result.outcome is Outcome.NOT_SENT else Fate.FAILED
            ended[step.pv] = replace(step, fate=fate, message=f"{result.outcome}: {result.message}")
    return ended or _failed(steps, report, "nothing was set")


def _failed(steps: Sequence[Step], report: Any, message: str) -> dict[str, Step]:
    """Return what became of PVs in a call that was cut short.

    :param message: for those that the report does not tell of.
    """
    results = {} if report is None else {result.pv: result for result in report.results}
    ended = {}
    for step in steps:
        result = results.get(step.pv)
        if result is not None and result.ok:
            ended[step.pv] = replace(step, fate=Fate.RESTORED)
        else:
            is_sent = result is not None and result.outcome is not Outcome.NOT_SENT
            words = f"{result.outcome}: {result.message}" if result is not None else message
            ended[step.pv] = replace(step, fate=Fate.FAILED if is_sent else Fate.NOT_SENT, message=words)
    return ended


def first_line(error: BaseException) -> str:
    """Return the text of an error in one line."""
    return "; ".join(line for line in str(error).splitlines() if line.strip()) or type(error).__name__


def summary(steps: Sequence[Step]) -> str:
    """Return how a restore went, in one line."""
    if not steps:
        return "nothing to restore"
    words = [f"{count} {fate}" for fate in Fate if (count := sum(step.fate is fate for step in steps))]
    return ", ".join(words)


def outcome_of(steps: Sequence[Step]) -> Mapping[str, Any]:
    """Return the outcome of a restore for its line in the journal."""
    return {
        "summary": summary(steps),
        "pvs": {step.pv: {"fate": step.fate.value, "message": step.message} for step in steps},
    }
