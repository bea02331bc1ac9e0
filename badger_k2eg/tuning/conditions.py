"""``Condition``: what must hold on the machine; and ``wait_for``, which waits until it does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..control import Reader
from ..control.waiting import wait_until
from ..core import futures
from ..core.deadline import Deadline
from ..core.errors import ConditionNotMet, PvError, ReadError
from ..core.model import Limits, Reading
from ..core.suggestions import declaration, is_number
from .knobs import check_pv

#: Seconds between two reads while a PV does not answer.
_LOOK = 0.2


@declaration
@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a PV that must hold, like a permit or a beam rate.

    :ivar equals: the value wanted; for an enum its label or its index.
    :ivar at_least: or the lowest number allowed.
    :ivar at_most: or the highest.
    :ivar timeout: seconds to wait for it; -1 for ever.
    :ivar reason: the operator's name for it, shown in messages.
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
                raise ValueError(f"condition on {self.pv}: {name} must be a number, not {value!r}")
        if self.equals is None and self.at_least is None and self.at_most is None:
            raise ValueError(f"condition on {self.pv}: needs equals=, at_least= or at_most=")
        if self.timeout != -1 and not (is_number(self.timeout) and self.timeout > 0):
            raise ValueError(
                f"condition on {self.pv}: the timeout must be a number of seconds, or -1, not {self.timeout!r}"
            )

    def holds(self, reading: Reading) -> bool:
        """Whether a reading fulfils it."""
        if self.equals is not None:
            return reading.equals(self.equals)
        return isinstance(reading.value, int | float) and reading.value in Limits(self.at_least, self.at_most)

    def __str__(self) -> str:
        wanted = [f"= {self.equals!r}"] if self.equals is not None else []
        wanted += [f">= {self.at_least:g}"] if self.at_least is not None else []
        wanted += [f"<= {self.at_most:g}"] if self.at_most is not None else []
        text = f"{self.pv} {' and '.join(wanted)}"
        return f"{self.reason} ({text})" if self.reason else text


def all_hold(conditions: Iterable[Condition], readings: Mapping[str, Reading]) -> bool:
    """Whether every condition holds, by the reading of its PV."""
    return all(condition.holds(readings[condition.pv]) for condition in conditions)


def wait_for(reader: Reader, conditions: Sequence[Condition], deadline: Deadline | None = None) -> None:
    """Wait until all conditions hold at the same time, each at most for its own timeout. Driven by updates.

    A PV that does not answer is waited for like one whose condition does not hold.

    :raises ConditionNotMet: (a TimeoutError) naming the first that does not in its time, its reason and the PV's value.
    :raises CallCancelled: when the deadline is cancelled.
    """
    deadline = deadline or Deadline()
    due = {condition: deadline.child(condition.timeout) for condition in conditions}
    pvs = list(dict.fromkeys(condition.pv for condition in conditions))

    def hold(values: Mapping[str, Any]) -> bool:
        return all_hold(conditions, {pv: value.reading for pv, value in values.items()})

    while due:
        updates = reader.updates(pvs, deadline.child(reader.settings.timeout))
        unmet = [condition for condition in conditions if not _holds(condition, updates[condition.pv])]
        if not unmet:
            return
        for condition in unmet:
            if due[condition].expired:
                deadline.check("waiting")
                update = updates[condition.pv]
                seen = update.message if isinstance(update, PvError) else f"it reads {_shown(update)}"
                raise ConditionNotMet(f"waited {due[condition].seconds:g} s for {condition}: {seen}")
        soonest = min((due[condition] for condition in unmet), key=lambda each: each.expires)
        if any(isinstance(update, PvError) for update in updates.values()):
            futures.sleep(_LOOK, soonest)
            continue
        with contextlib.suppress(ConditionNotMet, ReadError):
            wait_until(reader, hold, pvs, False, soonest)
            return


def _holds(condition: Condition, update: Reading | PvError) -> bool:
    return isinstance(update, Reading) and condition.holds(update)


def _shown(reading: Reading) -> str:
    return repr(reading.label if reading.label is not None else reading.plain)
