"""``Moved``: one PV that a run has set; where it was before, and what it may hold by the run's own doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..control import Control
from ..model import Outcome, PutResult, Reading


@dataclass(slots=True)
class Moved:
    """One PV.

    :ivar before: its reading before the run set it for the first time.
    :ivar ours: what it may hold by our doing; empty as long as nothing was sent.
    :ivar validator: the last one that was used for it.
    """

    pv: str
    control: Control
    before: Reading
    ours: tuple[Any, ...] = ()
    validator: Any = None

    def wrote(self, result: PutResult) -> None:
        """Take in what became of a put."""
        if not result.attempts:
            return
        # What is read back is ours as well: a record that quantises, or one that wrote over what was put.
        seen = () if result.readback is None else (result.readback.value,)
        if result.outcome is Outcome.APPLIED:
            self.ours = (result.asked, *seen)
        elif result.outcome in (Outcome.UNKNOWN, Outcome.REFUSED):
            # It may hold the one or the other; a server may say no, and have written all the same.
            before = self.ours or (self.before.value,)
            self.ours = (result.asked, *seen, *before[:1])
