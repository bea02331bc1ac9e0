"""``Mover``: turns knobs through Control, and ``Bounds``: how far they may be turned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..control import Control, Reader
from ..core import clock, futures
from ..core.backend import Update
from ..core.conversion import Refusal, in_units_of
from ..core.deadline import Deadline
from ..core.errors import CallCancelled, PutTimeout, PutUnknown, SetError, SetpointBlocked
from ..core.model import Limits, Outcome, PutResult, PvAddress, Reading, SetReport, plain
from ..core.suggestions import is_number
from ..core.units import is_quantity, same
from .knobs import Knob

logger = logging.getLogger("badger_k2eg")

Write = Callable[[Mapping[str, Any], Mapping[str, Any], Deadline], SetReport]

#: A tolerance wider than this part of the range says little.
_WIDE = 0.05
#: Seconds before a PV that did not answer is asked for its limits again.
_ASK_AGAIN = 10.0


class Bounds:
    """The bounds of knobs: their own, or the record's drive limits, read once and kept."""

    def __init__(self, reader: Reader) -> None:
        """Read nothing yet."""
        self._reader = reader
        self._limits: dict[str, Limits] = {}
        #: When those were asked that did not answer; a look at the bounds is part of every step and every click.
        self._silent: dict[str, float] = {}

    def find(self, knobs: Iterable[Knob], deadline: Deadline | None = None) -> dict[str, Limits]:
        """Return the bounds by setpoint PV; those of a record that does not answer are missing.

        The interface's own limits (option ``limits``) are within them.
        """
        knobs = list(knobs)
        again = clock.monotonic() - _ASK_AGAIN
        pvs = [k.setpoint for k in knobs if k.bounds is None and k.setpoint not in self._limits]
        ask = [pv for pv in pvs if self._silent.get(pv, again) <= again]
        if ask:
            addresses = [PvAddress.parse(pv) for pv in ask]
            # Not by way of the policy on alarms: a record that was never processed has limits all the same.
            self.learn(self._reader.fetch(addresses, deadline or Deadline(self._reader.settings.timeout)))
        found = {}
        for knob in knobs:
            limits = self._limits.get(knob.setpoint) if knob.bounds is None else Limits(*knob.bounds)
            if limits is not None:
                found[knob.setpoint] = limits.tightened(self._reader.settings.limits_of(knob.setpoint))
        return found

    def learn(self, updates: Mapping[PvAddress, Update]) -> None:
        """Keep the limits of what was read; those of a PV that has told them once stay."""
        for address, update in updates.items():
            if isinstance(update, Reading):
                self._limits.setdefault(address.text, update.limits)
            else:
                self._silent[address.text] = clock.monotonic()


class Mover:
    """Turns knobs: approach, set, wait until the machine has arrived, let it settle."""

    def __init__(self, control: Control, write: Write | None = None) -> None:
        """Set by this control: its guard, its retries, its record.

        :param write: in the place of ``Control.set``, which it must call: for a caller that records every set.
        """
        self._control = control
        self._write: Write = write or (
            lambda values, validators, deadline: control.set(values, validators, deadline=deadline)
        )
        self.bounds = Bounds(control.reader)
        self._doubted: set[str] = set()

    def move(
        self, values: Mapping[str, float], knobs: Mapping[str, Knob], deadline: Deadline | None = None
    ) -> SetReport:
        """Turn knobs to values, all of them by one guard.

        :param values: by the names of ``knobs``: a number in the setpoint's unit, or a Quantity.
        :returns: what became of each setpoint PV; when it returns, the machine has settled.
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
            # The guard looks at the whole move before its first half is made.
            self._control.check(targets, read=read, deadline=deadline)
            report = self._there_and_back(beyond, targets, validators, turned.values(), deadline)
        else:
            report = self._write(targets, validators, deadline)
        if not self._control.settings.read_only:
            self._doubt_tolerances(turned, report)
            futures.sleep(_settling(turned.values(), now, report), deadline)
        return report

    def _read(self, values: Sequence[tuple[Knob, Any]], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read the setpoints together where the move depends on more than the guard finds out: a unit, or the way.

        Whatever alarm they are in: unit, limits and value hold all the same.
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
        """Go past the targets, stay until the machine has got there, and go to the targets."""
        before = self._control.last_report
        try:
            self._write(beyond, {pv: v for pv, v in validators.items() if pv in beyond}, deadline)
            futures.sleep(max(knob.stay for knob in knobs if knob.setpoint in beyond), deadline)
            if deadline.expired:
                raise PutTimeout("the time of the call is over")
            return self._write(targets, validators, deadline)
        except BaseException as error:
            # Where it ended in a half, that one's report; else (a stop past the targets, an interrupt) the last one.
            own = getattr(error, "report", None)
            last = own or (self._control.last_report if self._control.last_report is not before else None)
            report = _cut_short(last, beyond, targets) if last else None
            if report is None:
                raise
            self._control.ended(report)
            if isinstance(error, SetError):
                # The second half may have been blocked as a whole; of the move it is not true that nothing was set.
                kind = PutUnknown if isinstance(error, SetpointBlocked) else type(error)
                raise kind(str(report), report) from error
            if isinstance(error, CallCancelled):
                error.report = report
            raise

    def _beyond(
        self, targets: Mapping[str, float], knobs: Iterable[Knob], now: Mapping[str, Update]
    ) -> dict[str, float]:
        """Return the points beyond, for those that would come from the wrong side.

        :param now: what the setpoints read before the move.
        """
        limits = self.bounds.find(k for k in knobs if k.approach is not None and k.setpoint in now)
        beyond: dict[str, float] = {}
        for knob in knobs:
            pv = knob.setpoint
            if knob.approach is None:
                continue
            before = _number(now.get(pv))
            if before is None:
                raise SetpointBlocked(
                    f"{pv}: it does not tell where it is, and is to be approached from {knob.approach}"
                )
            sign = -1.0 if knob.approach == "below" else 1.0
            # Coming up to a setpoint from below needs no detour, and coming down from above neither.
            if (before - targets[pv]) * sign >= 0.0:
                continue
            low, high = limits.get(pv, Limits()).low, limits.get(pv, Limits()).high
            if low is None or high is None:
                raise SetpointBlocked(f"{pv}: no bounds to take the overshoot from; its record has no drive limits")
            point = min(max(targets[pv] + sign * knob.beyond * (high - low), low), high)
            if point != targets[pv]:
                beyond[pv] = point
        return beyond

    def _doubt_tolerances(self, turned: Mapping[str, Knob], report: SetReport) -> None:
        """Warn, once for each knob, where "arrived" says little: the readback was within the tolerance all the time."""
        for name, knob in turned.items():
            before = report[knob.setpoint].before
            # Where a flag shows the move, the readback alone decides nothing.
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
                text = "%s: the tolerance %g is not small against %s: it counts as arrived before it moves"
                logger.warning(text, name, knob.tolerance, against)


def _in_unit(knob: Knob, value: Any, now: Mapping[str, Update]) -> Any:
    """Return a value as a number in the setpoint's unit.

    :param now: what the setpoints read: without a reading of its own, the value stays as it is, for the guard.
    :raises SetpointBlocked: for another dimension, or a declared unit that is not the record's.
    """
    if not isinstance(update := now.get(knob.setpoint), Reading):
        return value
    unit = update.units
    if knob.unit is not None and not unit.strip():
        unit = knob.unit
    elif knob.unit is not None and not same(knob.unit, unit):
        raise SetpointBlocked(f"{knob.setpoint}: its knob declares {knob.unit}, and its record says {unit}")
    try:
        return in_units_of(value, unit)
    except Refusal as refusal:
        raise SetpointBlocked(f"nothing was set:\n{knob.setpoint} = {value}: {refusal}") from None


def _number(update: Update | None) -> float | None:
    """Return the value of a reading where it is one number."""
    return float(update.value) if isinstance(update, Reading) and isinstance(update.value, int | float) else None


def _settling(knobs: Iterable[Knob], now: Mapping[str, Update], report: SetReport) -> float:
    """Return the seconds that the machine needs after a move to settle; the longest of all.

    :param now: what the setpoints read before the move, where they were read; else the report tells.
    """
    longest = 0.0
    for knob in knobs:
        before = _number(now.get(knob.setpoint, report[knob.setpoint].before))
        asked = report[knob.setpoint].asked
        distance = abs(asked - before) if before is not None and is_number(asked) else 0.0
        longest = max(longest, knob.settle + knob.settle_per_unit * distance)
    return longest


def _cut_short(last: SetReport, beyond: Mapping[str, float], targets: Mapping[str, float]) -> SetReport | None:
    """Return the report of a whole move that ended on its way, from the report of its last half.

    :param last: of the way past the targets, or of the one to them.
    :returns: None where no setpoint is past its target.
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
