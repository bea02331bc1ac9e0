"""Channel Access, through caproto (extra ``ca``): pure Python, and it knows access rights.

Owns the backend for ``ca://``. Imports no other backend; of its modules ``client`` and ``circuit`` import caproto::

    operations   what threads hand to one another: operations and subscriptions
    client       channels and searches, and the thread "ca client", which alone touches caproto's state
    circuit      the connection to one server: how gets, puts and subscriptions are spoken
    dbr          wire <-> Reading: pure decisions on what an answer means and how a value is sent

The calling thread waits on the queue of its batch until one absolute deadline, and decodes the values. Callbacks of
monitors run in the thread "ca monitors". A fork ends the client with its sockets; the next use makes a new one.

**Puts** (measured on EPICS 7). A plain put is a CA write followed by a read of one element over the same circuit. An
IOC serves a circuit in order: when the read is answered without an error to the write, the IOC has taken the value.
That is APPLIED, even while a slow record is still processing; it is REFUSED when access security, DISP or the record's
own validation answers with an error. A put in ``wait`` is a write notify, and APPLIED when the record has finished.
Notify does not suit every put: it reports "normal" for a value that the record's own validation refused (as PVAccess
does with ``record[block=true]``), and a second one to a busy record blocks its whole circuit, reads included; so a
second one is held back here until the first is answered. A CA gateway does not pass on the IOC's answer to a plain
write, and IOCs written with caproto answer one out of order: name their PVs in ``wait``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...core.backend import Update
from ...core.errors import MissingExtra
from ...core.model import PvAddress
from ..in_flight import Batch, BatchBackend
from .dbr import update
from .operations import CaOperation, CaSubscription

if TYPE_CHECKING:
    from .client import Client


def open_backend() -> CaBackend:
    """Return a backend for ``ca://``; it opens nothing yet.

    :raises MissingExtra: when caproto is not installed.
    """
    try:
        from . import client  # noqa: F401
    except ImportError:
        raise MissingExtra("ca:// addresses", "ca") from None
    return CaBackend()


class CaBackend(BatchBackend[CaOperation, CaSubscription]):
    """PVs over Channel Access, with one client for the whole process, open from the first use on.

    Addresses come from the process environment (``EPICS_CA_ADDR_LIST`` and its kin), as every EPICS user expects. The
    units, limits and labels of a monitor are those of the time of connection, or of the last read of its PV.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        super().__init__("ca")

    def _begin(self) -> None:
        super()._begin()
        self._client: Client | None = None

    def _open(self) -> Client:
        if self._client is None:
            from .client import Client

            self._client = Client()
        return self._client

    def _operation(self, batch: Batch[CaOperation], address: PvAddress, value: Any) -> CaOperation:
        return CaOperation(batch, address, value)

    def _decode(self, operation: CaOperation, answer: Any) -> Update:
        return update(operation.address, answer)

    def _start(self, operations: Sequence[CaOperation]) -> None:
        client = self._open()
        client.call(functools.partial(client.want, operations))

    def _subscription(self, address: PvAddress, callback: Callable[[Update], None], depth: int) -> CaSubscription:
        return CaSubscription(self._dispatcher, address, callback, depth, self._unsubscribe)

    def _subscribe(self, subscription: CaSubscription) -> None:
        client = self._open()
        client.call(functools.partial(client.watch, subscription))

    def _unsubscribe(self, subscription: CaSubscription) -> None:
        with self._lock:
            self._subscriptions.discard(subscription)
            if (client := self._client) is not None:
                client.call(functools.partial(client.unwatch, subscription))

    def _detach(self) -> Callable[[], None]:
        client, self._client = self._client, None
        return client.close if client is not None else lambda: None

    def _suspend(self) -> None:
        # A child must not share its parent's connections.
        self._detach()()
