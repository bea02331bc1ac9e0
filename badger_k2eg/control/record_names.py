"""What records call themselves: an alias reaches the same record, and must not pass what is said of its own name.

``X.NAME`` tells a record's own name (epics-base, dbCommon), also through an alias. Asked once for each PV, before the
first put to it, and kept. It is asked with ``$``, as a long text: over Channel Access a plain one ends after 39 bytes.
What serves no fields (a p4p server) never answers; where nothing is known, the PV is what it was called.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..core import clock
from ..core.backend import Backend, Update, has_fields
from ..core.deadline import Deadline
from ..core.errors import PvError
from ..core.model import Kind, PvAddress, Reading
from ..core.pv_names import joined, record_and_field

# Seconds once the PV itself has answered: an IOC takes milliseconds, and one lost packet of a search is made up for.
_PATIENCE = 1.0
# Seconds before a silent one is asked again: it may have been a busy IOC, not a server without fields.
_ASK_AGAIN = 60.0


class RecordNames:
    """The names of records found out so far, for as long as an interface lives."""

    def __init__(self) -> None:
        """Know nothing yet."""
        # By scheme and record as it was written; None where there is no other name.
        self._known: dict[tuple[str | None, str], str | None] = {}
        # When those may be asked again that did not answer.
        self._silent: dict[tuple[str | None, str], float] = {}

    def known(self, address: PvAddress) -> PvAddress:
        """Return the address together with the record's own name, as far as that is known."""
        record, field = record_and_field(address.name)
        own = self._known.get((address.scheme, record))
        return replace(address, real=joined(own, field)) if own is not None else address

    def learn(
        self, backend: Backend, addresses: Collection[PvAddress], deadline: Deadline, timeout: float
    ) -> Mapping[PvAddress, Update] | None:
        """Ask for the names of the PVs of which nothing is known yet.

        :param timeout: seconds for the PVs themselves to answer.
        :returns: what all PVs read, where they were read for it. Where one of them does not answer nothing was learnt,
            and there is no need to wait for it again.
        """
        now = clock.monotonic()
        ask = [
            a
            for a in addresses
            if _record(a) not in self._known and self._silent.get(_record(a), now) <= now and has_fields(backend, a)
        ]
        if not ask:
            return None
        updates = backend.get_many(list(addresses), deadline.child(timeout))
        if any(isinstance(update, PvError) for update in updates.values()):
            return updates
        records = [_record(a) for a in ask if _may_be_of_record(updates[a])]
        # A call that has little time keeps a part of it for its puts; then nothing is taken for silent either.
        part = min(_PATIENCE, deadline.remaining() / 2)
        told = self._ask(backend, records, deadline.child(part))
        other = {at: (at[0], name) for at, name in told.items() if name != at[1]}
        # A gateway may show records of several networks, with names of its own: only what can be reached by the
        # record's name is the same PV here.
        confirmed = self._ask(backend, list(other.values()), deadline.child(part))
        for at in dict.fromkeys(map(_record, ask)):
            if at in other and confirmed.get(other[at]) == other[at][1]:
                self._known[at] = other[at][1]
            elif at not in records or (at in told and at not in other) or (at in other and other[at] in confirmed):
                self._known[at] = None
            elif part == _PATIENCE and not deadline.expired:
                self._silent[at] = clock.monotonic() + _ASK_AGAIN
        return updates

    def _ask(
        self, backend: Backend, records: Sequence[tuple[str | None, str]], deadline: Deadline
    ) -> dict[tuple[str | None, str], str]:
        asked = {
            PvAddress(_uri(scheme, f"{record}.NAME$"), f"{record}.NAME$", scheme): (scheme, record)
            for scheme, record in records
        }
        updates = backend.get_many(list(asked), deadline) if asked else {}
        return {at: name for address, at in asked.items() if (name := _text(updates[address]))}


def _record(address: PvAddress) -> tuple[str | None, str]:
    return address.scheme, record_and_field(address.name)[0]


def _may_be_of_record(update: Update) -> bool:
    """Return whether an update may come from a record: an IOC sends every number with its display information."""
    if not isinstance(update, Reading) or update.type.kind in (Kind.TABLE, Kind.OTHER):
        return False
    return update.type.kind not in (Kind.FLOAT, Kind.INT) or "display" in update.tree


def _uri(scheme: str | None, name: str) -> str:
    return f"{scheme}://{name}" if scheme else name


def _text(update: Update) -> str | None:
    """Return the value of a long text, which is an array of bytes over PVAccess; None for anything else."""
    if not isinstance(update, Reading):
        return None
    value = update.value
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.itemsize == 1:
        return bytes(value.astype("u1")).split(b"\0")[0].decode(errors="replace")
    return value if isinstance(value, str) else None
