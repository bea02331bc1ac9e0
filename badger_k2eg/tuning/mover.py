"""``Mover``: turns knobs through Control, and ``Bounds``: how far they may be turned."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..control import Control
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

#: A tolerance wider than this part of the range is none.
_WIDE = 0.05
#: Seconds before a PV that did not answer is asked for its limits again.
_ASK_AGAIN = 10.0


class Bounds:
    """The bounds of knobs: their own, or the record's drive limits, read once and kept."""

    def __init__(self, control: Control) -> None:
        """Read nothing yet."""
        self._control = control
        self._limits: dict[str, Limits] = {}
        #: When those were asked that did not answer; a look at the bounds is part of every step and every click.
        self._silent: dict[str, float] = {}

    def find(self, knobs: Iterable[Knob], deadline: Deadline | None = None) -> dict[str, Limits]:
        """Give the bounds by setpoint PV; those of a record that does not answer are missing.

        The interface's own limits (option ``limits``) are within them.
        """
        knobs = list(knobs)
        again = clock.monotonic() - _ASK_AGAIN
        pvs = [k.setpoint for k in knobs if k.bounds is None and k.setpoint not in self._limits]
        ask = [pv for pv in pvs if self._silent.get(pv, again) <= again]
        if ask:
            addresses = [PvAddress.parse(pv) for pv in ask]
            # Not by way of the policy on alarms: a record that was never processed has limits all the same.
            updates = self._control.backend.get_many(addresses, deadline or Deadline(self._control.settings.timeout))
            for address, update in updates.items():
                if isinstance(update, Reading):
                    self._limits[address.text] = update.limits
                else:
                    self._silent[address.text] = clock.monotonic()
        found = {}
        for knob in knobs:
            limits = self._limits.get(knob.setpoint) if knob.bounds is None else Limits(*knob.bounds)
            if limits is not None:
                found[knob.setpoint] = limits.tightened(self._control.settings.limits_of(knob.setpoint))
        return found


class Mover:
    """Turns knobs: approach, set, wait until the machine has arrived, let it settle."""

    def __init__(self, control: Control) -> None:
        """Stand on the control: its guard, its retries, its record."""
        self._control = control
        self.bounds = Bounds(control)
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
        targets = self._in_units([(turned[name], value) for name, value in values.items()], deadline)
        validators = {k.setpoint: v for k in turned.values() if (v := k.validator()) is not None}
        before = self._before(turned.values(), deadline)
        beyond = self._beyond(targets, turned.values(), before, deadline)
        if beyond and not self._control.settings.read_only:
            # The guard looks at the whole move before its first half is made.
            self._control.check(targets, deadline=deadline)
            report = self._there_and_back(beyond, targets, validators, turned.values(), deadline)
        else:
            report = self._control.set(targets, validators, deadline=deadline)
        if not self._control.settings.read_only:
            self._doubt_tolerances(turned, report)
            futures.sleep(self._settling(targets, turned.values(), before), deadline)
        return report

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
            self._control.set(beyond, {pv: v for pv, v in validators.items() if pv in beyond}, deadline=deadline)
            futures.sleep(max(knob.stay for knob in knobs if knob.setpoint in beyond), deadline)
            if deadline.expired:
                raise PutTimeout("the time of the call is over")
            return self._control.set(targets, validators, deadline=deadline)
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

    def _in_units(self, values: Sequence[tuple[Knob, Any]], deadline: Deadline) -> dict[str, float]:
        """Bring every value into its setpoint's unit, by PV.

        :raises SetpointBlocked: for another dimension, or a declared unit that is not the record's.
        """
        ask = [k.setpoint for k, value in values if k.unit is not None or is_quantity(value)]
        updates = self._now(ask, deadline)
        targets = {}
        for knob, value in values:
            update = updates.get(knob.setpoint)
            targets[knob.setpoint] = value
            if not isinstance(update, Reading):
                continue  # a number; or one that does not answer, which the guard will say
            unit = update.units
            if knob.unit is not None and not unit.strip():
                unit = knob.unit
            elif knob.unit is not None and not same(knob.unit, unit):
                raise SetpointBlocked(f"{knob.setpoint}: its knob declares {knob.unit}, and its record says {unit}")
            try:
                targets[knob.setpoint] = in_units_of(value, unit)
            except Refusal as refusal:
                raise SetpointBlocked(f"nothing was set:\n{knob.setpoint} = {value}: {refusal}") from None
        return targets

    def _before(self, knobs: Iterable[Knob], deadline: Deadline) -> dict[str, float]:
        """Read where those are whose way matters."""
        ask = [k.setpoint for k in knobs if k.approach is not None or k.settle_per_unit > 0.0]
        return {
            pv: float(u.value)
            for pv, u in self._now(ask, deadline).items()
            if isinstance(u, Reading) and isinstance(u.value, int | float)
        }

    def _now(self, pvs: Sequence[str], deadline: Deadline) -> dict[str, Update]:
        """Read setpoints, whatever alarm they are in: unit and value hold all the same."""
        addresses = [PvAddress.parse(pv) for pv in dict.fromkeys(pvs)]
        if not addresses:
            return {}
        updates = self._control.backend.get_many(addresses, deadline.child(self._control.settings.timeout))
        return {address.text: update for address, update in updates.items()}

    def _beyond(
        self, targets: Mapping[str, float], knobs: Iterable[Knob], before: Mapping[str, float], deadline: Deadline
    ) -> dict[str, float]:
        """Find the points beyond, for those that would come from the wrong side."""
        patience = deadline.child(self._control.settings.timeout)
        limits = self.bounds.find([k for k in knobs if k.approach is not None], patience)
        beyond: dict[str, float] = {}
        for knob in knobs:
            pv = knob.setpoint
            if knob.approach is None:
                continue
            if pv not in before:
                raise SetpointBlocked(
                    f"{pv}: it does not tell where it is, and is to be approached from {knob.approach}"
                )
            sign = -1.0 if knob.approach == "below" else 1.0
            # Coming up to a setpoint from below needs no detour, and coming down from above neither.
            if (before[pv] - targets[pv]) * sign >= 0.0:
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

    def _settling(self, targets: Mapping[str, float], knobs: Iterable[Knob], before: Mapping[str, float]) -> float:
        return max(
            (
                knob.settle
                + knob.settle_per_unit * abs(targets[knob.setpoint] - before.get(knob.setpoint, targets[knob.setpoint]))
                for knob in knobs
            ),
            default=0.0,
        )


def _cut_short(last: SetReport, beyond: Mapping[str, float], targets: Mapping[str, float]) -> SetReport | None:
    """Tell of a whole move that ended on its way what its last half tells of itself.

    :param last: of the way past the targets, or of the one to them.
    :returns: None where nothing is past its target.
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
