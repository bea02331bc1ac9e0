"""PVAccess through p4p: the only importer of p4p's client.

Uses p4p's raw operations, because its batch calls blame every PV for one that is dead and take their timeout per
arrival. Each operation answers into the queue of its batch, on which the calling thread waits until one absolute
deadline.

Threads::

    the caller's      starts operations, waits on its own queue, closes operations without an answer
    p4p's (C++)       runs builders and handlers: they append to a queue, and take no lock that is held while waiting
    "pva monitors"    one for all subscriptions of a backend: reads their updates and calls the callbacks
    "pva closer"      closes the handles of answered operations and closed subscriptions
    the forking one   ``before_fork``: closes operations, then subscriptions, then the context; a child that inherits
                      an open context hangs
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

from p4p.client.thread import Context as Context

from ...core.backend import Update
from ...core.errors import PvInvalid, PvRefused
from ...core.model import Kind, PutAnswer, PvAddress, PvType, Reading
from ..handle_closer import Closer
from ..in_flight import Batch, BatchBackend
from ..normative_types import pv_type, reading_from_tree
from .operations import PvaOperation
from .subscription import PvaSubscription
from .unions import whole_tree

# p4p's own class, under a second name: a test may replace ``Context`` by a mock.
_P4P_CONTEXT = Context


def is_mocked() -> bool:
    """Return whether a unit test has replaced ``Context``."""
    return Context is not _P4P_CONTEXT


class PvaBackend(BatchBackend[PvaOperation, PvaSubscription]):
    """PVs over PVAccess, with one context for the whole process, open from the first use on.

    Addresses come from the process environment (``EPICS_PVA_ADDR_LIST`` and its kin), as every EPICS user expects.
    ``wait`` of a put asks for put completion (``record[block=true]``).
    """

    # A channel whose server was restarted is searched for with growing pauses (0.8 to 4.7 s measured); a new channel is
    # found in 10 ms. So a get that has waited this long is sent over a new channel too; the first answer counts.
    _first_patience = 0.3

    def __init__(self) -> None:
        """Open nothing yet."""
        super().__init__("pva")
        _backends.add(self)

    def _begin(self) -> None:
        super()._begin()
        self._context: Any = None
        self._closer = Closer()

    def _open(self) -> Any:
        if self._context is None:
            # nt=False: values come as structures. useenv=True is explicit because the default of a raw context ignores
            # EPICS_PVA_ADDR_LIST and broadcasts to the whole site.
            self._context = _P4P_CONTEXT("pva", useenv=True, nt=False)
        return self._context

    # -- reading and writing ------------------------------------------------------------------------------------

    def _operation(self, batch: Batch[PvaOperation], address: PvAddress, value: Any) -> PvaOperation:
        return PvaOperation(batch, address, value)

    def _start(self, operations: Sequence[PvaOperation]) -> None:
        context = self._open()
        for operation in operations:
            operation.start(context)

    def _answered(self, operation: PvaOperation) -> None:
        self._closer.later(operation.let_go)

    def _search_again(self, batch: Batch[PvaOperation]) -> None:
        # A put is not sent twice, and needs no help: the guard's get has just found the channel.
        if not batch.puts:
            self._renew(batch.pending)

    def _gave_up(self, batch: Batch[PvaOperation]) -> None:
        # The next call finds them at once, if they are back by then.
        self._renew(batch.pending)

    def _renew(self, addresses: Collection[PvAddress]) -> None:
        """Search for PVs again at once, for everything that waits for them in any thread.

        ``disconnect`` leaves operations on a channel without an answer for ever, subscriptions too. So a channel with a
        put in flight, or with a connected subscription, is left alone.
        """
        # Not during a fork, which may be waiting for the very put that this thread is waiting for.
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
                subscription.open(context)
            for batch in [batch for batch in batches if not batch.puts]:
                for operation in [o for o in list(batch.pending.values()) if o.address.name in names]:
                    operation.start(context)
                    if not operation.is_wanted or operation.address not in batch.pending:
                        # Its caller has the answer, and will not close this handle.
                        self._closer.later(operation.let_go)
        finally:
            self._lock.release()

    def _decode(self, operation: PvaOperation, answer: Any) -> Update | PutAnswer:
        if operation.batch.puts:
            return operation.put_answer(answer)
        pv = operation.address.text
        if isinstance(answer, Exception):
            return PvRefused(pv, str(answer) or type(answer).__name__)
        try:
            return self._reading(answer)
        except UnicodeDecodeError:
            return PvInvalid(pv, "its text is not UTF-8: records may cut a long text inside a character")

    def _reading(self, structure: Any) -> Reading:
        kind = structure.type()
        if "value" not in structure:
            return reading_from_tree(whole_tree(structure), PvType(Kind.OTHER))
        of_type = pv_type(kind.aspy("value"), structure.getID())
        # Types with a value of their own have no union, and looking for one takes time.
        tree = whole_tree(structure) if of_type.kind is Kind.OTHER else structure.todict(None, dict)
        return reading_from_tree(tree, of_type)

    # -- monitors -----------------------------------------------------------------------------------------------

    def _subscription(self, address: PvAddress, callback: Callable[[Update], None], depth: int) -> PvaSubscription:
        return PvaSubscription(self._dispatcher, address, callback, depth, self._unsubscribe, self._reading)

    def _subscribe(self, subscription: PvaSubscription) -> None:
        subscription.open(self._open())

    def _unsubscribe(self, subscription: PvaSubscription) -> None:
        self._closer.later(subscription.pause)
        with self._lock:
            self._subscriptions.discard(subscription)

    # -- life -----------------------------------------------------------------------------------------------------

    def _detach(self) -> Callable[[], None]:
        context, self._context = self._context, None

        def close() -> None:
            self._closer.close()
            if context is not None:
                context.close()

        return close

    def _suspend(self) -> None:
        # Operations first, then subscriptions, then the context: the reverse order hangs or loses answers.
        for batch in list(self._batches):
            for operation in list(batch.pending.values()):
                operation.let_go()
        for subscription in list(self._subscriptions):
            subscription.pause()
        self._closer.drain()
        if self._context is not None:
            self._context.close()
            self._context = None


_backends: weakref.WeakSet[PvaBackend] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Also in a forked child. A daemon thread that returns from p4p's C++ while the interpreter ends takes the whole
    # process down with SIGABRT: measured for 4 of 60 exits with an open subscription.
    for backend in list(_backends):
        backend.close()
