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
        if result.outcome is Outcome.APPLIED:
            self.ours = (result.asked,)
        elif result.outcome is Outcome.UNKNOWN:
            # It may hold the one or the other; what is read back is ours as well.
            before = self.ours or (self.before.value,)
            seen = () if result.readback is None else (result.readback.value,)
            self.ours = (result.asked, *seen, *before[:1])
