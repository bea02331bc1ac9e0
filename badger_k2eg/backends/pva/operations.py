"""One get or put of one PV on the wire, and the batch of one call. Part of the room ``pva``.

Builders and handlers run in p4p's thread: they append to a queue, and take no lock that is held while waiting.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection
from typing import Any

from p4p.client.raw import Context as RawContext
from p4p.client.raw import RemoteError

from ...core.deadline import Deadline
from ...core.model import Fields, Kind, Outcome, PutAnswer, PvAddress
from ..normative_types import pv_type

#: Stands for "no answer"; None is p4p's answer to a put that was done.
NO_ANSWER = object()
_BLOCK = "field()record[block=true]"


class Operation:
    """One get or put of one PV on the wire."""

    __slots__ = ("abandoned", "address", "batch", "handles", "lock", "sent", "value")

    def __init__(self, batch: Batch, address: PvAddress, value: Any = None) -> None:
        self.batch = batch
        self.address = address
        self.value = value
        self.handles: list[Any] = []
        self.sent = False
        self.abandoned = False
        # Held for an instant only, so that "was it sent?" has one answer when a put is given up.
        self.lock = threading.Lock()

    def done(self, answer: Any) -> None:
        """Take the answer (p4p's thread)."""
        self.batch.answers.put((self, answer))

    def build(self, structure: Any) -> None:
        """Fill in what is to be sent (p4p's thread, just before sending)."""
        with self.lock:
            if self.abandoned:
                raise TimeoutError("given up before it was sent")
            if self.sent:
                # The server was lost and is back: p4p would send it once more [M]. Nobody knows what became of it.
                raise ConnectionError("disconnected after it was sent")
            _fill(structure, self.value)
            self.sent = True

    def close(self) -> None:
        """Make sure that it is not sent any more."""
        with self.lock:
            self.abandoned = True
        self.let_go()

    def let_go(self) -> None:
        """Close p4p's handles.

        A handle refers to this operation through its handler: left to the garbage collector, the cycle keeps the
        context alive (and the next forked child hangs), or is destroyed on p4p's own thread.
        """
        handles, self.handles = self.handles, []
        for handle in handles:
            handle.close()


class Batch:
    """The operations of one call; answers come in through a queue that needs no lock of ours."""

    def __init__(self, deadline: Deadline, *, puts: bool, wait: Collection[PvAddress] = ()) -> None:
        self.deadline = deadline
        self.puts = puts
        self.wait = frozenset(wait)
        self.answers: queue.SimpleQueue[tuple[Operation, Any] | None] = queue.SimpleQueue()
        self.pending: dict[PvAddress, Operation] = {}
        self.finished = threading.Event()

    def start(self, context: Any, operation: Operation) -> None:
        """Put an operation on the wire."""
        name = operation.address.name
        if self.puts:
            request = _BLOCK if operation.address in self.wait else None
            handle = RawContext.put(context, name, operation.done, builder=operation.build, request=request, get=False)
        else:
            handle = RawContext.get(context, name, operation.done)
        operation.handles.append(handle)


def _fill(structure: Any, value: Any) -> None:
    """Put a value into the structure that is to be sent; only what is touched is sent."""
    if isinstance(value, Fields):
        for name, item in value.items():
            structure[name] = item
    elif isinstance(code := structure.type().aspy("value"), tuple) and pv_type(code).kind is Kind.ENUM:
        structure["value.index"] = value
    else:
        structure["value"] = value


def put_answer(operation: Operation, answer: Any) -> PutAnswer:
    """Say what is known of a put, from its answer and from whether it was sent."""
    if answer is NO_ANSWER:
        waited = f"no answer within {operation.batch.deadline.seconds:g} s"
        if operation.sent:
            return PutAnswer(Outcome.UNKNOWN, f"{waited}; it was sent and may have happened, or may still happen")
        return PutAnswer(Outcome.NOT_SENT, f"{waited}: nobody serves it, or it does not answer")
    if answer is None:
        return PutAnswer(Outcome.APPLIED)
    if isinstance(answer, RemoteError):
        return PutAnswer(Outcome.REFUSED, str(answer))
    if operation.sent:
        return PutAnswer(Outcome.UNKNOWN, "disconnected after it was sent")
    return PutAnswer(Outcome.REFUSED, f"cannot be written: {answer}")
