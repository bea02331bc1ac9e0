"""What threads hand to one another: operations, the batches that they belong to, subscriptions.

Owns the one question that two threads may answer at once: was it sent before it was given up? Knows nothing of the
wire; imports ``values`` alone of this package.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ...core.backend import Update
from ...core.deadline import Deadline
from ...core.errors import PvNotConnected, PvTimeout
from ...core.model import Outcome, PutAnswer, PvAddress
from .dbr import update

logger = logging.getLogger(__name__)

UNREACHABLE = "nobody serves it, or it cannot be reached"


class Batch:
    """The operations of one call; answers come in through a queue that needs no lock of ours.

    :ivar answers: an operation with its answer: a ``PutAnswer``, a ``PvError``, or an ``Answer`` of the wire; None
        wakes the thread that waits.
    """

    def __init__(self, deadline: Deadline, *, puts: bool) -> None:
        """Begin empty."""
        self.deadline = deadline
        self.puts = puts
        self.answers: queue.SimpleQueue[tuple[Operation, Any] | None] = queue.SimpleQueue()
        self.pending: dict[PvAddress, Operation] = {}
        self.finished = threading.Event()


class Operation:
    """One get or put of one PV.

    :param notify: for a put: answer only when the record has finished processing.
    :ivar why: what it is waiting for while it is not sent.
    """

    __slots__ = ("_abandoned", "_lock", "_sent", "address", "batch", "notify", "value", "why")

    def __init__(self, batch: Batch, address: PvAddress, value: Any, notify: bool) -> None:
        """Begin as not sent."""
        self.batch = batch
        self.address = address
        self.value = value
        self.notify = notify
        self.why = UNREACHABLE
        self._sent = False
        self._abandoned = False
        # Held for an instant only.
        self._lock = threading.Lock()

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self._abandoned

    def take(self) -> bool:
        """Say whether it is still wanted; if so, it counts as sent from here on (client's thread)."""
        with self._lock:
            self._sent = not self._abandoned
            return self._sent

    def give_back(self) -> None:
        """Take it that a get was lost with its connection: it will be sent again (client's thread)."""
        self._sent = False

    def done(self, answer: Any) -> None:
        """Take the answer (client's thread)."""
        self.batch.answers.put((self, answer))

    def refuse(self, reason: str) -> None:
        """Answer that nothing was sent, and never will be (client's thread)."""
        text = self.address.text
        self.done(PutAnswer(Outcome.NOT_SENT, reason) if self.batch.puts else PvNotConnected(text, reason))

    def give_up(self) -> PutAnswer | PvTimeout:
        """Make sure that it is not sent any more, and say how it stands (caller's thread)."""
        with self._lock:
            self._abandoned = True
        waited = "cancelled" if self.batch.deadline.cancelled else f"no answer within {self.batch.deadline.seconds:g} s"
        if self.batch.puts:
            if self._sent:
                return PutAnswer(Outcome.UNKNOWN, f"{waited}; it was sent and may have happened, or may still happen")
            return PutAnswer(Outcome.NOT_SENT, f"{waited}: {self.why}")
        if self._sent:
            return PvTimeout(self.address.text, f"{waited}: it is connected, but its server is silent")
        return PvNotConnected(self.address.text, f"{waited}: {self.why}")


class CaSubscription:
    """A monitor of one PV that comes back after a reconnect and after a fork.

    :ivar number: of the subscription on the wire; 0 while it has none.
    """

    def __init__(
        self,
        drop: Callable[[CaSubscription], None],
        address: PvAddress,
        callback: Callable[[Update], None],
        depth: int,
        events: queue.SimpleQueue[CaSubscription | None],
    ) -> None:
        """Remember what to subscribe to; the client does it."""
        self.address = address
        self.callback = callback
        self.closed = False
        self.number = 0
        self._drop = drop
        self._events = events
        # The oldest update goes when the callback is too slow.
        self._updates: deque[Any] = deque(maxlen=max(1, depth))
        # Held by the monitor thread while it calls back, so that ``close`` can wait for that.
        self._calling = threading.RLock()

    def push(self, answer: Any) -> None:
        """Take an update, a refusal or a disconnect (client's thread)."""
        self._updates.append(answer)
        self._events.put(self)

    def close(self) -> None:
        """End it; no callback begins afterwards, and one that runs (in another thread) has ended."""
        if not self.closed:
            self.closed = True
            self._drop(self)
        with self._calling:
            pass

    def forget(self) -> None:
        """In a forked child: it belongs to the parent, and so does the thread that may hold its lock."""
        self.closed = True
        self._calling = threading.RLock()

    def deliver(self) -> None:
        """Hand over everything that has arrived (monitor thread)."""
        with self._calling:
            while self._updates and not self.closed:
                try:
                    self.callback(update(self.address, self._updates.popleft()))
                except Exception:  # a callback is not ours; its fault must not end the other subscriptions
                    logger.exception("the callback for updates of %s failed", self.address)


def dispatch(events: queue.SimpleQueue[CaSubscription | None]) -> None:
    """Call back for every event until None comes: the monitor thread."""
    while (subscription := events.get()) is not None:
        subscription.deliver()
