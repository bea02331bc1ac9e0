"""A monitor of one PV over PVAccess. Part of ``pva``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from p4p.client.raw import Context as RawContext
from p4p.client.raw import RemoteError

from ...core.backend import Update
from ...core.errors import PvNotConnected, PvRefused
from ...core.mailbox import Dispatcher, Mailbox
from ...core.model import PvAddress, Reading


class PvaSubscription(Mailbox[Any]):
    """A monitor of one PV that resumes after a reconnect and after a fork. Its updates wait in p4p's own queue.

    :param decode: makes a reading of a structure.
    :ivar connected: whether the PV is connected, as far as the last update tells.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        address: PvAddress,
        callback: Callable[[Update], None],
        depth: int,
        on_close: Callable[[PvaSubscription], None],
        decode: Callable[[Any], Reading],
    ) -> None:
        """Subscribe to nothing yet; ``open`` does."""
        super().__init__(dispatcher, lambda event: callback(self._update(event)), depth, address.text, on_close)
        self.address = address
        self.connected = False
        self._decode = decode
        self._depth = depth
        self._handle: Any = None
        # Held while the handle is read and while it is closed. A ``pop`` that outlasts a ``close`` in another thread
        # drops the last reference; p4p then holds the GIL and waits for its own thread, which may be waiting for the
        # GIL: the whole process hangs (measured with p4p 4.3.0).
        self._reading = threading.Lock()

    def open(self, context: Any) -> None:
        """Subscribe; p4p's thread only reports that there is something to read."""
        request = f"field()record[queueSize={self._depth}]"
        self._handle = RawContext.monitor(context, self.address.name, lambda: self._dispatcher.ready(self), request)
        # p4p reports an update once, until all are read. One that came before the line above had ended found no handle
        # to read from, and without this line the subscription would stay silent for ever.
        self._dispatcher.ready(self)
        if self.closed:
            # By another thread in the meantime, which found no handle to close.
            self.pause()

    def pause(self) -> None:
        """Unsubscribe, until ``open`` is called again."""
        self.connected = False
        with self._reading:
            handle, self._handle = self._handle, None
            if handle is not None:
                handle.close()

    def forget(self) -> None:
        """Close it in a forked child: handle and locks are the parent's."""
        super().forget()
        self._handle = None
        self._reading = threading.Lock()

    def _take(self) -> Any:
        with self._reading:
            return None if self._handle is None else self._handle.pop()

    def _update(self, event: Any) -> Update:
        self.connected = not isinstance(event, Exception)
        if not isinstance(event, Exception):
            return self._decode(event)
        if isinstance(event, RemoteError):
            return PvRefused(self.address.text, str(event))
        return PvNotConnected(self.address.text, "disconnected")
