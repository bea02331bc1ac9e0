"""Puts of a gateway, through ``Control``, the only write path, and its guard.

Puts that slaclab/k2eg executes wrongly without an error are executed correctly or refused: an enum takes its index or
label, a number does not empty an array, nothing is rounded or truncated, and a field of a record is not the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..control import Control
from ..core.conversion import Refusal
from ..core.deadline import Deadline
from ..core.errors import CallCancelled, ControlError, PutTimeout, PvError, SetError
from ..core.model import Fields, Kind, PvAddress, Reading
from ..k2eg.codec import BadPutValue, Put, Reply, decode_put_value, parse_uri
from .pv_access import MALFORMED, TIMED_OUT, TIMEOUT, address_of, failure

_NOTHING_KNOWN = "No fields to update in the provided Msgpack object"


def put(control: Control, command: Put) -> Reply:
    """Write a PV and return the reply."""
    payload = decode_put_value(command.value)
    if isinstance(payload, BadPutValue):
        return Reply(command.reply_id, payload.error, payload.message)
    uri = parse_uri(command.pv_name)
    if uri is None:
        return Reply(command.reply_id, -4, MALFORMED)
    if uri.field is not None:
        return Reply(command.reply_id, -2, f"fields cannot be written: .{uri.field} is not put to {uri.name}")
    return Reply(command.reply_id, *_put(control, address_of(uri), payload))


def _put(control: Control, address: PvAddress, payload: Mapping[str, Any]) -> tuple[int, str]:
    deadline = Deadline(TIMEOUT)
    if control.settings.read_only:
        return -2, "this gateway is read-only: nothing is written"
    if not control.settings.allows(address):
        return -2, f"this gateway may not write {address.own_name}"
    try:
        before = control.backend.get_many([address], deadline)[address]
        if isinstance(before, PvError):
            return failure(before)
        control.set({address.text: _setpoint(payload, before)}, deadline=deadline)
    except Refusal as refusal:
        return -2, str(refusal)
    except PutTimeout:
        return -3, TIMED_OUT
    except CallCancelled:
        return -2, "Put operation has been cancelled"
    except SetError as error:
        words = error.report.results[0].message if error.report and error.report.results else str(error)
        # A refusal of the server in its own words.
        return -2, words.removeprefix("refused: ")
    except ControlError as error:
        return -2, str(error)
    return 0, "Successfull operation"


def _setpoint(payload: Mapping[str, Any], before: Reading) -> Any:
    """Return the value that Control is to set from the fields of a put; unknown fields are ignored, as in K2EG.

    :raises Refusal: when there is none.
    """
    known = {name: item for name, item in payload.items() if name in before.tree}
    if not known:
        raise Refusal(_NOTHING_KNOWN)
    if before.type.kind is Kind.OTHER:
        return Fields(known)
    if set(known) != {"value"}:
        others = ", ".join(sorted(set(known) - {"value"}))
        raise Refusal(f"of this PV value alone can be written, not {others}: nothing was written")
    value = known["value"]
    if before.type.kind is not Kind.ENUM or not isinstance(value, Mapping):
        return value
    if "index" not in value:
        raise Refusal(_NOTHING_KNOWN)
    return value["index"]
