"""One PV of a call to set, and how far it has come. Part of the room ``control``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..core import clock
from ..core.conversion import in_units_of
from ..core.errors import SetError
from ..core.model import Outcome, PutResult, PvAddress, Reading, plain
from .put_rules import same
from .validators import AllOf, Validator, Watch


@dataclass(slots=True, eq=False)
class Setpoint:
    """One PV of the call, and how far it has come."""

    key: str
    asked: Any
    address: PvAddress
    validator: AllOf | Validator | None = None
    value: Any = None
    #: How far from the value it may rest, in its unit.
    tolerance: float = 0.0
    before: Reading | None = None
    path: list[Any] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    outcome: Outcome | None = None
    message: str = ""
    attempts: int = 0
    #: What the server answered, and its words: APPLIED or REFUSED, until a read-back has told more; None for neither.
    answered: Outcome | None = None
    said: str = ""
    #: The last value that was answered as done: a step on the way, or the whole way.
    stood: Any = None
    #: Whether a read-back of this call has shown the value.
    proven: bool = False
    #: Whether one of the attempts was sent and not answered.
    unanswered: bool = False
    #: Whether it has been put to a step on the way (a ramp).
    on_the_way: bool = False
    began: float = 0.0
    ended: float = 0.0
    readback: Reading | None = None
    arrived: Any = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing has gone wrong with it so far."""
        return self.error is None and self.outcome in (Outcome.APPLIED, Outcome.SKIPPED, None)

    def end(self, outcome: Outcome, message: str = "", error: type[SetError] | None = None) -> None:
        """Say how its put ended."""
        self.outcome, self.message = outcome, message
        if error is not None:
            self.fail(error(f"{self.key} = {self.asked!r}: {message}"))

    def cut_short(self) -> None:
        """Say what is true of a ramp that ends here: what was done for a step is not done for the setpoint."""
        if self.path and self.outcome is Outcome.APPLIED:
            self.on_the_way = True
            self.outcome, self.message = Outcome.UNKNOWN, f"ended on the way, {len(self.path)} steps before it"

    def answer(self, outcome: Outcome, words: str) -> None:
        """Keep what the server answered; what it is worth a read-back tells."""
        self.answered, self.said = outcome, words

    def supersede(self, outcome: Outcome, message: str, error: type[SetError]) -> None:
        """Say how its put ended, in the place of what was said before: this is known better."""
        self.error = None
        self.end(outcome, message, error)

    def holds(self, reading: Reading | None) -> bool:
        """Whether this reading of it shows the value that was asked for."""
        return same(reading, self.value, self.tolerance)

    def fail(self, error: Exception) -> None:
        """Keep the first thing that went wrong."""
        if self.error is None:
            self.error = error

    def sent(self) -> None:
        """Tell its watches that a value is about to leave this process."""
        for watch in self.watches:
            watch.sent()

    def settle_unit(self, before: Reading) -> None:
        """Bring a quantity into the PV's unit, now that it is known.

        :raises Refusal: when it does not fit.
        """
        value = in_units_of(self.value, before.units)
        if value is not self.value:
            self.value, self.asked = value, plain(value)
            for watch in self.watches:
                watch.aim_at(value)

    def result(self) -> PutResult:
        """Give the present state as the record of it."""
        return PutResult(
            pv=self.key,
            asked=self.asked,
            outcome=self.outcome or Outcome.NOT_SENT,
            message=self.message or ("" if self.outcome else "not tried"),
            attempts=self.attempts,
            seconds=(self.ended or clock.monotonic()) - self.began if self.began else 0.0,
            before=self.before,
            readback=self.readback,
            tolerance=self.tolerance,
            arrived=self.arrived,
            error=self.error,
        )


def twice(setpoints: Iterable[Setpoint]) -> dict[Setpoint, str]:
    """Find the PVs that are to have two values, by whatever names."""
    first: dict[str, Setpoint] = {}
    return {
        setpoint: f"the same PV as {first[setpoint.address.own_name].key}, with two values in one call"
        for setpoint in setpoints
        if first.setdefault(setpoint.address.own_name, setpoint) is not setpoint
    }
