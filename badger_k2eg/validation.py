"""Did the machine arrive? Validators, the shipped ones, and the watch that drives those by updates.

A validator is called with ``set_pv=, set_value=, context=, timeout=`` after the put; it returns when the machine has
arrived, and raises ValueError or TimeoutError when it has not. It is given as a ``functools.partial`` of a function
with these words, or made by ``within``. The shipped validators are recognised by Control, which starts to watch before
the put and waits for all of them together; anybody else's are called as they are. Imports backend and below.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from . import synchronized
from .backend import Update
from .deadline import Deadline
from .errors import PvError
from .model import Reading

#: Seconds between two reads where a context has no monitor of ours.
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
    :ivar timeout: seconds to wait in all; None takes the interface's.
    """

    readback_pv: str
    tolerance: float
    offset: float = 0.0
    settle: float = 0.0
    timeout: float | None = None

    def __post_init__(self) -> None:
        if not self.tolerance >= 0.0:
            raise ValueError(f"the tolerance of {self.readback_pv} is a number >= 0, not {self.tolerance!r}")
        if not self.settle >= 0.0:
            raise ValueError(f"the settle time of {self.readback_pv} is a number >= 0, not {self.settle!r}")
        if self.timeout is not None and not self.timeout > 0.0:
            raise ValueError(f"the timeout of {self.readback_pv} is a number > 0, not {self.timeout!r}")

    def __call__(self, *, set_pv: str, set_value: Any, context: Any, timeout: float) -> Any:
        """Wait by reading the context again and again: it may be anybody's.

        :returns: the readback's value.
        :raises ValueError: when it has not arrived in time.
        """
        watch = Watch(self, set_pv, set_value, timeout)
        watch.arm()
        while True:
            try:
                value = context.get(self.readback_pv, timeout=timeout)
                watch.update(Reading(_real(value), received=time.monotonic()))
            except TimeoutError as error:
                watch.update(PvError(self.readback_pv, str(error) or "no answer"))
            if watch.settled():
                return watch.value
            if watch.expired():
                raise watch.failure()
            synchronized.sleep(min(_POLL, watch.time_left()))


def within(
    readback_pv: str, *, tolerance: float, offset: float = 0.0, settle: float = 0.0, timeout: float | None = None
) -> Within:
    """Make a validator that waits until ``abs(readback - (setpoint + offset)) <= tolerance``.

    :param readback_pv: the PV that shows where the machine is.
    :param tolerance: in the readback's unit.
    :param settle: seconds that the readback must stay within the tolerance.
    :param timeout: seconds to wait in all; None takes the interface's timeout.
    """
    return Within(readback_pv, tolerance, offset, settle, timeout)


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


def adapt(validator: object) -> Within | Validator:
    """Recognise a validator of ours, or check that a foreign one can be called by the convention.

    :raises ValueError: when it cannot; found before anything is sent.
    """
    if isinstance(validator, Within):
        return validator
    if isinstance(validator, partial) and validator.func is within:
        return adapt(_made(validator))
    if isinstance(validator, partial) and validator.func is wait_for_readback and not validator.args:
        words = dict(validator.keywords)
        words["timeout"] = words.pop("count_down", None)
        if words["timeout"] is None:
            raise ValueError("wait_for_readback needs count_down=, the seconds to wait in all")
        return adapt(_made(partial(Within, **words)))
    if not callable(validator):
        raise ValueError(f"a validator is a functools.partial or another callable, not {validator!r}")
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
    """Name a validator for a message."""
    while isinstance(validator, partial):
        validator = validator.func
    return getattr(validator, "__qualname__", None) or type(validator).__name__


class Watch:
    """One setpoint's readback while it is waited for. Fed by updates; says whether it has settled.

    Feed it from any thread; ``changed`` is called after every update that may matter.
    """

    def __init__(
        self,
        validator: Within,
        set_pv: str,
        set_value: Any,
        timeout: float,
        *,
        changed: Callable[[], None] = lambda: None,
        judge: Callable[[Reading], str | None] = lambda reading: None,
    ) -> None:
        """Begin to take updates; nothing counts before ``arm``.

        :param timeout: seconds, where the validator has none of its own.
        :param judge: says why a reading is none (alarm severity); None when it is one.
        """
        self.validator = validator
        self.set_pv = set_pv
        self.target = _real(set_value) + validator.offset
        self.timeout = timeout if validator.timeout is None else validator.timeout
        self._deadline: Deadline | None = None
        self._changed = changed
        self._judge = judge
        self._lock = threading.Lock()
        self._value: Any = None
        self._reason: str | None = "no value of it has arrived"
        self._inside_since: float | None = None
        self._armed_at = 0.0

    def arm(self, parent: Deadline | None = None) -> None:
        """Start the clock: the put is done."""
        with self._lock:
            self._armed_at = time.monotonic()
            self._deadline = (parent or Deadline()).child(self.timeout)

    def update(self, update: Update) -> None:
        """Take an update of the readback, or the news that it is gone."""
        with self._lock:
            if isinstance(update, PvError):
                self._reason = update.message
            else:
                self._value, self._reason = update.value, self._judge(update)
            if self._reason is None and self._in_band():
                if self._inside_since is None:
                    self._inside_since = time.monotonic()
            else:
                self._inside_since = None
        self._changed()

    def _in_band(self) -> bool:
        try:
            distance = abs(_real(self._value) - self.target)
        except ValueError as error:
            self._reason = str(error)
            return False
        # 1.05 - 1.0 is a little more than 0.05; the edge belongs to the band all the same.
        return distance <= self.validator.tolerance + 1e-12 * max(1.0, abs(self.target))

    @property
    def known(self) -> bool:
        """Whether anything has been heard of the readback."""
        return self._value is not None

    @property
    def value(self) -> Any:
        """The readback's last value."""
        return self._value

    def settled(self) -> bool:
        """Whether it is in the band now, and has been for the settle time since the put."""
        with self._lock:
            return self._held() >= self.validator.settle

    def _held(self) -> float:
        if self._inside_since is None or self._deadline is None:
            return -1.0
        return time.monotonic() - max(self._inside_since, self._armed_at)

    def expired(self) -> bool:
        """Whether its time is over."""
        return self._deadline is not None and self._deadline.expired

    def time_left(self) -> float:
        """Seconds until something can change without an update: the settle time is over, or the timeout."""
        left = self._deadline.remaining() if self._deadline else 0.0
        with self._lock:
            held = self._held()
        return min(left, self.validator.settle - held) if held >= 0.0 else left

    def failure(self) -> ValueError:
        """Say what was wanted and what was seen."""
        within_text = f"{self.target:g} +-{self.validator.tolerance:g}"
        last = f"last seen {self._value:g}" if isinstance(self._value, int | float) else f"last seen {self._value!r}"
        if self._reason is not None:
            last = self._reason if self._value is None else f"{last}, {self._reason}"
        elif self._inside_since is not None:
            last += f", not {self.validator.settle:g} s long"
        return ValueError(f"{self.validator.readback_pv} wanted {within_text}, {last}, waited {self.timeout:g} s")


def _real(value: Any) -> float:
    """Take the number out of what a context or a user gives (float-likes have ``.real``)."""
    number = getattr(value, "real", value)
    try:
        return float(number)
    except (TypeError, ValueError):
        raise ValueError(f"a tolerance needs a number to compare, and {value!r} is none") from None
