"""Operations and subscriptions, which the threads of Channel Access hand to one another. Imports ``dbr``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.backend import Update
from ...core.errors import PvError, PvNotConnected
from ...core.mailbox import Dispatcher, Mailbox
from ...core.model import Outcome, PutAnswer, PvAddress
from ..in_flight import Batch, Operation
from .dbr import Answer, update


class CaOperation(Operation):
    """A get or put of one PV over Channel Access.

    :ivar notify: whether a put is answered only when the record has finished processing.
    """

    __slots__ = ("notify",)

    def __init__(self, batch: Batch[CaOperation], address: PvAddress, value: Any) -> None:
        """Begin as not sent."""
        super().__init__(batch, address, value, "nobody serves it, or it cannot be reached")
        self.notify = address in batch.wait

    def take(self) -> bool:
        """Mark it as sent and return True, unless it has been given up (the client's thread)."""
        with self._lock:
            self._sent = not self._abandoned
            return self._sent

    def give_back(self) -> None:
        """Mark a get as unsent after a disconnect: it will be sent again (the client's thread)."""
        self._sent = False

    def refuse(self, reason: str) -> None:
        """Answer that it was not sent, and never will be (the client's thread)."""
        text = self.address.text
        self.done(PutAnswer(Outcome.NOT_SENT, reason) if self.batch.puts else PvNotConnected(text, reason))


class CaSubscription(Mailbox[Answer | PvError]):
    """A monitor of one PV that resumes after a reconnect and after a fork. The client starts it.

    :ivar number: its number on the wire; 0 while it has none.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        address: PvAddress,
        callback: Callable[[Update], None],
        depth: int,
        on_close: Callable[[CaSubscription], None],
    ) -> None:
        """Begin without an update."""
        super().__init__(dispatcher, lambda answer: callback(update(address, answer)), depth, address.text, on_close)
        self.address = address
        self.number = 0
