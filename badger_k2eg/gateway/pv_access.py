"""How a gateway reaches PVs: addresses from URIs, updates, and what their failures are in K2EG's codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..control import Reader
from ..core.backend import Subscription, Update
from ..core.errors import PvError, PvTimeout
from ..core.model import PvAddress
from ..k2eg.codec import PvUri

#: Seconds after which the gateway gives up a get or a put.
TIMEOUT = 10.0
MALFORMED = "PV name malformed"
TIMED_OUT = "Timeout operation"

# alarm.status of the Normative Types: the fault is on the client's side of the record.
_CLIENT_STATUS = 7


def address_of(uri: PvUri) -> PvAddress:
    """Give the address under which a backend knows the PV of a URI."""
    return PvAddress.parse(f"{uri.scheme}://{uri.name}")


def stale(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Mark a last known value as out of date: its server is gone."""
    alarm = {"severity": 3, "status": _CLIENT_STATUS, "message": "disconnected"}
    return {**tree, "alarm": {**tree.get("alarm", {}), **alarm}}


def watch(reader: Reader, uris: Mapping[str, PvUri], tell: Callable[[str, Update], None]) -> list[Subscription]:
    """Follow PVs for as long as the subscriptions are open.

    :param uris: by name.
    :param tell: called with a PV's name and its present state, at once where that is known, and then every update.
    """

    def follow(name: str, uri: PvUri) -> Subscription:
        return reader.monitor(address_of(uri), lambda update: tell(name, update))

    return [follow(name, uri) for name, uri in uris.items()]


def failure(error: PvError) -> tuple[int, str]:
    """Give the code and the words of the reply for a PV that cannot be reached."""
    return (-3, TIMED_OUT) if isinstance(error, PvTimeout) else (-2, error.message)
