"""How long a text or an array may be: what PVAccess does not tell, asked of the record's own fields.

A record cuts what is too long without a word. ``X.RTYP`` tells the record's type (epics-base, dbCommon), ``X.NELM``
the length of an array record, ``X.SIZV`` that of a long string (lsiRecord, lsoRecord; its last byte is a NUL); other
string fields hold 40 bytes with the NUL (dbDefs.h, MAX_STRING_SIZE). A PV that is not a record has no such fields:
nothing is known of it then, and a read-back after the put tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.backend import Backend
from ..core.conversion import RECORD_STRING
from ..core.deadline import Deadline
from ..core.model import Kind, PvAddress, Reading
from ..core.pv_names import record_and_field

# A server that has the field answers at once; one that is not an IOC never does.
_PATIENCE = 1.0


class Capacities:
    """The capacities of PVs found out so far, for as long as an interface lives."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._known: dict[str, int | None] = {}

    def find(
        self, backend: Backend, wanted: Mapping[PvAddress, tuple[Any, Reading]], deadline: Deadline
    ) -> dict[PvAddress, int]:
        """Return the capacity of those PVs whose value may be too long for it, as far as it is known.

        :param wanted: the value to set, and the present reading.
        """
        doubtful = {a: _doubt(value, reading) for a, (value, reading) in wanted.items()}
        ask = [a for a, doubt in doubtful.items() if doubt and a.name not in self._known and _record_of(a) is not None]
        if ask:
            self._known.update(_ask(backend, {a: wanted[a] for a in ask}, deadline))
        return {a: limit for a, doubt in doubtful.items() if doubt and (limit := self._known.get(a.name)) is not None}


def _doubt(value: Any, reading: Reading) -> bool:
    """Return whether the value may be too long: a text beyond 39 bytes, an array longer than the present one."""
    if reading.type.max_length is not None:
        return False  # the way that the reading came by has told
    if reading.type.kind is Kind.STRING and not reading.type.array:
        return _long(value)
    if reading.type.array and hasattr(value, "__len__") and not isinstance(value, str):
        return len(value) > len(reading.value) or (reading.type.kind is Kind.STRING and any(map(_long, value)))
    return False


def _long(text: object) -> bool:
    # What cannot be encoded is refused later, by the guard.
    return isinstance(text, str) and len(text.encode(errors="replace")) > RECORD_STRING


def _record_of(address: PvAddress) -> str | None:
    """Return the record whose VAL field the PV is; None for another field."""
    record, field = record_and_field(address.name)
    return None if field else record


def _ask(
    backend: Backend, wanted: Mapping[PvAddress, tuple[Any, Reading]], deadline: Deadline
) -> dict[str, int | None]:
    addresses = list(wanted)
    types = _fields(backend, dict.fromkeys(addresses, "RTYP"), deadline)
    sizes = _fields(backend, {a: field for a in addresses if (field := _size_field(types.get(a)))}, deadline)
    found: dict[str, int | None] = {}
    for address, (_, reading) in wanted.items():
        record_type, size = types.get(address), sizes.get(address)
        if record_type is None:
            found[address.name] = None
        elif _size_field(record_type) is None:
            found[address.name] = RECORD_STRING
        else:
            # A text in a record of characters ends with a NUL.
            is_text = reading.type.kind is Kind.STRING and not reading.type.array
            found[address.name] = size - 1 if is_text and size is not None else size
    return found


def _size_field(record_type: object) -> str | None:
    if record_type in ("waveform", "aai", "aao", "subArray"):
        return "NELM"
    return "SIZV" if record_type in ("lsi", "lso") else None


def _fields(backend: Backend, fields: Mapping[PvAddress, str], deadline: Deadline) -> dict[PvAddress, Any]:
    asked = {
        PvAddress.parse(f"{address.scheme + '://' if address.scheme else ''}{_record_of(address)}.{field}"): address
        for address, field in fields.items()
    }
    if not asked:
        return {}
    updates = backend.get_many(list(asked), deadline.child(_PATIENCE))
    return {asked[a]: update.value for a, update in updates.items() if isinstance(update, Reading)}
