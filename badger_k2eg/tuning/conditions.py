"""Conditions: what must hold on the machine, and the wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..control import Reader
from ..core import futures
from ..core.deadline import Deadline
from ..core.errors import ConditionNotMet, PvError
from ..core.model import Limits, Reading
from ..core.suggestions import declaration, is_number
from .knobs import check_pv

#: Seconds between two looks at a condition.
_LOOK = 0.2


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
        check_pv("condition", self.pv)
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


def wait_for(reader: Reader, conditions: Sequence[Condition], deadline: Deadline | None = None) -> None:
    """Wait until all conditions hold at the same time.

    :raises ConditionNotMet: (a TimeoutError) naming the first that does not in its time, its reason and the PV's value.
    :raises CallCancelled: when the deadline is cancelled.
    """
    deadline = deadline or Deadline()
    due = {condition: deadline.child(condition.timeout) for condition in conditions}
    while due:
        updates = reader.updates([c.pv for c in conditions], deadline.child(reader.settings.timeout))
        unmet = [c for c in conditions if not _holds(c, updates[c.pv])]
        if not unmet:
            return
        for condition in unmet:
            if due[condition].expired:
                deadline.check("waiting")
                update = updates[condition.pv]
                seen = update.message if isinstance(update, PvError) else f"it reads {_shown(update)}"
                raise ConditionNotMet(f"waited {condition.timeout:g} s for {condition}: {seen}")
        futures.sleep(_LOOK, deadline)


def _holds(condition: Condition, update: Reading | PvError) -> bool:
    return isinstance(update, Reading) and condition.holds(update)


def _shown(reading: Reading) -> str:
    return repr(reading.label if reading.label is not None else reading.plain)
