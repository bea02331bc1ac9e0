"""Knobs and conditions: declarations of what is turned and what must hold, and the ``Mover`` that turns.

What facilities write by hand today: a setpoint with another PV as readback, done when a status clears, time to settle,
approached from one side against hysteresis, bounds from the record. Knows no Badger; sets through Control alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from string import Formatter
from typing import Any, Literal, TypeVar

from . import synchronized
from .control import Control
from .conversion import Refusal, in_units_of
from .deadline import Deadline
from .errors import ConditionNotMet, PvError, SetpointBlocked
from .model import Limits, PvAddress, Reading, SetReport
from .units import is_quantity, named, same
from .validation import AllOf, Reaches, Within, all_of, reaches, within
from .wording import declaration, is_number

logger = logging.getLogger("badger_k2eg")

D = TypeVar("D")
Write = Callable[[Mapping[str, Any], Mapping[str, Any], Deadline], SetReport]

#: Seconds between two looks at a condition.
_LOOK = 0.2
#: A tolerance wider than this part of the range is none.
_WIDE = 0.05
#: Seconds before a PV that did not answer is asked for its limits again.
_ASK_AGAIN = 10.0


@declaration
@dataclass(frozen=True, slots=True)
class Knob:
    """One PV that is turned.

    :ivar setpoint: the PV to set. ``{name}`` in any PV stands for a parameter of the environment.
    :ivar readback: the PV that shows where the machine is; None where nothing does.
    :ivar tolerance: of the readback around setpoint + offset, in its unit; needed with a readback.
    :ivar hold: seconds that the readback must stay within the tolerance.
    :ivar done: a status PV that must hold ``done_value`` again (a label or a number) before the move has ended.
    :ivar timeout: seconds for the move; None takes the interface's.
    :ivar settle: seconds to wait after the move, before anything is measured.
    :ivar settle_per_unit: more seconds to wait, for each unit of the step.
    :ivar approach: against hysteresis the setpoint is always reached from ``below`` or from ``above``: a move from the
        other side first goes past it by ``overshoot`` (a fraction of the bounds' range).
    :ivar bounds: low and high; None takes the record's drive limits.
    :ivar unit: the setpoint's unit, where its record has none (EGU is empty); one that the record says otherwise is an
        error of the first move.
    """

    setpoint: str
    readback: str | None = None
    tolerance: float | None = None
    offset: float = 0.0
    hold: float = 0.0
    done: str | None = None
    done_value: Any = None
    timeout: float | None = None
    settle: float = 0.0
    settle_per_unit: float = 0.0
    approach: Literal["below", "above"] | None = None
    overshoot: float = 0.05
    bounds: tuple[float, float] | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.unit is not None:
            named(self.unit)
        for pv in (self.setpoint, self.readback, self.done):
            if pv is not None or pv is self.setpoint:
                _check_pv(f"knob {self.setpoint}", pv)
        if self.readback is not None and self.tolerance is None:
            raise ValueError(f"knob {self.setpoint}: readback {self.readback} needs a tolerance")
        if self.readback is None and self.tolerance is not None:
            raise ValueError(f"knob {self.setpoint}: a tolerance of what? say which readback")
        if self.done is not None and self.done_value is None:
            raise ValueError(f"knob {self.setpoint}: say which value of {self.done} means done (done_value)")
        if self.approach not in (None, "below", "above"):
            raise ValueError(f"knob {self.setpoint}: approach is from below or above, not {self.approach!r}")
        for name in ("tolerance", "hold", "settle", "settle_per_unit", "overshoot"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value >= 0.0):
                raise ValueError(f"knob {self.setpoint}: {name} is a number >= 0, not {value!r}")
        if not is_number(self.offset):
            raise ValueError(f"knob {self.setpoint}: offset is a number, not {self.offset!r}")
        if self.timeout is not None and not (is_number(self.timeout) and self.timeout > 0.0):
            raise ValueError(f"knob {self.setpoint}: timeout is a number of seconds, not {self.timeout!r}")
        if self.bounds is not None and not _are_bounds(self.bounds):
            raise ValueError(f"knob {self.setpoint}: bounds are a low and a higher number, not {self.bounds!r}")

    def validator(self) -> AllOf | None:
        """Make what a move waits for; None where there is nothing to wait for."""
        parts: list[Within | Reaches] = []
        if self.readback is not None and self.tolerance is not None:
            parts.append(
                within(
                    self.readback, tolerance=self.tolerance, offset=self.offset, settle=self.hold, timeout=self.timeout
                )
            )
        if self.done is not None:
            parts.append(reaches(self.done, self.done_value, timeout=self.timeout))
        return all_of(*parts) if parts else None


def _check_pv(what: str, pv: object) -> None:
    if not isinstance(pv, str) or not pv.strip():
        raise ValueError(f"{what}: a PV is a text, not {pv!r}")


def _are_bounds(bounds: Any) -> bool:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return False
    return all(is_number(end) and math.isfinite(end) for end in bounds) and bool(bounds[0] < bounds[1])


@declaration
@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold on the machine, like a permit or a beam rate.

    :ivar equals: the value wanted; for an enum its label or its index.
    :ivar at_least: or the lowest number that will do.
    :ivar at_most: or the highest.
    :ivar timeout: seconds to wait for it; -1 for ever.
    :ivar reason: in the operator's words, for the message.
    """

    pv: str
    equals: Any = None
    at_least: float | None = None
    at_most: float | None = None
    timeout: float = 60.0
    reason: str = ""

    def __post_init__(self) -> None:
        _check_pv("condition", self.pv)
        for name in ("at_least", "at_most"):
            if (value := getattr(self, name)) is not None and not is_number(value):
                raise ValueError(f"condition on {self.pv}: {name} is a number, not {value!r}")
        if self.equals is None and self.at_least is None and self.at_most is None:
            raise ValueError(f"condition on {self.pv}: say equals=, at_least= or at_most=")
        if self.timeout != -1 and not (is_number(self.timeout) and self.timeout > 0):
            raise ValueError(f"condition on {self.pv}: the timeout is a number of seconds, or -1, not {self.timeout!r}")

    def holds(self, reading: Reading) -> bool:
        """Whether it holds."""
        if self.equals is not None:
            return reading.equals(self.equals)
        return isinstance(reading.value, int | float) and reading.value in Limits(self.at_least, self.at_most)

    def __str__(self) -> str:
        wanted = [f"= {self.equals!r}"] if self.equals is not None else []
        wanted += [f">= {self.at_least:g}"] if self.at_least is not None else []
        wanted += [f"<= {self.at_most:g}"] if self.at_most is not None else []
        text = f"{self.pv} {' and '.join(wanted)}"
        return f"{self.reason} ({text})" if self.reason else text


def wait_for(control: Control, conditions: Sequence[Condition], deadline: Deadline | None = None) -> None:
    """Wait until all conditions hold at the same time.

    :raises ConditionNotMet: (a TimeoutError) naming the first that does not in its time, its reason and the PV's value.
    :raises CallCancelled: when the deadline is cancelled.
    """
    deadline = deadline or Deadline()
    due = {condition: deadline.child(condition.timeout) for condition in conditions}
    while due:
        updates = control.updates([c.pv for c in conditions], deadline.child(control.settings.timeout))
        unmet = [c for c in conditions if not _holds(c, updates[c.pv])]
        if not unmet:
            return
        for condition in unmet:
            if due[condition].expired:
                deadline.check("waiting")
                update = updates[condition.pv]
                seen = update.message if isinstance(update, PvError) else f"it reads {_shown(update)}"
                raise ConditionNotMet(f"waited {condition.timeout:g} s for {condition}: {seen}")
        synchronized.sleep(_LOOK, deadline)


def _holds(condition: Condition, update: Reading | PvError) -> bool:
    return isinstance(update, Reading) and condition.holds(update)


def _shown(reading: Reading) -> str:
    return repr(reading.label if reading.label is not None else reading.plain)


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
        again = time.monotonic() - _ASK_AGAIN
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
                    self._silent[address.text] = time.monotonic()
        found = {}
        for knob in knobs:
            limits = self._limits.get(knob.setpoint) if knob.bounds is None else Limits(*knob.bounds)
            if limits is not None:
                found[knob.setpoint] = limits.tightened(self._control.settings.limits_of(knob.setpoint))
        return found


class Mover:
    """Turns knobs: approach, set, wait until the machine has arrived, let it settle."""

    def __init__(self, control: Control, write: Write | None = None) -> None:
        """Stand on the control: its guard, its retries, its record.

        :param write: in place of ``Control.set``, for somebody who wants to know of every set; must end there.
        """
        self._control = control
        self._write: Write = write or (
            lambda values, validators, deadline: control.set(values, validators, deadline=deadline)
        )
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
        targets = self._in_units([(turned[name], value) for name, value in values.items()], deadline)
        validators = {k.setpoint: v for k in turned.values() if (v := k.validator()) is not None}
        before = self._before(turned.values(), deadline)
        first = self._approach(targets, turned.values(), before)
        if first and not self._control.settings.read_only:
            # The guard looks at the whole move before its first half is made.
            self._control.check(targets)
            self._write(first, {pv: v for pv, v in validators.items() if pv in first}, deadline)
        report = self._write(targets, validators, deadline)
        if not self._control.settings.read_only:
            self._doubt_tolerances(turned, report)
            synchronized.sleep(self._settling(targets, turned.values(), before), deadline)
        return report

    def _in_units(self, values: Sequence[tuple[Knob, Any]], deadline: Deadline) -> dict[str, float]:
        """Bring every value into its setpoint's unit, by PV.

        :raises SetpointBlocked: for another dimension, or a declared unit that is not the record's.
        """
        ask = [k.setpoint for k, value in values if k.unit is not None or is_quantity(value)]
        updates = self._control.updates(ask, deadline.child(self._control.settings.timeout)) if ask else {}
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
        updates = self._control.updates(ask, deadline.child(self._control.settings.timeout)) if ask else {}
        return {
            pv: float(u.value)
            for pv, u in updates.items()
            if isinstance(u, Reading) and isinstance(u.value, int | float)
        }

    def _approach(
        self, targets: Mapping[str, float], knobs: Iterable[Knob], before: Mapping[str, float]
    ) -> dict[str, float]:
        """Find the points beyond, for those that would come from the wrong side."""
        limits = self.bounds.find([k for k in knobs if k.approach is not None])
        beyond: dict[str, float] = {}
        for knob in knobs:
            pv = knob.setpoint
            if knob.approach is None or pv not in before:
                continue
            sign = -1.0 if knob.approach == "below" else 1.0
            # Coming up to a setpoint from below needs no detour, and coming down from above neither.
            if (before[pv] - targets[pv]) * sign >= 0.0:
                continue
            low, high = limits[pv].low, limits[pv].high
            if low is None or high is None:
                raise SetpointBlocked(f"{pv}: no bounds to take the overshoot from; its record has no drive limits")
            beyond[pv] = min(max(targets[pv] + sign * knob.overshoot * (high - low), low), high)
        return beyond

    def _doubt_tolerances(self, turned: Mapping[str, Knob], report: SetReport) -> None:
        """Warn, once for each knob, where "arrived" says little: the readback was within the tolerance all the time."""
        for name, knob in turned.items():
            before = report[knob.setpoint].before
            if knob.tolerance is None or name in self._doubted:
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


def filled(declaration: D, parameters: Mapping[str, Any]) -> D:
    """Put parameters into every text of a declaration: ``{prefix}:QUAD`` becomes ``LINAC:QUAD``.

    :param declaration: a Knob, a Condition, an observable, a text, or a dict or sequence of them.
    :raises ValueError: for a name that is no parameter, or one that is None.
    """
    return _filled(declaration, parameters)  # type: ignore[no-any-return]


def _filled(item: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(item, str):
        try:
            # Badger's window makes None of an entry that is emptied.
            empty = [name for _, name, _, _ in Formatter().parse(item) if name and parameters.get(name, "") is None]
            text = "" if empty else item.format_map(parameters)
        except (KeyError, IndexError, ValueError):
            known = ", ".join(sorted(map(str, parameters)))
            raise ValueError(f"{item!r} cannot be filled in; the parameters are {known}") from None
        if empty:
            raise ValueError(f"parameter {empty[0]} is empty")
        return text
    if isinstance(item, Mapping):
        return {key: _filled(value, parameters) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return type(item)(_filled(value, parameters) for value in item)
    if hasattr(item, "filled"):
        return item.filled(lambda part: _filled(part, parameters))
    if is_dataclass(item) and not isinstance(item, type):
        changed = {f.name: _filled(getattr(item, f.name), parameters) for f in fields(item) if f.init}
        return replace(item, **changed)
    return item
