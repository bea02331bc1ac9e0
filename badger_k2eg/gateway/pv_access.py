"""Access of a gateway to PVs: addresses of URIs, updates, and errors in K2EG's codes."""

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

# alarm.status of the Normative Types: the fault is on the client's side.
_CLIENT_STATUS = 7


def address_of(uri: PvUri) -> PvAddress:
    """Return the address of a URI's PV."""
    return PvAddress.parse(f"{uri.scheme}://{uri.name}")


def stale(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a last known value marked as disconnected."""
    alarm = {"severity": 3, "status": _CLIENT_STATUS, "message": "disconnected"}
    return {**tree, "alarm": {**tree.get("alarm", {}), **alarm}}


def watch(reader: Reader, uris: Mapping[str, PvUri], tell: Callable[[str, Update], None]) -> list[Subscription]:
    """Subscribe to PVs.

    :param uris: URIs by name.
    :param tell: called with a PV's name and its present state, at once if that is known, and then with every update.
    """

    def follow(name: str, uri: PvUri) -> Subscription:
        return reader.monitor(address_of(uri), lambda update: tell(name, update))

    return [follow(name, uri) for name, uri in uris.items()]


def failure(error: PvError) -> tuple[int, str]:
    """Return the error code and message of the reply for a PV that cannot be reached."""
    return (-3, TIMED_OUT) if isinstance(error, PvTimeout) else (-2, error.message)
