"""One watched PV while it is waited for: fed by updates from any thread, it says whether the machine has arrived."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ...core import clock
from ...core.backend import Update
from ...core.deadline import FOREVER, Deadline
from ...core.errors import PvError
from ...core.model import Reading


@dataclass(frozen=True, slots=True)
class Aim:
    """What a watched PV is to come to.

    :ivar wanted: for the message.
    :ivar hit: whether a reading is it; may raise ValueError for what cannot be compared.
    """

    wanted: str
    hit: Callable[[Reading], bool]


class Watchable(Protocol):
    """A validator that a watch can wait for: one PV, and what it is to come to. Times are in seconds."""

    @property
    def pv(self) -> str:
        """The PV to watch."""

    @property
    def settle(self) -> float:
        """How long it must hold the value without a break."""

    @property
    def timeout(self) -> float | None:
        """How long to wait in all; None takes the call's."""

    @property
    def rise(self) -> float:
        """How long it may take to leave the value after the put."""

    def aim(self, set_value: Any) -> Aim:
        """Return what the PV is to come to when the setpoint is set to this."""


class Watch:
    """One setpoint's readback while it is waited for. Fed by updates; says whether it has settled.

    Feed it from any thread; ``changed`` is called after every update that may matter.
    """

    def __init__(
        self,
        validator: Watchable,
        set_pv: str,
        set_value: Any,
        timeout: float,
        *,
        changed: Callable[[], None] = lambda: None,
        judge: Callable[[Reading], str | None] = lambda reading: None,
    ) -> None:
        """Take updates from now on; nothing counts before ``arm``.

        :param timeout: seconds, where the validator has none of its own.
        :param judge: returns why an update does not count as a reading (alarm severity); None when it does.
        """
        self.validator = validator
        self.set_pv = set_pv
        self._aim = validator.aim(set_value)
        self.timeout = timeout if validator.timeout is None else validator.timeout
        self._deadline: Deadline | None = None
        self._changed = changed
        self._judge = judge
        self._lock = threading.Lock()
        self._value: Any = None
        self._last: Reading | None = None
        self._reason: str | None = "no value of it has arrived"
        self._inside_since: float | None = None
        self._armed_at = 0.0
        self._heard_at = 0.0
        # Of one that rises: whether its last reading was what it shall come back to, and whether it has left that
        # since the put.
        self._rests = False
        self._rose = False
        self._rise_ends = 0.0
        self._puts = 0

    def aim_at(self, set_value: Any) -> None:
        """Change the target before anything counts: the setpoint's unit has become known.

        :raises ValueError: when the setpoint is not a number.
        """
        with self._lock:
            self._aim = self.validator.aim(set_value)
            inside = self._last is not None and self._reason is None and self._hits(self._last)
            self._inside_since = clock.monotonic() if inside else None

    def sent(self) -> None:
        """Note that a value is about to be sent: a rise from now on may be its effect.

        After several (a ramp, another attempt) nobody can tell which of them a rise belongs to: then the whole time
        that it may take has to pass.
        """
        with self._lock:
            self._puts += 1
            self._rose = False

    def arm(self, parent: Deadline | None = None, *, grace: float = 0.0, rise: float | None = None) -> None:
        """Start the clock: the put is done.

        :param grace: seconds more until its time is over: the move begins only when a flag rises.
        :param rise: seconds in which it may still rise; None for all that its validator gives it.
        """
        limit = self.timeout if self.timeout == FOREVER else self.timeout + grace
        with self._lock:
            self._armed_at = clock.monotonic()
            self._rise_ends = self._armed_at + (self.validator.rise if rise is None else rise)
            self._deadline = (parent or Deadline()).child(limit)

    def update(self, update: Update) -> None:
        """Take an update of the readback, or an error when it is disconnected."""
        with self._lock:
            self._heard_at = clock.monotonic()
            if isinstance(update, PvError):
                self._reason = update.message
            else:
                self._value, self._reason, self._last = update.value, self._judge(update), update
            hit = isinstance(update, Reading) and self._reason is None and self._hits(update)
            if not hit:
                self._inside_since = None
            elif self._inside_since is None:
                self._inside_since = clock.monotonic()
            if self._reason is None:
                self._rose |= self._rests and not hit and self._puts <= 1
                self._rests = hit
        self._changed()

    def _hits(self, reading: Reading) -> bool:
        try:
            return self._aim.hit(reading)
        except ValueError as error:
            self._reason = str(error)
            return False

    @property
    def known(self) -> bool:
        """Whether anything has been heard of the readback."""
        return self._value is not None

    @property
    def heard(self) -> bool:
        """Whether an update since the put tells of the move; of a flag that rises, only a rise does."""
        return self._rose if self.validator.rise else self._heard_at > self._armed_at

    @property
    def value(self) -> Any:
        """The readback's last value."""
        return self._value

    def settled(self) -> bool:
        """Return whether it has been in the band for the settle time since the put, and can no longer rise."""
        with self._lock:
            return self._held() >= self.validator.settle and self._until_risen() <= 0.0

    def _held(self) -> float:
        if self._inside_since is None or self._deadline is None:
            return -1.0
        return clock.monotonic() - max(self._inside_since, self._armed_at)

    def _until_risen(self) -> float:
        """Return the seconds for which its value may still be from before the move."""
        return 0.0 if self._rose else max(0.0, self._rise_ends - clock.monotonic())

    def expired(self) -> bool:
        """Return whether its time is over."""
        return self._deadline is not None and self._deadline.expired

    def time_left(self) -> float:
        """Return the seconds until something can change without an update: settle time, rise time or timeout."""
        left = self._deadline.remaining() if self._deadline else 0.0
        with self._lock:
            held = self._held()
            rest = max(self.validator.settle - held, self._until_risen())
        return min(left, rest) if held >= 0.0 and rest > 0.0 else left

    def failure(self) -> ValueError:
        """Return the error that tells what was wanted and what was seen."""
        with self._lock:
            last = f"last seen {self._shown()}"
            if self._reason is not None:
                last = self._reason if self._value is None else f"{last}, {self._reason}"
            elif self._inside_since is not None and self._until_risen() > 0.0:
                last += ", which it has not left yet"
            elif self._inside_since is not None:
                last += f", not {self.validator.settle:g} s long"
            waited = self.timeout if self._deadline is None else self._deadline.seconds
        return ValueError(f"{self.validator.pv} wanted {self._aim.wanted}, {last}, waited {waited:g} s")

    def _shown(self) -> str:
        if self._last is not None and self._last.label is not None:
            return repr(self._last.label)
        return f"{self._value:g}" if isinstance(self._value, float) else repr(self._value)
