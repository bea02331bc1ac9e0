"""PVs through a K2EG gateway: the backend over ``badger_k2eg.k2eg``.

Owns the translation between addresses and URIs, trees and readings, and errors and the outcomes of puts. Imports the
client and normative_types; no other backend.

**Puts.** A put without an answer is UNKNOWN, also if the gateway itself gave up after its ten seconds: a gateway that
was down executes the commands that have queued up, and no command can be withdrawn. A put is NOT_SENT only if the
broker certainly does not have it. K2EG has no put completion: ``wait`` changes nothing here, and Control reads such a
PV back after its put.

**Monitors** may omit the last value of a burst: a gateway merges updates that come faster than it publishes. The client
asks again after a moment; until then a monitor alone proves nothing, so ``loses_updates`` makes Control read as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..core import fork
from ..core.backend import Subscription, Update
from ..core.deadline import Deadline
from ..core.errors import (
    ControlError,
    MessageTooLarge,
    OperationError,
    OperationTimeout,
    PvError,
    PvNameError,
    PvNotConnected,
    PvRefused,
)
from ..core.model import Kind, Outcome, PutAnswer, PvAddress, PvType, Reading
from ..k2eg.client import K2egClient
from ..k2eg.codec import check_uri
from ..k2eg.monitors import Event
from .normative_types import reading_from_tree

# A snapshot is taken only if its window and so many seconds more fit into the deadline.
_MARGIN = 1.0


class K2egBackend:
    """PVs of every scheme through the gateways of one environment.

    :param client: closed with the backend.
    """

    loses_updates = True

    def __init__(self, client: K2egClient) -> None:
        """Open nothing yet."""
        self.client = client
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Deadline] = set()

    @contextmanager
    def _call(self, deadline: Deadline) -> Iterator[Deadline]:
        """Return a deadline that also ends when this backend is closed."""
        call = deadline.child()
        # The caller's own number, for messages.
        call.seconds = deadline.seconds
        with self._lock:
            self._calls.add(call)
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    # -- reading and writing ----------------------------------------------------------------------------------------

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs at the same time. The values of one PV are of one instant, those of several are not.

        :raises CallCancelled: when the deadline is cancelled.
        """
        uris = {address: uri_of(address) for address in addresses}
        with self._call(deadline) as call:
            answers = self.client.get_many(list(dict.fromkeys(uris.values())), call)
            call.check("reading")
        return {address: self._update(address, answers[uri]) for address, uri in uris.items()}

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write PVs at the same time; the module docstring explains the outcomes and ``wait``."""
        with self._call(deadline) as call:
            answers = self.client.put_many({uri_of(address): value for address, value in values.items()}, call)
        return {address: _put_answer(answers[uri_of(address)]) for address in values}

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Take the values of one instant; the gateway always uses the whole window.

        Without a window, or without the time for one, this is ``get_many``.
        """
        uris = {address: uri_of(address) for address in addresses}
        named = {address: PvNameError(address.text, why) for address, uri in uris.items() if (why := _unfit(uri))}
        if window <= 0.0 or deadline.remaining() < window + _MARGIN or len(named) == len(uris):
            return self.get_many(addresses, deadline)
        good = list(dict.fromkeys(uri for address, uri in uris.items() if address not in named))
        with self._call(deadline) as call:
            try:
                taken = self.client.snapshot_sync(good, call, window=window)
            except ControlError as error:
                call.check("snapshot")
                return {address: named.get(address) or _read_error(address, error) for address in addresses}
        found: dict[str, Any] = {**taken.errors, **taken.values}
        return {a: named.get(a) or self._update(a, found[uris[a]]) for a in addresses}

    def _update(self, address: PvAddress, answer: Mapping[str, Any] | ControlError) -> Update:
        return _read_error(address, answer) if isinstance(answer, ControlError) else self._reading(address, answer)

    def _reading(self, address: PvAddress, tree: Mapping[str, Any]) -> Reading:
        known = self.client.types.known(address.read_name)
        return reading_from_tree(tree, known.type if known is not None else PvType(Kind.OTHER))

    # -- monitors -----------------------------------------------------------------------------------------------------

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Subscribe without waiting for a value; callbacks run in the one thread of this client's monitors."""

        def told(pv: str, event: Event) -> None:
            if isinstance(event, PvError):
                callback(type(event)(address.text, event.message))
            else:
                self.client.types.learn(pv, *event)
                callback(self._reading(address, event[0]))

        uri = uri_of(address)
        if why := _unfit(uri):
            callback(PvNameError(address.text, why))
            return _Nothing()
        return self.client.start_monitors([uri], told, wait="nothing", depth=queue)[0]

    # -- life ---------------------------------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Do nothing: Kafka handles survive a fork in the parent, and a child makes its own."""

    def close(self) -> None:
        """End calls in flight (gets fail, sent puts are UNKNOWN), monitors and the connection."""
        fork.unregister(self)
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel("the interface was closed")
        self.client.close()

    def before_fork(self) -> None:
        """Do nothing: the client looks after itself."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: the calls are still in flight."""

    def after_fork_in_child(self) -> None:
        """Start over: the calls are the parent's."""
        self._begin()


class _Nothing:
    """The subscription to a PV that K2EG does not support."""

    def close(self) -> None:
        """Do nothing."""


def uri_of(address: PvAddress) -> str:
    """Return the URI of a PV; a bare name means PVAccess, and ``X.VAL`` is the same PV as ``X``."""
    return f"{address.scheme or 'pva'}://{address.read_name}"


def _unfit(uri: str) -> str | None:
    """Return why K2EG does not support a PV; None if it does."""
    try:
        check_uri(uri)
    except PvNameError as error:
        return error.message
    return None


def _read_error(address: PvAddress, error: ControlError) -> PvError:
    if isinstance(error, PvError):
        return type(error)(address.text, error.message)
    if isinstance(error, OperationError):
        return PvRefused(address.text, error.message or str(error))
    # Without the command in words: the PV is named already.
    return PvNotConnected(address.text, error.message if isinstance(error, OperationTimeout) else str(error))


def _put_answer(error: ControlError | None) -> PutAnswer:
    if error is None:
        return PutAnswer(Outcome.APPLIED)
    if isinstance(error, OperationTimeout):
        words = str(error)
        if error.sent:
            return PutAnswer(Outcome.UNKNOWN, f"{words}; it was sent and may have happened, or may still happen")
        return PutAnswer(Outcome.NOT_SENT, words)
    if isinstance(error, PvError):
        return PutAnswer(Outcome.REFUSED, error.message)
    if isinstance(error, OperationError):
        return PutAnswer(Outcome.REFUSED, error.message or str(error))
    return PutAnswer(Outcome.REFUSED if isinstance(error, MessageTooLarge) else Outcome.NOT_SENT, str(error))
