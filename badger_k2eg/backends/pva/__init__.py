"""PVAccess through p4p: the only importer of p4p's client.

Stands on p4p's raw operations, because its batch calls blame every PV for one that is dead and take their timeout per
arrival. Each operation answers into the queue of the batch that it belongs to; the thread that asked waits on that
queue, until one absolute deadline.

Which thread does what::

    the caller's      starts operations, waits on its own queue, closes what has not answered
    p4p's (C++)       runs builders and handlers: they append to a queue, and take no lock that is held while waiting
    "pva monitors"    one for all subscriptions of a backend: reads their updates and calls the callbacks
    "pva closer"      closes what has answered or is unsubscribed
    the forking one   ``before_fork``: closes operations, then subscriptions, then the context (design.md 4, Fork)
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from p4p.client.raw import Cancelled
from p4p.client.thread import Context as Context

from ...core import fork
from ...core.backend import Subscription, Update
from ...core.deadline import Deadline
from ...core.errors import PvInvalid, PvNotConnected, PvRefused
from ...core.model import Kind, PutAnswer, PvAddress, PvType, Reading
from ..handle_closer import Closer
from ..in_flight import end_all, names_of, wait_for_puts
from ..normative_types import pv_type, reading_from_tree
from .operations import NO_ANSWER, Batch, Operation, put_answer
from .subscription import PvaSubscription, dispatch
from .unions import whole_tree

logger = logging.getLogger(__name__)

# p4p's own class, under a second name: a test may put a mock in the place of ``Context``.
_P4P_CONTEXT = Context

# A channel whose server was restarted is searched for with growing pauses (0.8 to 4.7 s measured); a new channel is
# found in 10 ms. So a get that has waited this long is sent over a new channel too; the first answer counts.
_FIRST_PATIENCE = 0.3


def is_mocked() -> bool:
    """Whether somebody (a unit test) has put another class in the place of ``Context``."""
    return Context is not _P4P_CONTEXT


class PvaBackend:
    """PVs over PVAccess, with one context for the whole process, open from the first use on.

    Addresses come from the process environment (``EPICS_PVA_ADDR_LIST`` and its kin), as every EPICS user expects.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        self._forget()
        fork.register(self)
        _backends.add(self)

    def _forget(self) -> None:
        # Held while operations are started and through a fork; never while waiting for an answer.
        self._lock = threading.RLock()
        self._context: Any = None
        self._batches: set[Batch] = set()
        self._subscriptions: set[PvaSubscription] = set()
        self._events: queue.SimpleQueue[PvaSubscription | None] = queue.SimpleQueue()
        self._dispatcher: threading.Thread | None = None
        self._closer = Closer()

    def has_fields(self, address: PvAddress) -> bool:
        """Say yes; see ``backend.has_fields``."""
        return True

    # -- reading and writing ------------------------------------------------------------------------------------

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all at once. The values of one PV are of one instant, those of several are not."""
        batch = Batch(deadline, puts=False)
        answers = self._run(batch, dict.fromkeys(addresses))
        return {address: self._reading(operation, answer) for address, (operation, answer) in answers.items()}

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write all at once; ``wait`` asks for put completion (``record[block=true]``)."""
        batch = Batch(deadline, puts=True, wait=wait)
        answers = self._run(batch, values)
        return {address: put_answer(operation, answer) for address, (operation, answer) in answers.items()}

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all at once: PVAccess has nothing closer to one instant."""
        return self.get_many(addresses, deadline)

    def _run(self, batch: Batch, values: Mapping[PvAddress, Any]) -> dict[PvAddress, tuple[Operation, Any]]:
        """Start an operation for each and wait."""
        answers: dict[PvAddress, tuple[Operation, Any]] = {}
        with self._lock:
            self._batches.add(batch)
            context = self._open()
            for address, value in values.items():
                operation = batch.pending[address] = Operation(batch, address, value)
                # Of a call that is over nothing more is sent, not even for the instant until it is given up.
                if not batch.deadline.expired:
                    batch.start(context, operation)
        unsubscribe = batch.deadline.on_cancel(lambda: batch.answers.put(None))
        try:
            self._collect(batch, answers)
        finally:
            unsubscribe()
            for address, operation in batch.pending.items():
                operation.close()
                answers[address] = (operation, NO_ANSWER)
            # The last answers may have come in while the rest was given up.
            while not batch.answers.empty():
                if (late := batch.answers.get()) is not None and not isinstance(late[1], Cancelled):
                    answers[late[0].address] = late
            self._batches.discard(batch)
            batch.finished.set()
            # The next call finds them at once, if they are back by then.
            self._renew(batch.pending)
        if batch.deadline.cancelled and not batch.puts:
            raise batch.deadline.interruption(f"reading {names_of(values)} cancelled")
        return {address: answers[address] for address in values}

    def _collect(self, batch: Batch, answers: dict[PvAddress, tuple[Operation, Any]]) -> None:
        pause = _FIRST_PATIENCE
        retry_at = time.monotonic() + pause
        while batch.pending and (left := batch.deadline.remaining()) > 0.0:
            try:
                got = batch.answers.get(timeout=min(left, max(0.0, retry_at - time.monotonic()) + 1e-3))
            except queue.Empty:
                if time.monotonic() >= retry_at:
                    pause *= 3
                    retry_at = time.monotonic() + pause
                    self._try_new_channels(batch)
                continue
            if got is None:
                continue
            operation, answer = got
            # One that was closed for a fork is started again; its Cancelled is not an answer.
            if isinstance(answer, Cancelled) or batch.pending.get(operation.address) is not operation:
                continue
            # In this order: a fork finds it among those that wait to be closed, or here.
            self._closer.later(operation.let_go)
            del batch.pending[operation.address]
            answers[operation.address] = got

    def _try_new_channels(self, batch: Batch) -> None:
        # A put is not sent twice, and needs no help: the guard's get has just found the channel.
        if not batch.puts:
            self._renew(batch.pending)

    def _renew(self, addresses: Collection[PvAddress]) -> None:
        """Search for PVs anew, at once, with all that waits for them in any thread.

        ``disconnect`` leaves what is under way on a channel without an answer for ever, subscriptions too [M]. So a
        channel with a put on its way, or with a subscription that is connected, is left as it is.
        """
        # Not while somebody forks: the fork may be waiting for the very put that this thread is waiting for.
        if not addresses or not self._lock.acquire(blocking=False):
            return
        try:
            if (context := self._context) is None:
                return
            batches = list(self._batches)
            in_use = {s.address.name for s in self._subscriptions if s.connected}
            in_use.update(a.name for batch in batches if batch.puts for a in list(batch.pending))
            names = {address.name for address in addresses} - in_use
            for name in names:
                context.disconnect(name)
            for subscription in [s for s in self._subscriptions if s.address.name in names and not s.closed]:
                subscription.pause()
                subscription.open(context, self._events)
            for batch in [batch for batch in batches if not batch.puts]:
                for operation in [o for o in list(batch.pending.values()) if o.address.name in names]:
                    batch.start(context, operation)
                    if operation.abandoned or operation.address not in batch.pending:
                        self._closer.later(operation.let_go)  # its thread has its answer, and closes nothing more
        finally:
            self._lock.release()

    def _open(self) -> Any:
        if self._context is None:
            # nt=False: values come as structures; useenv is said aloud because a raw context's own default
            # ignores EPICS_PVA_ADDR_LIST and broadcasts to the whole site.
            self._context = _P4P_CONTEXT("pva", useenv=True, nt=False)
        return self._context

    def _reading(self, operation: Operation, answer: Any) -> Update:
        pv = operation.address.text
        if answer is NO_ANSWER:
            waited = operation.batch.deadline.seconds
            return PvNotConnected(pv, f"no answer within {waited:g} s: nobody serves it, or it does not answer")
        if isinstance(answer, Exception):
            return PvRefused(pv, str(answer) or type(answer).__name__)
        try:
            return self._decode(answer)
        except UnicodeDecodeError:
            return PvInvalid(pv, "its text is not UTF-8: a record cuts a long text anywhere")

    def _decode(self, structure: Any) -> Reading:
        kind = structure.type()
        if "value" not in structure:
            return reading_from_tree(whole_tree(structure), PvType(Kind.OTHER))
        of_type = pv_type(kind.aspy("value"), structure.getID())
        # Of the types with a value of their own none has a union, and to look for one takes its time.
        tree = whole_tree(structure) if of_type.kind is Kind.OTHER else structure.todict(None, dict)
        return reading_from_tree(tree, of_type)

    # -- monitors -----------------------------------------------------------------------------------------------

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Subscribe; the callback runs in the one thread of this backend's monitors."""
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = threading.Thread(
                    target=dispatch, args=(self._events, self._decode), name="pva monitors", daemon=True
                )
                self._dispatcher.start()
            subscription = PvaSubscription(self, address, callback, queue)
            self._subscriptions.add(subscription)
            subscription.open(self._open(), self._events)
        return subscription

    def drop(self, subscription: PvaSubscription) -> None:
        """Unsubscribe soon, and forget a subscription that was closed."""
        self._closer.later(subscription.pause)
        with self._lock:
            self._subscriptions.discard(subscription)

    # -- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End calls in flight (gets fail, sent puts are UNKNOWN), subscriptions and the context."""
        fork.unregister(self)
        with self._lock:
            batches, subscriptions = list(self._batches), list(self._subscriptions)
            context, self._context = self._context, None
            dispatcher, self._dispatcher = self._dispatcher, None
        end_all(batches, subscriptions, dispatcher, self._events)
        self._closer.close()
        if context is not None:
            context.close()

    def suspend(self) -> None:
        """Put down every live handle; gets and subscriptions of other threads go on afterwards."""
        with self._lock:
            self.before_fork()
            self.after_fork_in_parent()

    def before_fork(self) -> None:
        """Close operations first, then subscriptions, then the context: the reverse order hangs or loses answers."""
        self._lock.acquire()
        wait_for_puts(self._batches)
        for batch in list(self._batches):
            for operation in list(batch.pending.values()):
                operation.let_go()
        for subscription in list(self._subscriptions):
            subscription.pause()
        self._closer.drain()
        if self._context is not None:
            self._context.close()
            self._context = None

    def after_fork_in_parent(self) -> None:
        """Start the gets again that were in flight, and the subscriptions."""
        try:
            gets = [batch for batch in self._batches if not batch.puts]
            if self._subscriptions or any(batch.pending for batch in gets):
                context = self._open()
                for batch in gets:
                    for operation in list(batch.pending.values()):
                        batch.start(context, operation)
                for subscription in [s for s in self._subscriptions if not s.closed]:
                    subscription.open(context, self._events)
        finally:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the threads that waited here exist in the parent alone."""
        for subscription in self._subscriptions:
            subscription.forget()
        self._forget()


_backends: weakref.WeakSet[PvaBackend] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Also in a forked child. A daemon thread that comes back from p4p's C++ while the interpreter ends takes the whole
    # process down with SIGABRT: 4 of 60 exits with an open subscription [M].
    for backend in list(_backends):
        backend.close()
