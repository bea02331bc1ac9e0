"""``wait_for_beam``: waits until every condition holds, and has held for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..control import Control
from ..core.deadline import FOREVER, Deadline, in_seconds
from ..core.errors import ConditionNotMet
from ..core.futures import Time
from ..core.model import Reading
from ..tuning import Condition
from ..tuning.conditions import all_hold
from .progress import progress


def wait_for_beam(
    control: Control, conditions: Sequence[Condition], *, stable: Time = 0.0, timeout: Time = 600.0
) -> dict[str, Reading]:
    """Wait until all conditions hold at the same time. Driven by updates; ignores the conditions' own timeouts.

    :param stable: how long they must hold without interruption, seconds or a Quantity.
    :param timeout: the limit for all of it; -1 is for ever.
    :returns: the readings by which they held.
    :raises ReadError: when a PV does not answer at all.
    :raises ConditionNotMet: (a TimeoutError) with what the PVs read last.
    """
    pvs = list(dict.fromkeys(condition.pv for condition in conditions))
    seconds, hold = in_seconds(timeout), in_seconds(stable)
    deadline = Deadline(seconds)

    def beam(values: Mapping[str, Any]) -> bool:
        return all_hold(conditions, {pv: value.reading for pv, value in values.items()})

    tries = 0
    while True:
        left = FOREVER if seconds == FOREVER else deadline.remaining()
        readings: dict[str, Reading] = control.wait_until(beam, pvs, left)
        if not hold:
            return readings
        try:
            control.wait_while(beam, pvs, hold if left == FOREVER else min(hold, left))
        except ConditionNotMet:
            if left != FOREVER and left < hold:
                raise
            return readings
        tries += 1
        progress(tries, None, "the beam was there, and is lost again")
