"""``ReadBack``: what a setpoint really holds after its put, read in one batch for all.

An answer says what the server believes. A record in a closed loop, one that a link writes back to, a limit that was
lowered, a second client, a restart: "done" is true of the put and not of the value. And an output that fails after the
record took the value answers "no". So nothing counts as APPLIED, or as REFUSED, before it was looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..core import futures
from ..core.backend import Backend, Update
from ..core.deadline import FOREVER, Deadline
from ..core.errors import PutMismatch, PutUnknown
from ..core.model import Fields, Outcome, Reading, plain
from ..core.settings import Settings
from .put_rules import can_prove, same, unchanged
from .setpoint import Setpoint

# An answer of "done" may come a moment before the new value is posted: looked at for about a second.
_LOOKS = 11
_LOOK_AGAIN = 0.1
_AS_ANSWERED = "as answered: a read-back cannot tell of it"


class ReadBack:
    """Looks at the setpoints of one call.

    :param deadline: of the call.
    :param settings: of the call.
    """

    def __init__(self, backend: Backend, deadline: Deadline, settings: Settings) -> None:
        """Look at nothing yet."""
        self._backend = backend
        self._deadline = deadline
        self._settings = settings

    def look(self, setpoints: Iterable[Setpoint], later: Collection[Setpoint] = ()) -> None:
        """Find out what those hold that were answered, and end each by what it holds.

        :param later: those that will be looked at once more: what they do not hold yet decides nothing.
        :raises CallCancelled: when the call is cancelled meanwhile; who was not read by then is UNKNOWN.
        """
        claims = [_Claim(s, is_final=s not in later) for s in setpoints if self._is_open(s)]
        for claim in claims:
            claim.doubt()
        # One PV that is dead by now must not cost its timeout at each look.
        seconds = self._settings.timeout
        patience = self._deadline.child(seconds if seconds == FOREVER else seconds + _LOOKS * _LOOK_AGAIN)
        for number in range(_LOOKS):
            if not claims or (number and patience.expired):
                break
            if number:
                futures.sleep(_LOOK_AGAIN, self._deadline)
            updates = self._backend.get_many([claim.setpoint.address for claim in claims], patience)
            claims = [claim for claim in claims if not claim.is_settled_by(updates[claim.setpoint.address])]
        for claim in claims:
            claim.fail()

    def interrupted(self, setpoints: Iterable[Setpoint]) -> None:
        """Take back, where the call ends before its time, what was answered and never seen."""
        for setpoint in setpoints:
            if setpoint.outcome is Outcome.APPLIED and not setpoint.proven and self._is_open(setpoint):
                _Claim(setpoint, is_final=True).doubt()

    def _is_open(self, setpoint: Setpoint) -> bool:
        if setpoint.before is None or setpoint.answered is None:
            return False
        if can_prove(setpoint.address, setpoint.value, setpoint.before, self._settings):
            # When the time of the call is over nothing can be read, and what was seen before stands.
            return not (setpoint.proven and self._deadline.expired)
        if setpoint.outcome is Outcome.APPLIED:
            setpoint.message = setpoint.message or _AS_ANSWERED
        return False


class _Claim:
    """What the server answered about one setpoint."""

    def __init__(self, setpoint: Setpoint, *, is_final: bool) -> None:
        self.setpoint = setpoint
        self._is_final = is_final
        self._is_refused = setpoint.answered is Outcome.REFUSED
        # A validator may have said something since.
        self._told = setpoint.said if setpoint.error is None or self._is_refused else setpoint.message
        self._seen: Reading | None = None
        self._why = ""

    def doubt(self) -> None:
        """Say what is true of it until it was read: what an interrupt leaves behind."""
        self.setpoint.outcome = Outcome.UNKNOWN
        self.setpoint.message = f"{self._answer}, and not read back yet"

    @property
    def _answer(self) -> str:
        return self.setpoint.said if self._is_refused else "answered as done"

    def is_settled_by(self, update: Update) -> bool:
        """Take what was read; say whether that was the last word on it, for now."""
        setpoint = self.setpoint
        if not isinstance(update, Reading):
            self._why = update.message
            return not self._is_final
        self._seen = setpoint.readback = update
        if self._is_refused:
            if self._is_untouched(update):
                setpoint.outcome, setpoint.message = Outcome.REFUSED, self._told
            else:
                words = f"{self._answer}; and yet it holds {plain(update.value)!r} now"
                setpoint.supersede(Outcome.UNKNOWN, words, PutUnknown)
            return True
        if setpoint.holds(update):
            setpoint.proven = True
            setpoint.outcome, setpoint.message = Outcome.APPLIED, self._told
            return True
        if not self._is_final:
            setpoint.message = f"answered as done, and it reads {plain(update.value)!r} so far"
        return not self._is_final

    def _is_untouched(self, now: Reading) -> bool:
        setpoint = self.setpoint
        if setpoint.stood is not None:
            return same(now, setpoint.stood)
        return unchanged(setpoint.before, now, setpoint.value if isinstance(setpoint.value, Fields) else None)

    def fail(self) -> None:
        """End what no look has settled."""
        if self._is_refused:
            self.setpoint.supersede(
                Outcome.UNKNOWN, f"{self._answer}, and it cannot be read back: {self._why}", PutUnknown
            )
            return
        if self._seen is None and self.setpoint.error is not None:
            # What went wrong with it before is why: a server that has gone away, say.
            self.setpoint.end(Outcome.UNKNOWN, f"{self._told}; and it cannot be read back: {self._why}")
            return
        if self._seen is None:
            message = f"answered as done, but it cannot be read back: {self._why}"
            self.setpoint.supersede(Outcome.UNKNOWN, message, PutUnknown)
            return
        message = f"answered as done, but it reads {plain(self._seen.value)!r}: clipped, dropped or written over"
        if self.setpoint.error is not None:
            message += f"; {self._told}"
        self.setpoint.supersede(Outcome.UNKNOWN, message, PutMismatch)
