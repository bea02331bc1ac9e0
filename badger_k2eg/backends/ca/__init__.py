"""Channel Access, through caproto (extra ``ca``): pure Python, and it knows access rights.

Owns the backend for ``ca://``. Imports no other backend; of its rooms only ``client`` imports caproto::

    calls    what threads hand to one another: operations, the batches they belong to, subscriptions
    client   channels, circuits and sockets: the thread "ca client", which alone touches caproto's state
    values   wire <-> Reading: pure decisions on what an answer says and how a value is sent

The thread that asks waits on the queue of its batch until one absolute deadline, and decodes the values. Callbacks of
monitors run in the thread "ca monitors". The thread that forks ends the client with its sockets; the next use makes a
new one.

**Puts** [M, EPICS 7]. A plain put is a CA write and then a read of one element over the same circuit. An IOC serves a
circuit in order: once the read is answered without an error to the write before it, the IOC has taken the value. That
is APPLIED, also while a slow record is still processing; REFUSED is what access security, DISP and the record's own
validation answer with an error. A put in ``wait`` is a write notify, and APPLIED when the record has finished. Notify
does not serve for all: it says "normal" for what the record's own validation refused (as PVAccess does with
``record[block=true]``), and a second one to a busy record stops its whole circuit, reads too; so a second one is held
back here until the first is answered. A CA gateway says nothing of the IOC's answer to a plain write, and IOCs written
with caproto answer one out of order: name their PVs in ``wait``.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core import fork
from ...core.backend import Subscription, Update
from ...core.deadline import Deadline
from ...core.errors import MissingExtra
from ...core.model import PutAnswer, PvAddress
from ..in_flight import end_all, names_of, wait_for_puts
from .dbr import update
from .operations import Batch, CaSubscription, Operation, dispatch

if TYPE_CHECKING:
    from .client import Client

_LONGEST_WAIT = 3600.0


def open_backend() -> CaBackend:
    """Make the backend for ``ca://``; it opens nothing yet.

    :raises MissingExtra: when caproto is not installed.
    """
    try:
        from . import client  # noqa: F401
    except ImportError:
        raise MissingExtra("ca:// addresses", "ca") from None
    return CaBackend()


class CaBackend:
    """PVs over Channel Access, with one client for the whole process, open from the first use on.

    Addresses come from the process environment (``EPICS_CA_ADDR_LIST`` and its kin), as every EPICS user expects.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        self._forget()
        fork.register(self)

    def _forget(self) -> None:
        # Held while operations are handed over and through a fork; never while waiting for an answer.
        self._lock = threading.RLock()
        self._client: Client | None = None
        self._batches: set[Batch] = set()
        self._subscriptions: set[CaSubscription] = set()
        self._events: queue.SimpleQueue[CaSubscription | None] = queue.SimpleQueue()
        self._dispatcher: threading.Thread | None = None

    def _open(self) -> Client:
        if self._client is None:
            from .client import Client

            self._client = Client()
        return self._client

    def has_fields(self, address: PvAddress) -> bool:
        """Say yes; see ``backend.has_fields``."""
        return True

    # -- reading and writing ------------------------------------------------------------------------------------

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all at once. Value, alarm and time of one PV are of one instant; units and limits are read beside it.

        :raises CallCancelled: when the deadline is cancelled.
        """
        answers = self._run(Batch(deadline, puts=False), dict.fromkeys(addresses))
        if deadline.cancelled:
            raise deadline.interruption(f"reading {names_of(addresses)} cancelled")
        return {address: update(address, answer) for address, answer in answers.items()}

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write all at once; the top of this module says what APPLIED means with ``wait`` and without."""
        return self._run(Batch(deadline, puts=True), values, wait)

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all at once: Channel Access has nothing closer to one instant."""
        return self.get_many(addresses, deadline)

    def _run(
        self, batch: Batch, values: Mapping[PvAddress, Any], wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, Any]:
        """Start an operation for each and wait."""
        answers: dict[PvAddress, Any] = {}
        with self._lock:
            self._batches.add(batch)
            batch.pending = {a: Operation(batch, a, value, a in wait) for a, value in values.items()}
            # Of a call that is over nothing more is sent, not even for the instant until it is given up.
            if not batch.deadline.expired:
                client = self._open()
                client.call(functools.partial(client.want, list(batch.pending.values())))
        unsubscribe = batch.deadline.on_cancel(lambda: batch.answers.put(None))
        try:
            while batch.pending and (left := batch.deadline.remaining()) > 0.0:
                try:
                    got = batch.answers.get(timeout=min(left, _LONGEST_WAIT))
                except queue.Empty:
                    continue
                if got is not None and batch.pending.pop(got[0].address, None) is not None:
                    answers[got[0].address] = got[1]
        finally:
            unsubscribe()
            for address, operation in batch.pending.items():
                answers[address] = operation.give_up()
            # The last answers may have come in while the rest was given up.
            while not batch.answers.empty():
                if (late := batch.answers.get()) is not None and late[0].address in batch.pending:
                    answers[late[0].address] = late[1]
            self._batches.discard(batch)
            batch.finished.set()
        return {address: answers[address] for address in values}

    # -- monitors -----------------------------------------------------------------------------------------------

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Subscribe; the callback runs in the one thread of this backend's monitors.

        Units, limits and labels are those of the time of connection, or of the last read of this PV.
        """
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = threading.Thread(
                    target=dispatch, args=(self._events,), name="ca monitors", daemon=True
                )
                self._dispatcher.start()
            subscription = CaSubscription(self._drop, address, callback, queue, self._events)
            self._subscriptions.add(subscription)
            client = self._open()
            client.call(functools.partial(client.watch, subscription))
        return subscription

    def _drop(self, subscription: CaSubscription) -> None:
        """Forget a subscription that was closed."""
        with self._lock:
            self._subscriptions.discard(subscription)
            if (client := self._client) is not None:
                client.call(functools.partial(client.unwatch, subscription))

    # -- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End calls in flight (gets fail, sent puts are UNKNOWN), subscriptions, the client and its thread."""
        fork.unregister(self)
        with self._lock:
            batches, subscriptions = list(self._batches), list(self._subscriptions)
            client, self._client = self._client, None
            dispatcher, self._dispatcher = self._dispatcher, None
        end_all(batches, subscriptions, dispatcher, self._events)
        if client is not None:
            client.close()

    def suspend(self) -> None:
        """Put down every socket; gets and subscriptions of other threads go on afterwards."""
        with self._lock:
            self.before_fork()
            self.after_fork_in_parent()

    def before_fork(self) -> None:
        """Wait for puts in flight, then end the client: a child must not share its connections."""
        self._lock.acquire()
        wait_for_puts(self._batches)
        if self._client is not None:
            self._client.close()
            self._client = None

    def after_fork_in_parent(self) -> None:
        """Start the gets again that were in flight, and the subscriptions."""
        try:
            gets = [op for batch in list(self._batches) if not batch.puts for op in list(batch.pending.values())]
            if gets or self._subscriptions:
                client = self._open()
                client.call(functools.partial(client.want, gets))
                for subscription in self._subscriptions:
                    client.call(functools.partial(client.watch, subscription))
        finally:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the threads that waited here exist in the parent alone."""
        for subscription in self._subscriptions:
            subscription.forget()
        self._forget()
