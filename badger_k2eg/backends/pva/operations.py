"""Gets and puts of single PVs with p4p's raw operations. Part of ``pva``.

Builders and handlers run in p4p's thread: they append to a queue, and take no lock that is held while waiting.
"""

from __future__ import annotations

from typing import Any

from p4p.client.raw import Cancelled, RemoteError
from p4p.client.raw import Context as RawContext

from ...core.errors import PvTimeout
from ...core.model import Fields, Kind, Outcome, PutAnswer, PvAddress
from ..in_flight import Batch, Operation
from ..normative_types import pv_type

_BLOCK = "field()record[block=true]"


class PvaOperation(Operation):
    """A get or put of one PV over PVAccess. A get may be on the wire more than once; the first answer counts."""

    __slots__ = ("handles",)

    def __init__(self, batch: Batch[PvaOperation], address: PvAddress, value: Any) -> None:
        """Begin as not sent."""
        super().__init__(batch, address, value, "nobody serves it, or it does not answer")
        self.handles: list[Any] = []

    def start(self, context: Any) -> None:
        """Put it on the wire."""
        name = self.address.name
        if self.batch.puts:
            request = _BLOCK if self.address in self.batch.wait else None
            handle = RawContext.put(context, name, self.done, builder=self.build, request=request, get=False)
        else:
            handle = RawContext.get(context, name, self.done)
        self.handles.append(handle)

    def done(self, answer: Any) -> None:
        """Report the answer (p4p's thread)."""
        # One whose handle was closed for a fork is started again: that it was cancelled is not an answer.
        if not isinstance(answer, Cancelled):
            super().done(answer)

    def build(self, structure: Any) -> None:
        """Fill in the value of a put (p4p's thread, just before sending)."""
        with self._lock:
            if self._abandoned:
                raise TimeoutError("given up before it was sent")
            if self._sent:
                # The server went away and came back: p4p would send the put again, whatever became of the first one.
                raise ConnectionError("disconnected after it was sent")
            _fill(structure, self.value)
            self._sent = True

    def give_up(self) -> PutAnswer | PvTimeout:
        """Make sure that it will not be sent any more, and return how it stands (the caller's thread)."""
        answer = super().give_up()
        self.let_go()
        return answer

    def let_go(self) -> None:
        """Close p4p's handles.

        A handle refers to this operation through its handler: left to the garbage collector, the cycle keeps the
        context alive (and the next forked child hangs), or is destroyed on p4p's own thread.
        """
        handles, self.handles = self.handles, []
        for handle in handles:
            handle.close()

    def put_answer(self, answer: Any) -> PutAnswer:
        """Return what is known of a put from p4p's answer and from whether it was sent."""
        if answer is None:
            return PutAnswer(Outcome.APPLIED)
        if isinstance(answer, RemoteError):
            return PutAnswer(Outcome.REFUSED, str(answer))
        if self._sent:
            return PutAnswer(Outcome.UNKNOWN, "disconnected after it was sent")
        return PutAnswer(Outcome.REFUSED, f"cannot be written: {answer}")


def _fill(structure: Any, value: Any) -> None:
    """Put a value into the structure of a put; only the fields that are set are sent."""
    if isinstance(value, Fields):
        for name, item in value.items():
            structure[name] = item
    elif isinstance(code := structure.type().aspy("value"), tuple) and pv_type(code).kind is Kind.ENUM:
        structure["value.index"] = value
    else:
        structure["value"] = value
