"""``Knob``: the declaration of a setpoint to move. Pure; nothing here reaches a PV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from string import Formatter
from typing import Any, Literal, TypeVar

from ..control.validators import AllOf, Reaches, Within, all_of, reaches, within
from ..core.suggestions import declaration, is_number
from ..core.units import named

D = TypeVar("D")

#: Default of ``Knob.rise``, in seconds.
_RISE = 3.0
#: Default of ``Knob.overshoot``, a fraction of the range of the bounds.
_OVERSHOOT = 0.05
#: Default of ``Knob.dwell``, in seconds, for a knob with neither ``readback`` nor ``done``.
_DWELL = 1.0
_NOT_NEGATIVE = (
    "tolerance", "hold", "settle", "settle_per_unit", "rise", "overshoot", "dwell", "setpoint_tolerance"
)  # fmt: skip
#: The options that an option belongs to. Without any of these it would have no effect, which is an error.
_ABOUT = {
    "tolerance": ("readback",),
    "offset": ("readback",),
    "hold": ("readback", "done"),
    "timeout": ("readback", "done"),
    "done_value": ("done",),
    "rise": ("done",),
    "overshoot": ("approach",),
    "dwell": ("approach",),
}


@declaration
@dataclass(frozen=True, slots=True)
class Knob:
    """A setpoint to move.

    An option that would have no effect is an error.

    :ivar setpoint: the PV to set. ``{name}`` in any PV stands for a parameter of the environment.
    :ivar setpoint_tolerance: how far from the value asked the setpoint itself may rest, in its unit: for a record that
        quantises. Without it, a setpoint that holds another value than was put is an error (PutMismatch).
    :ivar readback: the PV that shows where the machine is, or None.
    :ivar tolerance: of the readback around setpoint + offset, in its unit; needed with a readback.
    :ivar hold: seconds that the readback must stay within the tolerance, and ``done`` at its value.
    :ivar done: a status PV that leaves ``done_value`` (a label or a number) while the machine moves, and comes back to
        it when the move has ended. Together with a readback, both are waited for.
    :ivar rise: seconds that ``done`` may take to leave its value after the put; None is 3. The move has ended when it
        has left its value and come back, or has not left it in all this time: a move that it never shows takes that
        long. So does a ramp (option ``max_step``), and a put that is sent again. If the setpoint has held the same
        value for that long, by its record's time, nothing moves, and there is no rise to wait for.
    :ivar timeout: seconds for the move; None takes the interface's. With ``done`` it counts on top of ``rise``.
    :ivar settle: seconds to wait after the move before measuring.
    :ivar settle_per_unit: additional seconds to wait, for each unit of the step.
    :ivar approach: against hysteresis the setpoint is always reached from ``below`` or from ``above``: a move from the
        other side first goes past it, waits until the machine has arrived there, and comes back.
    :ivar overshoot: how far past it, as a fraction of the bounds' range and at most to the bound; None is 0.05.
    :ivar dwell: seconds to stay there, after the arrival that ``readback`` or ``done`` show; None is 0 with one of
        these, and 1 without.
    :ivar bounds: low and high; None takes the record's drive limits.
    :ivar unit: the setpoint's unit, if its record has none (EGU is empty); a unit that differs from the record's is an
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
    overshoot: float | None = None
    bounds: tuple[float, float] | None = None
    unit: str | None = None
    rise: float | None = None
    dwell: float | None = None
    setpoint_tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.unit is not None:
            named(self.unit)
        for pv in (self.setpoint, self.readback, self.done):
            if pv is not None or pv is self.setpoint:
                check_pv(f"knob {self.setpoint}", pv)
        if self.approach not in (None, "below", "above"):
            raise ValueError(f"knob {self.setpoint}: approach must be below or above, not {self.approach!r}")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0.0 <= value < math.inf):
                raise ValueError(f"knob {self.setpoint}: {name} must be a number >= 0, not {value!r}")
        if not (is_number(self.offset) and math.isfinite(self.offset)):
            raise ValueError(f"knob {self.setpoint}: offset must be a number, not {self.offset!r}")
        if self.timeout is not None and not (is_number(self.timeout) and self.timeout > 0.0):
            raise ValueError(f"knob {self.setpoint}: timeout must be a number of seconds, not {self.timeout!r}")
        if self.bounds is not None and not _are_bounds(self.bounds):
            raise ValueError(f"knob {self.setpoint}: bounds must be a low and a higher number, not {self.bounds!r}")
        self._check_use()

    def _check_use(self) -> None:
        """Refuse options that are incomplete or would have no effect."""
        if self.readback is not None and self.tolerance is None:
            raise ValueError(f"knob {self.setpoint}: readback {self.readback} needs a tolerance")
        if self.done is not None and self.done_value is None:
            raise ValueError(f"knob {self.setpoint}: done {self.done} needs a done_value")
        unused = {f.name: f.default for f in fields(self)}
        for name, about in _ABOUT.items():
            if getattr(self, name) != unused[name] and all(getattr(self, other) is None for other in about):
                raise ValueError(f"knob {self.setpoint}: {name} needs {' or '.join(about)}")
        if self.timeout is not None and self.hold >= self.timeout:
            raise ValueError(
                f"knob {self.setpoint}: hold ({self.hold:g} s) must be shorter than timeout ({self.timeout:g} s)"
            )

    def validator(self) -> AllOf | None:
        """Return the validator of a move; None if there is nothing to wait for."""
        parts: list[Within | Reaches] = []
        if self.readback is not None and self.tolerance is not None:
            parts.append(
                within(
                    self.readback, tolerance=self.tolerance, offset=self.offset, settle=self.hold, timeout=self.timeout
                )
            )
        if self.done is not None:
            rise = _RISE if self.rise is None else self.rise
            parts.append(reaches(self.done, self.done_value, settle=self.hold, rise=rise, timeout=self.timeout))
        return all_of(*parts) if parts else None

    @property
    def beyond(self) -> float:
        """How far past its target an approach goes, as a fraction of the range; 0 without an approach."""
        if self.approach is None:
            return 0.0
        return _OVERSHOOT if self.overshoot is None else self.overshoot

    @property
    def stay(self) -> float:
        """Seconds to stay past its target, once the machine has arrived there."""
        if self.dwell is not None:
            return self.dwell
        return _DWELL if self.readback is None and self.done is None else 0.0


def check_pv(what: str, pv: object) -> None:
    """Check that a value can be the name of a PV.

    :raises ValueError: naming what it belongs to.
    """
    if not isinstance(pv, str) or not pv.strip():
        raise ValueError(f"{what}: a PV must be a text, not {pv!r}")


def _are_bounds(bounds: Any) -> bool:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return False
    return all(is_number(end) and math.isfinite(end) for end in bounds) and bool(bounds[0] < bounds[1])


def filled(declaration: D, parameters: Mapping[str, Any]) -> D:
    """Return a declaration with parameters filled into its texts: ``{prefix}:QUAD`` becomes ``LINAC:QUAD``.

    :param declaration: a Knob, a Condition, an observable, a text, or a dict or sequence of them.
    :raises ValueError: for a name that is not a parameter, or a parameter that is None.
    """
    return _filled(declaration, parameters)  # type: ignore[no-any-return]


def _filled(item: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(item, str):
        try:
            # Badger's window sets a cleared entry to None.
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
