"""What must hold on the machine for a run: to begin, and to go on. A set that finds otherwise writes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ..control import Control
from ..core.backend import Update
from ..core.model import PvAddress, Reading
from ..core.records import Level
from ..tuning import Condition
from .run import Run

__all__ = ["Condition", "Guards"]


@dataclass(frozen=True)
class Guards:
    """Conditions, looked at before a set; none is waited for.

    :ivar can_start: before the first set of a run.
    :ivar keep_running: before every set.
    """

    can_start: tuple[Condition, ...] = ()
    keep_running: tuple[Condition, ...] = ()

    def why_not(self, control: Control, run: Run) -> str | None:
        """Say which one does not hold; what cannot be read does not hold."""
        if run.is_closing:
            # What puts the machine back must not be kept from it.
            return None
        conditions = self.keep_running if run.moved else (*self.can_start, *self.keep_running)
        if not conditions:
            return None
        updates = control.updates([condition.pv for condition in conditions])
        for condition in conditions:
            update = updates[condition.pv]
            if (reason := _broken(condition, update)) is None:
                continue
            if not run.moved:
                return f"not begun: {reason}"
            run.recorder.event("guard", reason, level=Level.WARNING, pv=condition.pv)
            return f"paused: {reason}"
        return None

    @contextlib.contextmanager
    def watching(
        self, control: Control, run: Run, addresses: list[PvAddress], denied: dict[PvAddress, str]
    ) -> Iterator[None]:
        """Take the right to write back as soon as a condition does not hold any more, in the middle of a call too.

        :param denied: what the gate has given for the call.
        """

        def hear(condition: Condition, update: Update) -> None:
            if (reason := _broken(condition, control.judged(condition.pv, update))) is not None:
                denied.update(dict.fromkeys(addresses, f"paused: {reason}"))

        conditions = () if run.is_closing else self.keep_running
        with contextlib.ExitStack() as subscriptions:
            for condition in conditions:
                subscriptions.callback(control.monitor(condition.pv, partial(hear, condition)).close)
            yield


def _broken(condition: Condition, update: Update) -> str | None:
    """Say what is wrong, if something is."""
    if isinstance(update, Reading):
        return (
            None if condition.holds(update) else f"{condition} does not hold, it reads {update.label or update.plain!r}"
        )
    return f"{condition} does not hold, {update.message}"
