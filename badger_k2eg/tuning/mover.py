"""``Mover``: moves knobs through Control; ``Bounds``: the range in which they may be moved."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..control import Control, Reader
from ..core import futures
from ..core.backend import Update
from ..core.conversion import Refusal, in_units_of
from ..core.deadline import Deadline
from ..core.errors import CallCancelled, PutTimeout, PutUnknown, PvError, SetError, SetpointBlocked, read_failure
from ..core.model import Limits, Outcome, PutResult, PvAddress, Reading, SetReport, plain
from ..core.suggestions import is_number
from ..core.units import is_quantity, same
from .knobs import Knob

logger = logging.getLogger("badger_k2eg")

#: A tolerance wider than this fraction of the range is warned of.
_WIDE = 0.05


class Bounds:
    """The bounds of knobs: their own, or the drive limits of the setpoint's record, read once and kept."""

    def __init__(self, reader: Reader) -> None:
        """Read nothing yet."""
        self._reader = reader
        self._limits: dict[str, Limits] = {}

    def find(self, knobs: Iterable[Knob], deadline: Deadline | None = None) -> dict[str, Limits]:
        """Return the bounds by setpoint PV, within the interface's own limits (option ``limits``).

        :raises ReadError: naming the records that do not answer, where the bounds are to come from these.
        """
        limits = {knob.setpoint: None if knob.bounds is None else Limits(*knob.bounds) for knob in knobs}
        ask = [PvAddress.parse(pv) for pv, own in limits.items() if own is None and pv not in self._limits]
        # Not judged by their alarms: a record that was never processed has its limits all the same.
        updates = self._reader.fetch(ask, deadline or Deadline(self._reader.settings.timeout))
        self.learn(updates)
        if errors := {address.text: update for address, update in updates.items() if isinstance(update, PvError)}:
            lines = [f"{error}; the bounds of its knob are to come from its record" for error in errors.values()]
            raise read_failure(errors, {}, "\n".join(lines))
        guard = self._reader.settings
        return {pv: (own or self._limits[pv]).tightened(guard.limits_of(pv)) for pv, own in limits.items()}

    def learn(self, updates: Mapping[PvAddress, Update]) -> None:
        """Keep the limits of records that were read, unless they are known."""
        for address, update in updates.items():
            if isinstance(update, Reading):
                self._limits.setdefault(address.text, update.limits)


class Mover:
    """Moves knobs: approach, set, wait until the machine has arrived, let it settle."""

    def __init__(self, control: Control) -> None:
        """Move through a control: its guard, its retries, its record."""
        self._control = control
        self.bounds = Bounds(control.reader)
        self._doubted: set[str] = set()

    def move(
        self, values: Mapping[str, float], knobs: Mapping[str, Knob], deadline: Deadline | None = None
    ) -> SetReport:
        """Move knobs to values, and wait until the machine has arrived and settled. One guard checks them all.

        :param values: by the names of ``knobs``: a number in the setpoint's unit, or a Quantity.
        :returns: the outcome of each setpoint PV.
        :raises SetError: as ``Control.set``.
        """
        deadline = deadline or Deadline()
        turned = {name: knobs[name] for name in values}
        for knob in turned.values():
            if knob.setpoint_tolerance is not None:
                self._control.tolerances[PvAddress.parse(knob.setpoint).own_name] = knob.setpoint_tolerance
        read = self._read([(turned[name], value) for name, value in values.items()], deadline)
        now = {address.text: update for address, update in read.items()}
        targets = {turned[name].setpoint: _in_unit(turned[name], value, now) for name, value in values.items()}
        validators = {k.setpoint: v for k in turned.values() if (v := k.validator()) is not None}
        beyond = self._beyond(targets, turned.values(), now)
        if beyond and not self._control.settings.read_only:
            # The guard checks the whole move before its first half is made.
            self._control.check(targets, read=read, deadline=deadline)
            report = self._there_and_back(beyond, targets, validators, turned.values(), deadline)
        else:
            report = self._control.set(targets, validators, deadline=deadline)
        if not self._control.settings.read_only:
            self._doubt_tolerances(turned, report)
            futures.sleep(_settling(turned.values(), now, report), deadline)
        return report

    def _read(self, values: Sequence[tuple[Knob, Any]], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read the setpoints together, if the move depends on more than the guard reads: a unit, or an approach.

        Not judged by their alarms: unit, limits and value hold all the same.
        """
        every = any(knob.approach is not None for knob, _ in values)
        ask = [k.setpoint for k, value in values if every or k.unit is not None or is_quantity(value)]
        addresses = [PvAddress.parse(pv) for pv in ask]
        read = self._control.reader.fetch(addresses, deadline.child(self._control.settings.timeout))
        self.bounds.learn(read)
        return read

    def _there_and_back(
        self,
        beyond: Mapping[str, float],
        targets: Mapping[str, float],
        validators: Mapping[str, Any],
        knobs: Iterable[Knob],
        deadline: Deadline,
    ) -> SetReport:
        """Go past the targets, stay until the machine has arrived there, and go to the targets."""
        before = self._control.last_report
        try:
            self._control.set(beyond, {pv: v for pv, v in validators.items() if pv in beyond}, deadline=deadline)
            futures.sleep(max(knob.stay for knob in knobs if knob.setpoint in beyond), deadline)
            if deadline.expired:
                raise PutTimeout("the time of the call is over")
            return self._control.set(targets, validators, deadline=deadline)
        except BaseException as error:
            # The report of the half in which it ended; after a stop between the halves, or an interrupt, the last one.
            own = getattr(error, "report", None)
            last = own or (self._control.last_report if self._control.last_report is not before else None)
            report = _cut_short(last, beyond, targets) if last else None
            if report is None:
                raise
            self._control.ended(report)
            if isinstance(error, SetError):
                # The second half may have been blocked as a whole, but the first one was set.
                kind = PutUnknown if isinstance(error, SetpointBlocked) else type(error)
                raise kind(str(report), report) from error
            if isinstance(error, CallCancelled):
                error.report = report
            raise

    def _beyond(
        self, targets: Mapping[str, float], knobs: Iterable[Knob], now: Mapping[str, Update]
    ) -> dict[str, float]:
        """Return the points past the targets of the knobs that would come from the wrong side.

        :param now: what the setpoints read before the move.
        """
        limits = self.bounds.find(
            k for k in knobs if k.approach is not None and isinstance(now.get(k.setpoint), Reading)
        )
        beyond: dict[str, float] = {}
        for knob in knobs:
            pv = knob.setpoint
            if knob.approach is None:
                continue
            before = _number(now.get(pv))
            if before is None:
                raise SetpointBlocked(
                    f"{pv}: its present value cannot be read, so it cannot be approached from {knob.approach}"
                )
            sign = -1.0 if knob.approach == "below" else 1.0
            # Coming up from below, or down from above, needs no detour.
            if (before - targets[pv]) * sign >= 0.0:
                continue
            low, high = limits[pv].low, limits[pv].high
            if low is None or high is None:
                raise SetpointBlocked(f"{pv}: no bounds for the overshoot: its record has no drive limits")
            point = min(max(targets[pv] + sign * knob.beyond * (high - low), low), high)
            if point != targets[pv]:
                beyond[pv] = point
        return beyond

    def _doubt_tolerances(self, turned: Mapping[str, Knob], report: SetReport) -> None:
        """Warn, once for each knob, if its tolerance is so wide that it counts as arrived before it moves."""
        for name, knob in turned.items():
            before = report[knob.setpoint].before
            # With a flag, the readback alone decides nothing.
            if knob.tolerance is None or knob.done is not None or name in self._doubted:
                continue
            if not isinstance(before, Reading) or not is_number(before.value):
                continue
            low, high = knob.bounds or (before.limits.low, before.limits.high)
            against = None
            if low is not None and high is not None and knob.tolerance > _WIDE * (high - low):
                against = f"its range, {low:g} to {high:g}"
            elif 0.0 < (step := abs(report[knob.setpoint].asked - before.value)) <= knob.tolerance:
                against = f"this step of {step:g}"
            if against is not None:
                self._doubted.add(name)
                text = "%s: the tolerance %g is not small compared with %s: it counts as arrived before it moves"
                logger.warning(text, name, knob.tolerance, against)


def _in_unit(knob: Knob, value: Any, now: Mapping[str, Update]) -> Any:
    """Return a value as a number in the setpoint's unit.

    :param now: what the setpoints read; without a reading, the value is returned as it is, for the guard to judge.
    :raises SetpointBlocked: for another dimension, or a declared unit that differs from the record's.
    """
    if not isinstance(update := now.get(knob.setpoint), Reading):
        return value
    unit = update.units
    if knob.unit is not None and not unit.strip():
        unit = knob.unit
    elif knob.unit is not None and not same(knob.unit, unit):
        raise SetpointBlocked(f"{knob.setpoint}: its knob declares {knob.unit}, but its record has {unit}")
    try:
        return in_units_of(value, unit)
    except Refusal as refusal:
        raise SetpointBlocked(f"nothing was set:\n{knob.setpoint} = {value}: {refusal}") from None


def _number(update: Update | None) -> float | None:
    """Return the value of a reading; None if it is not a number."""
    return float(update.value) if isinstance(update, Reading) and isinstance(update.value, int | float) else None


def _settling(knobs: Iterable[Knob], now: Mapping[str, Update], report: SetReport) -> float:
    """Return the longest time, in seconds, that a knob needs to settle after the move.

    :param now: what the setpoints read before the move; without it, the report has it.
    """
    longest = 0.0
    for knob in knobs:
        before = _number(now.get(knob.setpoint, report[knob.setpoint].before))
        asked = report[knob.setpoint].asked
        distance = abs(asked - before) if before is not None and is_number(asked) else 0.0
        longest = max(longest, knob.settle + knob.settle_per_unit * distance)
    return longest


def _cut_short(last: SetReport, beyond: Mapping[str, float], targets: Mapping[str, float]) -> SetReport | None:
    """Return the report of a whole move that was cut short, from the report of its last half.

    :param last: of the half past the targets, or of the half to them.
    :returns: None if nothing is past its target.
    """
    results = []
    on_the_way = False
    for pv, target in targets.items():
        result = last.get(pv) or PutResult(pv, target, Outcome.NOT_SENT, "not tried")
        was_put = result.outcome in (Outcome.APPLIED, Outcome.UNKNOWN)
        # Put past its target in the first half, or not put to it in the second.
        if pv in beyond and was_put is (result.asked != target):
            on_the_way = True
            words = f"ended on the way: it was put past it, to {beyond[pv]:g}, and not back"
            words = f"{result.message}; {words}" if result.message else words
            result = replace(result, outcome=Outcome.UNKNOWN, message=words)
        results.append(replace(result, asked=plain(target)))
    return SetReport(tuple(results)) if on_the_way else None
