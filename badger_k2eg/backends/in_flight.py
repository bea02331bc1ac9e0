"""``BatchBackend``: calls for many PVs over one client of this process, at their end and at a fork, for any transport.

Each PV of a call is an operation. The thread that calls starts all of them and waits, until one absolute deadline, on
the queue of its batch, into which the client's own thread puts the answers. Owns the question that the two threads may
answer at the same time: was it sent before it was given up? Imports no client library.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from ..core import fork
from ..core.backend import Subscription, Update
from ..core.deadline import Deadline
from ..core.errors import PvError, PvNotConnected, PvTimeout
from ..core.mailbox import Dispatcher, Mailbox
from ..core.model import Outcome, PutAnswer, PvAddress

# Seconds that a fork waits for puts in flight, and a close for a running callback.
_PATIENCE = 10.0
_LONGEST_WAIT = 3600.0


class Operation:
    """A get or put of one PV.

    :param value: the value of a put.
    :ivar why: what it is waiting for while it is not sent.
    """

    __slots__ = ("_abandoned", "_lock", "_sent", "address", "batch", "value", "why")

    def __init__(self, batch: Batch[Any], address: PvAddress, value: Any, why: str) -> None:
        """Begin as not sent."""
        self.batch = batch
        self.address = address
        self.value = value
        self.why = why
        self._sent = False
        self._abandoned = False
        # Held for an instant only.
        self._lock = threading.Lock()

    @property
    def is_wanted(self) -> bool:
        """Whether a caller is waiting for it."""
        return not self._abandoned

    def done(self, answer: Any) -> None:
        """Report the answer (the client's thread)."""
        self.batch.answers.put((self, answer))

    def give_up(self) -> PutAnswer | PvTimeout:
        """Make sure that it will not be sent any more, and return how it stands (the caller's thread)."""
        with self._lock:
            self._abandoned = True
        deadline = self.batch.deadline
        waited = "cancelled" if deadline.cancelled else f"no answer within {deadline.seconds:g} s"
        if self.batch.puts:
            if self._sent:
                return PutAnswer(Outcome.UNKNOWN, f"{waited}; it was sent and may have happened, or may still happen")
            return PutAnswer(Outcome.NOT_SENT, f"{waited}: {self.why}")
        if self._sent:
            return PvTimeout(self.address.text, f"{waited}: it is connected, but its server is silent")
        return PvNotConnected(self.address.text, f"{waited}: {self.why}")


Op = TypeVar("Op", bound=Operation)
Sub = TypeVar("Sub", bound=Mailbox[Any])


class Batch(Generic[Op]):
    """The operations of one call.

    :param wait: the PVs whose put is answered only when the record has finished processing.
    :ivar answers: operations with their answers; None wakes the waiting caller. The queue needs no lock of ours.
    :ivar finished: set when the call has all its answers.
    """

    def __init__(self, deadline: Deadline, *, puts: bool, wait: Collection[PvAddress] = ()) -> None:
        """Begin empty."""
        self.deadline = deadline
        self.puts = puts
        self.wait = frozenset(wait)
        self.answers: queue.SimpleQueue[tuple[Op, Any] | None] = queue.SimpleQueue()
        self.pending: dict[PvAddress, Op] = {}
        self.finished = threading.Event()


def wait_for_puts(batches: Iterable[Batch[Any]]) -> None:
    """Wait until every put in flight has its answer, or its time is over."""
    # Of a copy: other threads end their calls meanwhile, and remove them.
    for batch in [batch for batch in list(batches) if batch.puts]:
        batch.finished.wait(min(batch.deadline.remaining(), _PATIENCE))


class BatchBackend(ABC, Generic[Op, Sub]):
    """A backend with one client for the whole process, open from the first use on.

    :param name: names the thread of the monitors' callbacks.
    """

    #: Seconds of silence after which ``_search_again`` is called; then three times as many, and so on.
    _first_patience = math.inf

    def __init__(self, name: str) -> None:
        """Open nothing yet."""
        self._name = name
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        """Start without operations, subscriptions and client; also in a forked child."""
        # Held while operations are started and through a fork; never while waiting for an answer.
        self._lock = threading.RLock()
        self._batches: set[Batch[Op]] = set()
        self._subscriptions: set[Sub] = set()
        self._dispatcher = Dispatcher(f"{self._name} monitors")

    # -- what a transport does; all but the first two with the lock held ------------------------------------------

    @abstractmethod
    def _operation(self, batch: Batch[Op], address: PvAddress, value: Any) -> Op:
        """Make an operation of the transport."""

    @abstractmethod
    def _decode(self, operation: Op, answer: Any) -> Update | PutAnswer:
        """Translate an answer of the client."""

    @abstractmethod
    def _start(self, operations: Sequence[Op]) -> None:
        """Give operations to the client."""

    @abstractmethod
    def _subscription(self, address: PvAddress, callback: Callable[[Update], None], depth: int) -> Sub:
        """Make a subscription, not yet started."""

    @abstractmethod
    def _subscribe(self, subscription: Sub) -> None:
        """Start a subscription."""

    @abstractmethod
    def _detach(self) -> Callable[[], None]:
        """Give up the client for good; return what closes it."""

    @abstractmethod
    def _suspend(self) -> None:
        """Close every handle before a fork. Puts in flight have ended."""

    def _answered(self, operation: Op) -> None:
        """Release what an operation holds, before it leaves its batch (the caller's thread, without the lock)."""

    def _search_again(self, batch: Batch[Op]) -> None:
        """Try harder to reach the PVs that have not answered (the caller's thread, without the lock)."""

    def _gave_up(self, batch: Batch[Op]) -> None:
        """Note which PVs have not answered until the end of a call (the caller's thread, without the lock)."""

    # -- reading and writing --------------------------------------------------------------------------------------

    def has_fields(self, address: PvAddress) -> bool:
        """Return True: the fields of a record can be read; see ``backend.has_fields``."""
        return True

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs at the same time. Value, alarm and time of one PV are of one instant, those of several are not.

        :raises CallCancelled: when the deadline is cancelled.
        """
        answers = self._run(Batch(deadline, puts=False), dict.fromkeys(addresses))
        if deadline.cancelled:
            raise deadline.interruption(f"reading {_names(addresses)} cancelled")
        return answers

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write PVs at the same time; the module docstring of the transport explains the outcomes and ``wait``."""
        return self._run(Batch(deadline, puts=True, wait=wait), values)

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read PVs at the same time: the transport has nothing closer to one instant."""
        return self.get_many(addresses, deadline)

    def _run(self, batch: Batch[Op], values: Mapping[PvAddress, Any]) -> dict[PvAddress, Any]:
        """Start an operation for each PV and wait for the answers."""
        answers: dict[PvAddress, tuple[Op, Any]] = {}
        with self._lock:
            self._batches.add(batch)
            batch.pending = {address: self._operation(batch, address, value) for address, value in values.items()}
            # Of a call that is over nothing is sent any more, not even for the instant until it is given up.
            if not batch.deadline.expired:
                self._start(list(batch.pending.values()))
        unsubscribe = batch.deadline.on_cancel(lambda: batch.answers.put(None))
        try:
            self._collect(batch, answers)
        finally:
            unsubscribe()
            for address, operation in batch.pending.items():
                answers[address] = (operation, operation.give_up())
            # The last answers may have arrived while the others were given up.
            while not batch.answers.empty():
                if (late := batch.answers.get()) is not None and late[0].address in batch.pending:
                    answers[late[0].address] = late
            self._batches.discard(batch)
            batch.finished.set()
            self._gave_up(batch)
        return {address: self._told(*answers[address]) for address in values}

    def _told(self, operation: Op, answer: Any) -> Update | PutAnswer:
        return answer if isinstance(answer, PutAnswer | PvError) else self._decode(operation, answer)

    def _collect(self, batch: Batch[Op], answers: dict[PvAddress, tuple[Op, Any]]) -> None:
        patience = self._first_patience
        search_at = time.monotonic() + patience
        while batch.pending and (left := batch.deadline.remaining()) > 0.0:
            quiet = max(0.0, search_at - time.monotonic()) + 1e-3
            try:
                got = batch.answers.get(timeout=min(left, quiet, _LONGEST_WAIT))
            except queue.Empty:
                if time.monotonic() >= search_at:
                    patience *= 3
                    search_at = time.monotonic() + patience
                    self._search_again(batch)
                continue
            if got is None or batch.pending.get(got[0].address) is not got[0]:
                continue
            # In this order, so that a fork finds its handles in one place or the other.
            self._answered(got[0])
            del batch.pending[got[0].address]
            answers[got[0].address] = got

    # -- monitors -------------------------------------------------------------------------------------------------

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Subscribe to a PV; the callback runs in the one thread of this backend's monitors."""
        with self._lock:
            self._dispatcher.start()
            subscription = self._subscription(address, callback, queue)
            self._subscriptions.add(subscription)
            self._subscribe(subscription)
        return subscription

    # -- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End calls in flight (gets fail, sent puts are UNKNOWN), subscriptions and the client."""
        fork.unregister(self)
        with self._lock:
            batches, subscriptions = list(self._batches), list(self._subscriptions)
            close_client = self._detach()
        # Without the lock, which a callback may need.
        for batch in batches:
            batch.deadline.cancel("the interface was closed")
        for subscription in subscriptions:
            subscription.close()
        self._dispatcher.close(_PATIENCE)
        close_client()

    def suspend(self) -> None:
        """Close every handle; gets and subscriptions of other threads continue afterwards."""
        with self._lock:
            self.before_fork()
            self.after_fork_in_parent()

    def before_fork(self) -> None:
        """Wait until puts in flight have their answers or their time is over, then close every handle."""
        self._lock.acquire()
        wait_for_puts(self._batches)
        self._suspend()

    def after_fork_in_parent(self) -> None:
        """Start the gets in flight and the subscriptions again."""
        try:
            gets = [batch for batch in list(self._batches) if not batch.puts]
            if operations := [operation for batch in gets for operation in list(batch.pending.values())]:
                self._start(operations)
            for subscription in [s for s in self._subscriptions if not s.closed]:
                self._subscribe(subscription)
        finally:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start over: the threads that waited here exist in the parent only."""
        for subscription in self._subscriptions:
            subscription.forget()
        self._begin()


def _names(addresses: Collection[PvAddress]) -> str:
    """Return the names of the first few PVs of a call."""
    texts = [address.text for address in addresses]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
