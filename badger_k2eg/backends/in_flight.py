"""What is under way in a client of PVs, at its end and at a fork: the parts that are the same over every transport.

Knows of a batch (the calls of one thread) and of a subscription no more than is said here; imports no client library.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from ..core.backend import Subscription
from ..core.deadline import Deadline
from ..core.model import PvAddress

#: A fork waits for puts in flight, and a close for a callback that runs, but not for ever.
PATIENCE = 10.0


class Batch(Protocol):
    """The operations of one call.

    :ivar puts: whether they are puts.
    :ivar finished: set when the call has its answers.
    """

    deadline: Deadline
    puts: bool
    finished: threading.Event


def wait_for_puts(batches: Iterable[Batch]) -> None:
    """Wait, before a fork, until every put in flight has its answer, or its time is over."""
    # Of a copy: other threads end their calls meanwhile, and take them out.
    for batch in [batch for batch in list(batches) if batch.puts]:
        batch.finished.wait(min(batch.deadline.remaining(), PATIENCE))


def end_all(
    batches: Iterable[Batch],
    subscriptions: Iterable[Subscription],
    dispatcher: threading.Thread | None,
    events: queue.SimpleQueue[Any],
) -> None:
    """End calls in flight (gets fail, sent puts are UNKNOWN), subscriptions, and the thread of their callbacks.

    Not with a lock held that a callback may need.
    """
    for batch in batches:
        batch.deadline.cancel("the interface was closed")
    for subscription in subscriptions:
        subscription.close()
    if dispatcher is not None:
        events.put(None)
        if dispatcher is not threading.current_thread():
            dispatcher.join(PATIENCE)


def names_of(addresses: Collection[PvAddress]) -> str:
    """Name the first few PVs of a call."""
    texts = [address.text for address in addresses]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
