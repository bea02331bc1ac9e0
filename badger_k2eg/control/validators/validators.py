"""Validators: the shipped ones, and how any other is recognised.

A validator is called with ``set_pv=, set_value=, context=, timeout=`` after the put; it returns when the machine has
arrived, and raises ValueError or TimeoutError when it has not. It is given as a ``functools.partial`` of a function
with these words, or made by ``within``. The shipped validators are recognised by Control, which starts to watch before
the put and waits for all of them together; any other one is called as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

from ...core import futures
from ...core.deadline import FOREVER, in_seconds
from ...core.errors import PvError
from ...core.model import Reading
from .watch import Aim, Watch

#: Seconds between two reads of a context that cannot monitor.
_POLL = 0.1


class Validator(Protocol):
    """The call convention, which old partials rely on."""

    def __call__(self, *, set_pv: str, set_value: Any, context: Any, timeout: float) -> Any:
        """Return when the machine has arrived; raise ValueError or TimeoutError when it has not."""


@dataclass(frozen=True, slots=True)
class Within:
    """Wait until a readback is within a tolerance of the setpoint. Made by ``within``.

    :ivar readback_pv: the PV that shows where the machine is.
    :ivar tolerance: half the width of the band, in the readback's unit; the edge belongs to it.
    :ivar offset: the readback is expected at setpoint + offset.
    :ivar settle: seconds that it must stay in the band without a break; timed, not counted in updates.
    :ivar timeout: seconds to wait in all; None takes the call's, or the interface's.
    """

    readback_pv: str
    tolerance: float
    offset: float = 0.0
    settle: float = 0.0
    timeout: float | None = None

    #: A readback does not rise.
    rise: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not self.tolerance >= 0.0:
            raise ValueError(f"the tolerance of {self.readback_pv} is a number >= 0, not {self.tolerance!r}")
        if not self.settle >= 0.0:
            raise ValueError(f"the settle time of {self.readback_pv} is a number >= 0, not {self.settle!r}")
        if self.timeout not in (None, FOREVER) and not self.timeout > 0.0:
            raise ValueError(f"the timeout of {self.readback_pv} is a number > 0, not {self.timeout!r}")

    @property
    def pv(self) -> str:
        """The PV to watch."""
        return self.readback_pv

    def aim(self, set_value: Any) -> Aim:
        """Return what counts as arrived.

        :raises ValueError: when the setpoint is not a number.
        """
        target = _real(set_value) + self.offset
        # 1.05 - 1.0 is a little more than 0.05; the edge belongs to the band all the same.
        reach = self.tolerance + 1e-12 * max(1.0, abs(target))
        return Aim(f"{target:g} +-{self.tolerance:g}", lambda reading: abs(_real(reading.value) - target) <= reach)

    def __call__(self, *, set_pv: str, set_value: Any, context: Any, timeout: float) -> Any:
        """Wait by polling the context, which may be of any kind.

        :returns: the readback's value.
        :raises ValueError: when it has not arrived in time.
        """
        return _poll(AllOf((self,)), set_pv, set_value, context, timeout)


@dataclass(frozen=True, slots=True)
class Reaches:
    """Wait until a PV holds a value: a status that clears, a flag. Made by ``reaches``.

    :ivar equals: the value; for an enum its label or its index.
    :ivar settle: seconds that it must hold it since the put, without a break.
    :ivar timeout: seconds to wait in all; None takes the call's, or the interface's.
    :ivar rise: seconds that it may take to leave the value after the put: a supply takes a moment to show that it is
        busy. Until it has left it, or this time has passed, nothing counts; ``timeout`` comes on top. Of a setpoint
        that had held the very value for longer than this, nothing is to be expected.
    """

    pv: str
    equals: Any
    settle: float = 0.0
    timeout: float | None = None
    rise: float = 0.0

    def __post_init__(self) -> None:
        if not self.rise >= 0.0:
            raise ValueError(f"the time for {self.pv} to rise is a number >= 0, not {self.rise!r}")

    def aim(self, set_value: Any) -> Aim:
        """Return what counts as arrived; the setpoint does not matter."""
        return Aim(repr(self.equals), lambda reading: reading.equals(self.equals))

    def __call__(self, *, set_pv: str, set_value: Any, context: Any, timeout: float) -> Any:
        """Wait by polling the context.

        :returns: the PV's value.
        :raises ValueError: when it does not hold the value in time.
        """
        return _poll(AllOf((self,)), set_pv, set_value, context, timeout)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Wait for several at the same time. Made by ``all_of``."""

    parts: tuple[Within | Reaches, ...]

    @property
    def rise(self) -> float:
        """Seconds until the move may show; all that is waited for has so much more time."""
        return max(part.rise for part in self.parts)

    def __call__(self, *, set_pv: str, set_value: Any, context: Any, timeout: float) -> Any:
        """Wait by polling the context.

        :returns: the value of the first one's PV.
        :raises ValueError: when one of them has not arrived in time.
        """
        return _poll(self, set_pv, set_value, context, timeout)


def _poll(validator: AllOf, set_pv: str, set_value: Any, context: Any, timeout: float) -> Any:
    watches = [Watch(part, set_pv, set_value, timeout) for part in validator.parts]
    for watch in watches:
        watch.arm(grace=validator.rise)
    while True:
        for watch in watches:
            try:
                value = context.get(watch.validator.pv, timeout=timeout)
                reading = getattr(value, "reading", None)
                watch.update(reading if isinstance(reading, Reading) else Reading(getattr(value, "real", value)))
            except (TimeoutError, PvError) as error:  # no answer, or not with a reading: it may come yet
                watch.update(PvError(watch.validator.pv, str(error) or "no answer"))
        if all(watch.settled() for watch in watches):
            return watches[0].value
        if (late := next((w for w in watches if w.expired() and not w.settled()), None)) is not None:
            raise late.failure()
        futures.sleep(min(_POLL, *(watch.time_left() for watch in watches)))


def within(
    readback_pv: str, *, tolerance: float, offset: float = 0.0, settle: float = 0.0, timeout: float | None = None
) -> Within:
    """Make a validator that waits until ``abs(readback - (setpoint + offset)) <= tolerance``.

    :param readback_pv: the PV that shows where the machine is.
    :param tolerance: in the readback's unit.
    :param settle: seconds (or a Quantity) that the readback must stay within the tolerance.
    :param timeout: seconds to wait in all; None takes the call's, or the interface's; -1 is for ever.
    """
    return Within(readback_pv, tolerance, offset, _span(settle), _span(timeout))


def reaches(pv: str, equals: Any, *, settle: float = 0.2, rise: float = 0.0, timeout: float | None = None) -> Reaches:
    """Make a validator that waits until a PV holds a value, like a status that is ``Ready`` again.

    :param equals: the value; for an enum its label or its index. For times see ``within`` and ``Reaches``.
    :param rise: seconds that it may take to leave the value after the put.
    """
    return Reaches(pv, equals, _span(settle), _span(timeout), _span(rise))


def _span(time_span: Any) -> Any:
    return in_seconds(time_span) if hasattr(time_span, "magnitude") else time_span


def all_of(*validators: Within | Reaches | AllOf) -> AllOf:
    """Make a validator of several shipped ones: every one must have arrived.

    :raises ValueError: for a validator of another kind among them.
    """
    parts: list[Within | Reaches] = []
    for validator in validators:
        if isinstance(validator, AllOf):
            parts += validator.parts
        elif isinstance(validator, Within | Reaches):
            parts.append(validator)
        else:
            raise ValueError(f"all_of takes within(...) and reaches(...), not {validator!r}")
    if not parts:
        raise ValueError("all_of() waits for nothing: give it within(...) or reaches(...)")
    return AllOf(tuple(parts))


def wait_for_readback(
    *,
    set_pv: str,
    set_value: float,
    context: Any,
    timeout: float,
    readback_pv: str,
    tolerance: float,
    count_down: float,
    offset: float = 0.0,
    settle: float = 0.0,
) -> Any:
    """Wait until a readback is in the strict band of +-tolerance around setpoint + offset.

    Meant for ``functools.partial(wait_for_readback, readback_pv=..., tolerance=..., count_down=..., offset=...)``.

    :param count_down: seconds to wait in all.
    :param timeout: seconds for one read, where the context has to be polled.
    :returns: the readback's value.
    :raises ValueError: when it has not arrived in time.
    """
    validator = Within(readback_pv, tolerance, offset, settle, count_down)
    return validator(set_pv=set_pv, set_value=set_value, context=context, timeout=timeout)


def adapt(validator: object) -> AllOf | Validator:
    """Return a shipped validator as AllOf, and any other one checked against the call convention.

    :raises ValueError: when it cannot; found before anything is sent.
    """
    if isinstance(validator, AllOf):
        return validator
    if isinstance(validator, Within | Reaches):
        return AllOf((validator,))
    if isinstance(validator, partial) and validator.func in (within, reaches, all_of):
        return adapt(_made(validator))
    if isinstance(validator, partial) and validator.func is wait_for_readback and not validator.args:
        words = dict(validator.keywords)
        words["timeout"] = words.pop("count_down", None)
        if words["timeout"] is None:
            raise ValueError("wait_for_readback needs count_down=, the seconds to wait in all")
        return adapt(_made(partial(Within, **words)))
    if not callable(validator):
        raise ValueError(f"a validator is a functools.partial or another callable, not {validator!r}")
    if inspect.iscoroutinefunction(validator):
        raise ValueError(f"the validator {name_of(validator)} is a coroutine: calling it would check nothing")
    call: Mapping[str, Any] = {"set_pv": "", "set_value": 0.0, "context": None, "timeout": 0.0}
    try:
        inspect.signature(validator).bind(**call)
    except TypeError as error:
        raise ValueError(
            f"the validator {name_of(validator)} cannot be called with set_pv=, set_value=, context=, timeout=: {error}"
        ) from None
    except ValueError:
        pass  # a builtin without a signature: its call will tell
    return validator


def _made(maker: partial[Any]) -> Any:
    try:
        return maker()
    except TypeError as error:
        raise ValueError(f"the validator does not say enough: {error}") from None


def name_of(validator: object) -> str:
    """Return the name of a validator for a message."""
    while isinstance(validator, partial):
        validator = validator.func
    return getattr(validator, "__qualname__", None) or type(validator).__name__


def _real(value: Any) -> float:
    """Return the number in what a context or a user gives (float-likes have ``.real``)."""
    number = getattr(value, "real", value)
    try:
        return float(number)
    except (TypeError, ValueError):
        raise ValueError(f"a tolerance needs a number to compare, and {value!r} is not one") from None
