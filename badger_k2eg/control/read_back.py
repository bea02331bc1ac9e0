"""``ReadBack``: what a setpoint really holds after its put, read in one batch for all.

An answer says what the server believes. A record in a closed loop, one that a link writes back to, a limit that was
lowered, a second client, a restart: "done" is true of the put and not of the value. And an output that fails after the
record took the value answers "no". So nothing counts as APPLIED, or as REFUSED, before it was looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from ..core import futures
from ..core.backend import Update
from ..core.deadline import FOREVER, Deadline
from ..core.errors import PutMismatch, PutUnknown
from ..core.model import Fields, PvAddress, Reading, plain
from ..core.settings import Settings
from .put_rules import can_prove, same, unchanged
from .reader import Reader
from .setpoint import Event, Setpoint, State

# An answer of "done" may come a moment before the new value is posted: looked at for about a second.
_LOOKS = 11
_LOOK_AGAIN = 0.1


class ReadBack:
    """Looks at the setpoints of one call.

    :param deadline: of the call.
    :param settings: of the call.
    """

    def __init__(self, reader: Reader, deadline: Deadline, settings: Settings) -> None:
        """Look at nothing yet."""
        self._reader = reader
        self._deadline = deadline
        self._settings = settings

    def look(
        self,
        setpoints: Iterable[Setpoint],
        later: Collection[Setpoint] = (),
        read: Mapping[PvAddress, Update] = MappingProxyType({}),
    ) -> None:
        """Read the setpoints that were answered, and end each by what it holds.

        :param later: those that will be looked at once more: what they do not hold yet decides nothing.
        :param read: what they were just read to hold; without those, they are read here.
        :raises CallCancelled: when the call is cancelled meanwhile.
        """
        left = [setpoint for setpoint in setpoints if self._is_open(setpoint)]
        seen: dict[Setpoint, Reading] = {}
        why = dict.fromkeys(left, "")
        # One PV that is dead by now must not cost its timeout at each look.
        seconds = self._settings.timeout
        patience = self._deadline.child(seconds if seconds == FOREVER else seconds + _LOOKS * _LOOK_AGAIN)
        for number in range(_LOOKS):
            if not left or (number and patience.expired):
                break
            if number:
                futures.sleep(_LOOK_AGAIN, self._deadline)
            addresses = [setpoint.address for setpoint in left]
            updates = read if not number and read else self._reader.fetch(addresses, patience)
            for setpoint in left:
                if isinstance(update := updates[setpoint.address], Reading):
                    seen[setpoint] = setpoint.readback = update
                else:
                    why[setpoint] = update.message
            left = [s for s in left if not _settles(s, updates[s.address]) and s not in later]
        for setpoint in left:
            _fail(setpoint, seen.get(setpoint), why[setpoint])

    def _is_open(self, setpoint: Setpoint) -> bool:
        if setpoint.before is None or not can_prove(setpoint.address, setpoint.value, setpoint.before, self._settings):
            return False
        if setpoint.state is State.APPLIED:
            # When the time of the call is over nothing can be read, and what was seen before stands.
            return not self._deadline.expired
        return setpoint.state is State.DONE or (setpoint.state is State.DENIED and not setpoint.doubt)


def _settles(setpoint: Setpoint, update: Update) -> bool:
    """Take what was read; return whether that is the last word."""
    if not isinstance(update, Reading):
        return False
    if setpoint.state is State.DENIED:
        if _is_untouched(setpoint, update):
            setpoint.on(Event.READS_OLD)
        else:
            words = f"{setpoint.message}; and yet it holds {plain(update.value)!r} now"
            setpoint.on(Event.READS_OTHER, words, PutUnknown)
        return True
    if setpoint.holds(update):
        setpoint.on(Event.READS_ASKED)
        return True
    return False


def _is_untouched(setpoint: Setpoint, now: Reading) -> bool:
    if setpoint.stood is not None:
        return same(now, setpoint.stood)
    return unchanged(setpoint.before, now, setpoint.value if isinstance(setpoint.value, Fields) else None)


def _fail(setpoint: Setpoint, seen: Reading | None, why: str) -> None:
    """End what no look has settled."""
    if seen is not None:
        message = f"answered as done, but it reads {plain(seen.value)!r}: clipped, dropped or written over"
        if setpoint.arrival_error is not None:
            message += f"; {setpoint.message}"
        setpoint.on(Event.READS_OTHER, message, PutMismatch)
    elif setpoint.state is State.DENIED:
        setpoint.on(Event.UNCLEAR, f"{setpoint.message}, and it cannot be read back: {why}", PutUnknown)
    elif setpoint.arrival_error is not None:
        # What went wrong with it before is why: a server that has gone away, say.
        setpoint.on(Event.UNCLEAR, f"{setpoint.message}; and it cannot be read back: {why}")
    else:
        setpoint.on(Event.UNCLEAR, f"answered as done, but it cannot be read back: {why}", PutUnknown)
