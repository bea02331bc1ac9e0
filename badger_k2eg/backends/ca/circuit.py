"""A TCP connection to a Channel Access server, and its channels.

Owns how gets, puts and subscriptions are spoken. Everything here runs in the thread of ``client.Client``: nothing
blocks, and nothing needs a lock. Imports caproto, and no other client library.

Sources: Channel Access Protocol Specification; for the order of answers and the errors of puts, epics-base
rsrv/camessage.c, and measured on a softIoc (EPICS 7).
"""

from __future__ import annotations

import contextlib
import getpass
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import caproto

from ...core.errors import PvNotConnected, PvRefused
from ...core.model import Outcome, PutAnswer
from .dbr import Answer, Native, encode
from .operations import CaOperation, CaSubscription

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Seconds until the first search for a lost channel.
FIRST_PAUSE = 0.03
# Seconds for a server to greet, and to answer an echo.
_PATIENCE = 5.0
# Small, as caproto copies the rest of a chunk for every message in it.
_CHUNK = 1 << 16
_VALUE_OR_ALARM = 1 | 4  # DBE_VALUE, DBE_ALARM
# The requests that carry a number of the client: EVENT_ADD, WRITE, READ_NOTIFY, WRITE_NOTIFY.
_NUMBERED = {1, 4, 15, 19}
_BUSY = "an earlier put to it with wait is not answered yet"
_LOST = PutAnswer(Outcome.UNKNOWN, "disconnected after it was sent; it may have happened")

#: Takes the answer to a request; None when the connection was lost.
Handler = Callable[[Any], None]


class Channel:
    """A PV: searched for while a call or a subscription wants it, and kept once it is connected.

    :raises caproto.CaprotoError: for a name that Channel Access cannot search for.
    """

    def __init__(self, name: str, number: int) -> None:
        """Begin as not connected."""
        self.name = name
        self.number = number
        self.search = caproto.SearchRequest(name, number, caproto.DEFAULT_PROTOCOL_VERSION)
        caproto.ClientChannel(name, _new_state(("", 0)), cid=number)  # reads filters out of the name: may refuse it
        self.circuit: Circuit | None = None
        #: caproto's ClientChannel, while connected.
        self.link: Any = None
        #: The DBR_CTRL structure that came last over this connection.
        self.control: Any = None
        #: Whether a write notify is not answered yet.
        self.busy = False
        self.waiting: list[CaOperation] = []
        self.subscriptions: set[CaSubscription] = set()

    @property
    def native(self) -> Native:
        """The type and size that the server reported."""
        return Native(self.name, int(self.link.native_data_type), int(self.link.native_data_count))

    def answer(self, command: Any) -> Answer:
        """Return a received value with what else is known of the channel."""
        rights = self.link.access_rights
        writable = None if rights is None else bool(rights & caproto.AccessRights.WRITE)
        return Answer(self.native, command.data, command.metadata, self.control, writable)


class Circuit:
    """The connection to one server. It opens itself; the client drops it.

    :param numbers: for requests.
    :param silence: seconds of silence after which the server is sent an echo.
    :param search_for: called with a channel that has no server any more, and when to search for it.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        selector: selectors.BaseSelector,
        numbers: Iterator[int],
        silence: float,
        search_for: Callable[[Channel, float | None], None],
    ) -> None:
        """Begin to connect."""
        self.address = address
        self.socket = socket.socket()
        self._selector = selector
        self._numbers = numbers
        self._silence = silence
        self._search_for = search_for
        self._state = _new_state(address)
        self._channels: dict[int, Channel] = {}
        # By the number of the request; a subscription's stays.
        self._handlers: dict[int, Handler] = {}
        self._connected = self._greeted = False
        self._heard = time.monotonic()
        self._asked: float | None = None
        self._out = bytearray()
        self._mask = _READ | _WRITE
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)
        selector.register(self.socket, self._mask, self._event)
        self._send(
            caproto.VersionRequest(0, caproto.DEFAULT_PROTOCOL_VERSION),
            caproto.HostNameRequest(socket.gethostname()),
            caproto.ClientNameRequest(_user()),
        )

    def __repr__(self) -> str:
        return f"<circuit to {self.address[0]}:{self.address[1]}>"

    # -- the connection -------------------------------------------------------------------------------------------

    def _send(self, *commands: Any) -> None:
        self._out += b"".join(self._state.send(*commands))

    def flush(self) -> None:
        """Send as much of the collected requests as the socket takes."""
        if self._connected and self._out:
            with contextlib.suppress(BlockingIOError):
                del self._out[: self.socket.send(self._out)]
        mask = _READ | _WRITE if self._out or not self._connected else _READ
        if mask != self._mask:
            self._mask = mask
            self._selector.modify(self.socket, mask, self._event)

    def check(self, now: float) -> None:
        """Send an echo to a server that has been silent for long.

        :raises ConnectionError: when it has not answered an echo, or never greeted.
        """
        if self._greeted and self._asked is None:
            if now - self._heard > self._silence:
                self._asked = now
                self._send(caproto.EchoRequest())
        elif now - (self._asked or self._heard) > _PATIENCE:
            raise ConnectionError("it does not answer")

    def drop(self) -> None:
        """Close it: its channels are searched for, gets are sent again, and puts in flight are unknown."""
        self._selector.unregister(self.socket)
        self.socket.close()
        for channel in self._channels.values():
            self._lose(channel)
        handlers, self._handlers = self._handlers, {}
        for handler in handlers.values():
            handler(None)

    def _event(self, mask: int) -> None:
        """Handle a ready socket."""
        if mask & _WRITE and not self._connected:
            if error := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "cannot connect")
            self._connected = True
        if mask & _READ:
            data = self.socket.recv(_CHUNK)
            if not data:
                raise ConnectionError("closed by the server")
            self._heard, self._asked = time.monotonic(), None
            for command in self._state.recv(data)[0]:
                try:
                    self._state.process_command(command)
                except (caproto.CaprotoError, KeyError):  # about a channel or a subscription that is gone
                    continue
                self._handle(command)

    def _handle(self, command: Any) -> None:
        handler = None
        if isinstance(command, (caproto.ReadNotifyResponse, caproto.WriteNotifyResponse)):
            handler = self._handlers.pop(command.ioid, None)
        elif isinstance(command, caproto.EventAddResponse):
            handler = self._handlers.get(command.subscriptionid)
        elif isinstance(command, caproto.ErrorResponse):
            request = command.original_request
            if request.command in _NUMBERED:
                handler = self._handlers.pop(request.parameter2, None)
        elif isinstance(command, caproto.VersionResponse) and not self._greeted:
            self._greeted = True
            for channel in self._channels.values():
                self._create(channel)
        elif isinstance(command, caproto.CreateChanResponse):
            self._created(self._channels[command.cid])
        elif isinstance(command, (caproto.CreateChFailResponse, caproto.ServerDisconnResponse)):
            if gone := self._channels.pop(command.cid, None):
                self._lose(gone)
        if handler is not None:
            handler(command)

    # -- channels -------------------------------------------------------------------------------------------------

    def add(self, channel: Channel) -> None:
        """Add a channel that this server has."""
        channel.circuit = self
        self._channels[channel.number] = channel
        if self._greeted:
            self._create(channel)

    def _create(self, channel: Channel) -> None:
        self._send(caproto.ClientChannel(channel.name, self._state, cid=channel.number).create())

    def _created(self, channel: Channel) -> None:
        channel.link = self._state.channels[channel.number]
        self.serve(channel)
        for subscription in channel.subscriptions:
            self.watch(channel, subscription)

    def _lose(self, channel: Channel) -> None:
        connected = channel.link is not None
        channel.circuit = channel.link = channel.control = None
        channel.busy = False
        # Not at once: a server may close every connection that it takes.
        self._search_for(channel, FIRST_PAUSE if connected else None)
        if connected:
            for subscription in channel.subscriptions:
                subscription.put(PvNotConnected(subscription.address.text, "disconnected"))

    # -- requests -------------------------------------------------------------------------------------------------

    def serve(self, channel: Channel) -> None:
        """Send the waiting operations of a channel, as far as possible now."""
        if channel.link is None:
            return
        waiting, channel.waiting = channel.waiting, []
        for operation in waiting:
            if operation.notify and channel.busy:
                operation.why = _BUSY
                channel.waiting.append(operation)
            elif operation.batch.puts:
                self._put(channel, operation)
            elif operation.take():
                self._get(channel, operation)

    def _request(self, handler: Handler, make: Callable[[int], Any]) -> int:
        number = next(self._numbers)
        self._handlers[number] = handler
        self._send(make(number))
        return number

    def _describe(self, channel: Channel, then: Handler | None = None) -> None:
        """Read units, limits and labels, which do not come with value and time."""

        def described(answer: Any) -> None:
            if answer is not None and answer.status.success:
                channel.control = answer.metadata
            if then is not None:
                then(answer)

        self._request(described, lambda number: channel.link.read("control", 1, number))

    def _get(self, channel: Channel, operation: CaOperation) -> None:
        def read(answer: Any) -> None:
            if answer is None:
                operation.give_back()
                channel.waiting.append(operation)
            elif answer.status.success:
                operation.done(channel.answer(answer))
            else:
                operation.done(PvRefused(operation.address.text, _words(answer)))

        self._describe(channel)
        self._request(read, lambda number: channel.link.read("time", _elements(channel), number))

    def _put(self, channel: Channel, operation: CaOperation) -> None:
        link = channel.link
        try:
            data, count = encode(operation.value, channel.native)
        except (ValueError, TypeError, OverflowError) as error:
            operation.done(PutAnswer(Outcome.REFUSED, f"cannot be written: {error}"))
            return
        if not operation.take():
            return

        def answered(answer: Any) -> None:
            if answer is None:
                operation.done(_LOST)
            elif answer.status.success:
                operation.done(PutAnswer(Outcome.APPLIED))
            else:
                operation.done(PutAnswer(Outcome.REFUSED, _words(answer)))

        if operation.notify:

            def finished(answer: Any) -> None:
                answered(answer)
                channel.busy = False
                self.serve(channel)

            channel.busy = True
            command = caproto.WriteNotifyRequest
            self._request(finished, lambda number: command(data, link.native_data_type, count, link.sid, number))
            return

        def passed(answer: Any) -> None:
            # The server has processed the write: an error reply to it would have come first.
            if self._handlers.pop(write, None) is not None:
                operation.done(_LOST if answer is None else PutAnswer(Outcome.APPLIED))

        command = caproto.WriteRequest
        write = self._request(answered, lambda number: command(data, link.native_data_type, count, link.sid, number))
        self._request(passed, lambda number: link.read(None, 1, number))

    def watch(self, channel: Channel, subscription: CaSubscription) -> None:
        """Subscribe to values with alarm and time, once units and labels are known."""
        link = channel.link

        def described(answer: Any) -> None:
            if answer is None or subscription not in channel.subscriptions:
                return
            if not answer.status.success:
                subscription.put(PvRefused(subscription.address.text, _words(answer)))
                return
            subscription.number = self._request(
                changed,
                lambda number: link.subscribe("time", _elements(channel), number, mask=_VALUE_OR_ALARM),
            )

        def changed(answer: Any) -> None:
            if answer is not None and answer.status.success:
                subscription.put(channel.answer(answer))
            elif answer is not None:
                subscription.put(PvRefused(subscription.address.text, _words(answer)))

        self._describe(channel, described)

    def unwatch(self, channel: Channel, subscription: CaSubscription) -> None:
        """End a subscription."""
        if self._handlers.pop(subscription.number, None) is not None:
            self._send(channel.link.unsubscribe(subscription.number))


def _new_state(address: tuple[str, int]) -> Any:
    return caproto.VirtualCircuit(our_role=caproto.CLIENT, address=address, priority=0)


def _elements(channel: Channel) -> int:
    """Return the number of elements to request: 0 means the present number (Channel Access 4.13)."""
    return 0 if channel.native.elements > 1 else 1


def _words(answer: Any) -> str:
    status = answer.status
    return f"{status.description} ({status.name})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "nobody"
