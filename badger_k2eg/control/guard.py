"""What can be found out about the setpoints of a call before anything is sent. Part of ``control``.

What they are called, whether they answer, their units, types, sizes and limits, and the way of a ramp. The decisions
themselves are pure functions, in ``put_rules``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core import clock
from ..core.backend import Update
from ..core.conversion import Refusal
from ..core.deadline import Deadline
from ..core.errors import PvError, PvNameError, PvTimeout
from ..core.model import PvAddress, Reading, plain
from ..core.settings import Settings
from ..core.units import is_quantity
from .capacity import Capacities
from .put_rules import check_setpoint, path_to
from .reader import Reader
from .record_names import RecordNames
from .setpoint import Setpoint, twice
from .validators import adapt

#: Why setpoints are refused.
Blocked = dict[Setpoint, str]

#: Seconds for which a read is as good as a new one.
_FRESH = 0.2


class Guard:
    """Looks at the setpoints of one call.

    :param names: what is known of the records' own names.
    :param capacities: what is known of their sizes.
    :param tolerance_of: tells how far from the value asked a setpoint may rest.
    :param deadline: of the call.
    :param settings: of the call.
    """

    def __init__(
        self,
        reader: Reader,
        names: RecordNames,
        capacities: Capacities,
        tolerance_of: Callable[[PvAddress], float],
        deadline: Deadline,
        settings: Settings,
    ) -> None:
        """Look at nothing yet."""
        self._reader = reader
        self._names = names
        self._capacities = capacities
        self._tolerance_of = tolerance_of
        self._deadline = deadline
        self._settings = settings
        #: Those that have not answered, and are not known to be bad for another reason.
        self.silent: set[Setpoint] = set()
        #: Whether a PV of the call is known not to answer: nothing is sent then, and nothing more is waited for.
        self.is_dead = False
        #: What the setpoints were just read to hold, if so; by their addresses.
        self.read: Mapping[PvAddress, Update] = {}
        self._read_at = clock.monotonic()

    def setpoints(self, values: Mapping[str, Any], validators: Mapping[str, Any]) -> tuple[list[Setpoint], Blocked]:
        """Make the setpoints of a call from what was asked; nothing is read for it."""
        setpoints, blocked = [], {}
        for key, value in values.items():
            try:
                address, reason = PvAddress.parse(key), None
            except PvNameError as error:
                address, reason = PvAddress(str(key), ""), error.message
            # What was asked stays of builtin types; a quantity becomes one in the PV's unit, once that is known.
            asked = str(value.quantity) if isinstance(value, Reading) and value.units else plain(value)
            setpoint = Setpoint(key, str(value) if is_quantity(value) else asked, address, value=value)
            setpoint.tolerance = self._tolerance_of(address)
            setpoints.append(setpoint)
            try:
                if (validator := validators.get(key)) is not None:
                    setpoint.validator = adapt(validator)
            except ValueError as error:
                reason = reason or str(error)
            if reason is not None:
                blocked[setpoint] = reason
        return setpoints, twice(setpoints) | blocked

    def learn_names(self, setpoints: Sequence[Setpoint], *, is_gated: bool) -> Blocked:
        """Find out which PVs are called by an alias, where anything depends on that.

        :param is_gated: whether somebody else decides, by the names, on who may write.
        """
        if is_gated or len(setpoints) > 1 or self._settings.depend_on_names:
            addresses = self._known(setpoints)
            began = clock.monotonic()
            read = self._names.learn(self._reader.backend, addresses, self._deadline, self._settings.timeout)
            if read is not None:
                self.read, self._read_at = read, began
                self.is_dead = any(isinstance(update, PvError) for update in read.values())
            if not self.is_dead:
                self._known(setpoints)
        return twice(setpoints)

    def _known(self, setpoints: Sequence[Setpoint]) -> list[PvAddress]:
        """Give the setpoints what is known of their names; return their addresses."""
        for setpoint in setpoints:
            setpoint.address = self._names.known(setpoint.address)
            setpoint.tolerance = self._tolerance_of(setpoint.address)
        return [setpoint.address for setpoint in setpoints]

    def look(self, setpoints: Sequence[Setpoint], denied: Mapping[PvAddress, str], *, is_gated: bool) -> Blocked:
        """Read every setpoint of the call, and judge it.

        :param denied: those that may not be set, and why.
        :param is_gated: whether the right to write was waited for, so that what was read before it does not count.
        """
        blocked = {s: denied[s.address] for s in setpoints if s.address in denied}
        patience = self._deadline.child(self._settings.timeout)
        for setpoint, update in self._updates(setpoints, patience, is_gated).items():
            if isinstance(update, PvError):
                if setpoint not in blocked and isinstance(update, PvTimeout):
                    self.silent.add(setpoint)
                blocked.setdefault(setpoint, update.message)
                continue
            setpoint.before = update
            try:
                setpoint.settle_unit(update)
            except ValueError as refusal:
                blocked.setdefault(setpoint, str(refusal))
        readable = {s: s.before for s in setpoints if s.before is not None and s not in blocked}
        wanted = {s.address: (s.value, before) for s, before in readable.items()}
        limits = {} if self.is_dead else self._capacities.find(self._reader.backend, wanted, patience)
        for setpoint, before in readable.items():
            if setpoint.address in limits:
                before = replace(before, type=replace(before.type, max_length=limits[setpoint.address]))
            try:
                setpoint.value = check_setpoint(setpoint.address, setpoint.value, before, self._settings)
                setpoint.path = path_to(setpoint.value, before, self._settings.step_of(setpoint.address))
            except Refusal as refusal:
                blocked[setpoint] = str(refusal)
        return blocked

    def _updates(self, setpoints: Sequence[Setpoint], patience: Deadline, is_gated: bool) -> Mapping[Setpoint, Update]:
        # An address may have learnt its record's own name since.
        read = {address.text: update for address, update in self.read.items()}
        is_fresh = not is_gated and clock.monotonic() - self._read_at < _FRESH
        if self.is_dead or (is_fresh and all(s.key in read for s in setpoints)):
            return {s: read[s.key] for s in setpoints}
        updates = self._reader.fetch([setpoint.address for setpoint in setpoints], patience)
        return {setpoint: updates[setpoint.address] for setpoint in setpoints}
