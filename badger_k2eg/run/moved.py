"""``Moved``: one PV that a run has set; where it was before, and what it may hold by the run's own doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..control import Control
from ..core.model import Outcome, PutResult, Reading, plain


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
    #: What it held when it was last sure: before the run, or at the end of a set that was read back.
    _sure: tuple[Any, ...] | None = None

    def wrote(self, result: PutResult, *, is_last: bool) -> None:
        """Take in what became of a put.

        :param is_last: whether the call has ended; before that, an answer of "done" is not read back yet.
        """
        if not result.attempts:
            return
        sure = (self.before.value,) if self._sure is None else self._sure
        # What is read back is ours as well: a record that quantises, or one that wrote over what was put.
        seen = () if result.readback is None else (result.readback.value,)
        if result.outcome is Outcome.APPLIED and is_last:
            self.ours = self._sure = _distinct(result.asked, *seen)
        elif result.outcome is Outcome.APPLIED:
            self.ours = _distinct(result.asked, *seen, *sure)
        elif result.outcome in (Outcome.UNKNOWN, Outcome.REFUSED):
            # It may hold the one or the other; a server may say no, and have written all the same.
            self.ours = _distinct(result.asked, *seen, *(self.ours or sure))


def _distinct(*values: Any) -> tuple[Any, ...]:
    return tuple({repr(plain(value)): value for value in values}.values())
