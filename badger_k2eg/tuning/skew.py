"""``Skew``: how far apart in time the observables of one evaluation may be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.model import Reading
from ..core.suggestions import declaration, is_number


@declaration
@dataclass(frozen=True, slots=True)
class Skew:
    """A limit on the time between observables: ``Skew(seconds=0.01)``, or ``Skew(pulse=True)``.

    Compares the times (or pulse ids) that the records give to the newest update of each observable; those declared
    ``fresh=False`` are left out. Observables that are too far apart are measured again.

    :ivar seconds: the longest time between the oldest and the newest.
    :ivar pulse: all must carry the same pulse id (``timeStamp.userTag``).
    :ivar again: how often they are measured again.
    :ivar otherwise: what happens then: ``error``, or ``mark`` (``Sample.skewed``).
    """

    seconds: float | None = None
    pulse: bool = False
    again: int = 3
    otherwise: Literal["error", "mark"] = "error"

    def __post_init__(self) -> None:
        if (self.seconds is None) == (not self.pulse):
            raise ValueError("skew: needs either seconds= or pulse=True")
        if self.seconds is not None and not (is_number(self.seconds) and self.seconds >= 0.0):
            raise ValueError(f"skew: seconds must be a number >= 0, not {self.seconds!r}")
        if self.again not in range(101) or self.otherwise not in ("error", "mark"):
            raise ValueError("skew: again must be a whole number from 0 to 100, and otherwise 'error' or 'mark'")

    def apart(self, newest: Mapping[str, Reading]) -> str | None:
        """Return how far apart readings are, as a text; None if they belong together."""
        if len(newest) < 2:
            return None
        if self.pulse:
            if without := [pv for pv, reading in newest.items() if reading.pulse_id is None]:
                return f"{without[0]} carries no pulse id"
            if len({reading.pulse_id for reading in newest.values()}) == 1:
                return None
            return "of different pulses: " + ", ".join(f"{pv} of {r.pulse_id}" for pv, r in newest.items())
        times = {pv: reading.timestamp_ns for pv, reading in newest.items() if reading.timestamp_ns is not None}
        if without := [pv for pv in newest if pv not in times]:
            return f"{without[0]} carries no time"
        first, last = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
        distance = (times[last] - times[first]) * 1e-9
        if self.seconds is None or distance <= self.seconds:
            return None
        return f"{distance:.3g} s apart, more than {self.seconds:g} s: {first} is the oldest, {last} the newest"
