"""Channel Access through caproto (extra ``ca``): the only importer of caproto. Imports no other backend.

Stands on caproto's protocol core (commands, ``VirtualCircuit``, ``Broadcaster``) with one thread and one selector of
our own, and not on ``caproto.threading.client`` [M, caproto 1.3.0]: that one gives nobody the error reply to a plain
put; its search thread ends for good when a server that was found refuses the connection, and no further PV connects;
it takes 0.4 to 5 s to end, at each fork too. A PV is searched for while a call or a subscription wants it, and only
then. Beacons are not listened to, so nothing here speaks to a CA repeater or starts one (``caproto.sync.client`` and
``caproto-get`` do start one, which outlives them).

Which thread does what::

    the caller's      hands operations over, waits on the queue of its batch, gives up what has not answered, decodes
    "ca client"       owns all sockets and all of caproto's state, so that none of it needs a lock; waits for nobody
    "ca monitors"     one for all subscriptions of a backend: decodes their updates and calls the callbacks
    the forking one   ``before_fork``: ends the client with its sockets; the next use makes a new one

**Puts** [M, EPICS 7]. A plain put is a CA write and then a read of one element over the same circuit. An IOC serves a
circuit in order: once the read is answered without an error to the write before it, the IOC has taken the value. That
is APPLIED, also while a slow record is still processing; REFUSED is what access security, DISP and the record's own
validation answer with an error. A put in ``wait`` is a write notify, and APPLIED when the record has finished. Notify
does not serve for all: it says "normal" for what the record's own validation refused (as PVAccess does with
``record[block=true]``), and a second one to a busy record stops its whole circuit, reads too; so a second one is held
back here until the first is answered. A CA gateway says nothing of the IOC's answer to a plain write, and IOCs written
with caproto answer one out of order: name their PVs in ``wait``.

Sources: Channel Access Protocol Specification; for the order of answers and the errors of puts, epics-base
rsrv/camessage.c, and measured on a softIoc; epics-base alarm.h, alarmString.c, db_access.h.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import getpass
import itertools
import logging
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import fork
from ..backend import Subscription, Update
from ..deadline import Deadline
from ..errors import CallCancelled, MissingExtra, PvError, PvInvalid, PvNotConnected, PvRefused, PvTimeout
from ..model import Fields, Kind, Outcome, PutAnswer, PvAddress, PvType, Reading
from .structures import reading_from_tree

try:
    import caproto
except ImportError:  # an optional part; open_backend says which
    caproto = None

logger = logging.getLogger(__name__)

# ---- values: wire <-> Reading ----------------------------------------------------------------------------------------

EPOCH = 631_152_000
"""1990-01-01 UTC, where EPICS time begins, in Unix seconds."""

_STRING, _ENUM, _CHAR = 0, 3, 4
_TEXT_BYTES = 40
# By the numbers of DBR_STRING ... DBR_DOUBLE.
_SCALARS = {
    _STRING: PvType(Kind.STRING, max_length=_TEXT_BYTES - 1),
    1: PvType(Kind.INT, 16),
    2: PvType(Kind.FLOAT, 32),
    _ENUM: PvType(Kind.ENUM, 32),
    _CHAR: PvType(Kind.INT, 8, signed=False),
    5: PvType(Kind.INT, 32),
    6: PvType(Kind.FLOAT, 64),
}
_WIRE = {1: ">i2", 2: ">f4", _ENUM: ">u2", _CHAR: ">u1", 5: ">i4", 6: ">f8"}
_CONDITIONS = (
    "", "READ", "WRITE", "HIHI", "HIGH", "LOLO", "LOW", "STATE", "COS", "COMM", "TIMEOUT", "HWLIMIT", "CALC", "SCAN",
    "LINK", "SOFT", "BAD_SUB", "UDF", "DISABLE", "SIMM", "READ_ACCESS", "WRITE_ACCESS",
)  # fmt: skip


class Native(NamedTuple):
    """What a server tells of a channel when it is connected."""

    name: str
    dbr: int
    elements: int

    @property
    def long_text(self) -> bool:
        """Whether it is a text longer than 39 bytes: a field named with a ``$`` at its end."""
        return self.dbr == _CHAR and self.name.endswith("$")

    @property
    def type(self) -> PvType:
        """The type of the PV."""
        if self.long_text:
            return PvType(Kind.STRING, max_length=self.elements - 1)
        if self.elements <= 1:
            return _SCALARS[self.dbr]
        element = PvType(Kind.INT, 16, signed=False) if self.dbr == _ENUM else _SCALARS[self.dbr]
        return dataclasses.replace(element, array=True, max_length=self.elements)


class Answer(NamedTuple):
    """A value as it came.

    :ivar data: the elements: numbers, or the bytes of each text.
    :ivar time: its DBR_TIME structure: alarm and time.
    :ivar control: the DBR_CTRL structure of the channel; for texts there is none but alarm and time.
    """

    native: Native
    data: Any
    time: Any
    control: Any
    writable: bool | None


def update(address: PvAddress, answer: Answer | PvError) -> Update:
    """Read an answer; an error stays what it is."""
    if isinstance(answer, PvError):
        return answer
    try:
        return _reading(answer)
    except UnicodeDecodeError:
        return PvInvalid(address.text, "its text is not UTF-8: a record cuts a long text anywhere")


def _reading(answer: Answer) -> Reading:
    stamp, control = answer.time.stamp, answer.control
    status = answer.time.status
    tree = {
        "value": _value(answer),
        "alarm": {
            "severity": answer.time.severity,
            "status": status,
            "message": _CONDITIONS[status] if 0 <= status < len(_CONDITIONS) else f"status {status}",
        },
        "timeStamp": {"secondsPastEpoch": stamp.secondsSinceEpoch + EPOCH, "nanoseconds": stamp.nanoSeconds},
        "display": {"units": _label(getattr(control, "units", b"")), "precision": getattr(control, "precision", None)},
    }
    if hasattr(control, "lower_ctrl_limit"):
        tree["control"] = {"limitLow": _limit(control.lower_ctrl_limit), "limitHigh": _limit(control.upper_ctrl_limit)}
    return dataclasses.replace(reading_from_tree(tree, answer.native.type), writable=answer.writable)


def _value(answer: Answer) -> Any:
    native, data = answer.native, answer.data
    if native.long_text:
        return bytes(data).split(b"\0")[0].decode()
    if native.dbr == _STRING:
        texts = [bytes(text).decode() for text in data]
        return texts if native.elements > 1 else texts[0]
    if native.elements > 1:
        return np.array(data, dtype=native.type.dtype)
    if native.dbr == _ENUM:
        return {"index": int(data[0]), "choices": [_label(text) for text in answer.control.enum_strings]}
    return data[0].item()


def _limit(limit: Any) -> Any:
    return limit[0] if isinstance(limit, bytes) else limit


def _label(text: bytes) -> str:
    """Decode units and labels: many IOCs hold them in Latin-1."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def encode(value: Any, native: Native) -> tuple[bytes, int]:
    """Bring a value into the form of the wire.

    :returns: its bytes, and the number of elements.
    :raises ValueError: when the PV cannot hold it as it is.
    """
    if isinstance(value, Fields):
        raise ValueError("Channel Access has no structures")
    if native.long_text:
        data = _text(value, native.elements - 1) + b"\0"
        return data, len(data)
    if native.dbr == _STRING:
        texts = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
        data = b"".join(_text(text, _TEXT_BYTES - 1).ljust(_TEXT_BYTES, b"\0") for text in texts)
        return data, _fitting(len(texts), native)
    asked = np.atleast_1d(np.asarray(value))
    if asked.dtype.kind not in "biuf":
        raise ValueError(f"{value!r} is not a number")
    with np.errstate(all="ignore"):  # what does not fit is found by comparing
        sent = asked.astype(_WIRE[native.dbr])
    if sent.dtype.kind in "iu" and not np.array_equal(sent, asked):
        raise ValueError(f"{value!r} does not fit into {native.type}")
    return sent.tobytes(), _fitting(sent.size, native)


def _fitting(count: int, native: Native) -> int:
    if count > max(1, native.elements):
        raise ValueError(f"{count} elements are too many: it holds {native.elements}")
    return count


def _text(value: Any, longest: int) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    data = value.encode()
    if len(data) > longest:
        raise ValueError(f"the text is too long: {len(data)} bytes, and it holds {longest}")
    return data


# ---- what threads hand to one another --------------------------------------------------------------------------------

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


# ---- circuits: the TCP connections, in the thread of the client ------------------------------------------------------

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Seconds until the first search for what was lost.
FIRST_PAUSE = 0.03
# Seconds for a server to greet, and to answer an echo.
_PATIENCE = 5.0
# caproto copies what is left of a chunk for every message in it.
_CHUNK = 1 << 16
_VALUE_OR_ALARM = 1 | 4  # DBE_VALUE, DBE_ALARM
# The requests that carry a number of ours: EVENT_ADD, WRITE, READ_NOTIFY, WRITE_NOTIFY.
_NUMBERED = {1, 4, 15, 19}
_BUSY = "an earlier put of it, with wait, is not answered yet"
_LOST = PutAnswer(Outcome.UNKNOWN, "disconnected after it was sent; it may have happened")

#: Takes the answer to a request; None when the connection was lost.
Handler = Callable[[Any], None]


class Channel:
    """One PV: searched for while somebody wants it, kept once it is connected.

    :raises caproto.CaprotoError: for a name that cannot be asked for.
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
        self.waiting: list[Operation] = []
        self.subscriptions: set[CaSubscription] = set()

    @property
    def native(self) -> Native:
        """What the server told of it."""
        return Native(self.name, int(self.link.native_data_type), int(self.link.native_data_count))

    def answer(self, command: Any) -> Answer:
        """Put together what came with what is known."""
        rights = self.link.access_rights
        writable = None if rights is None else bool(rights & caproto.AccessRights.WRITE)
        return Answer(self.native, command.data, command.metadata, self.control, writable)


class Circuit:
    """The connection to one server; opens itself, is dropped by the client."""

    def __init__(self, client: Client, address: tuple[str, int]) -> None:
        """Begin to connect."""
        self.address = address
        self.socket = socket.socket()
        self._client = client
        self._state = _new_state(address)
        self._channels: dict[int, Channel] = {}
        # By the number of the request; the one of a subscription stays.
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
        client.selector.register(self.socket, self._mask, self._event)
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
        """Send what has come together, as much as goes."""
        if self._connected and self._out:
            with contextlib.suppress(BlockingIOError):
                del self._out[: self.socket.send(self._out)]
        mask = _READ | _WRITE if self._out or not self._connected else _READ
        if mask != self._mask:
            self._mask = mask
            self._client.selector.modify(self.socket, mask, self._event)

    def check(self, now: float) -> None:
        """Ask a server that is silent for long whether it is there.

        :raises ConnectionError: when it has not answered that, or never greeted.
        """
        if self._greeted and self._asked is None:
            if now - self._heard > self._client.silence:
                self._asked = now
                self._send(caproto.EchoRequest())
        elif now - (self._asked or self._heard) > _PATIENCE:
            raise ConnectionError("it does not answer")

    def drop(self) -> None:
        """Close it: its channels are searched for, gets are sent again, what became of puts is unknown."""
        self._client.selector.unregister(self.socket)
        self.socket.close()
        for channel in self._channels.values():
            self._lose(channel)
        handlers, self._handlers = self._handlers, {}
        for handler in handlers.values():
            handler(None)

    def _event(self, mask: int) -> None:
        """Take up what the socket is ready for."""
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
        """Take a channel that this server has."""
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
        self._client.search_for(channel, FIRST_PAUSE if connected else None)
        if connected:
            for subscription in channel.subscriptions:
                subscription.push(PvNotConnected(subscription.address.text, "disconnected"))

    # -- requests -------------------------------------------------------------------------------------------------

    def serve(self, channel: Channel) -> None:
        """Send what waits for the channel, as far as it can be sent now."""
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
        number = next(self._client.numbers)
        self._handlers[number] = handler
        self._send(make(number))
        return number

    def _describe(self, channel: Channel, then: Handler | None = None) -> None:
        """Read units, limits and labels: they do not come with the time."""

        def described(answer: Any) -> None:
            if answer is not None and answer.status.success:
                channel.control = answer.metadata
            if then is not None:
                then(answer)

        self._request(described, lambda number: channel.link.read("control", 1, number))

    def _get(self, channel: Channel, operation: Operation) -> None:
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

    def _put(self, channel: Channel, operation: Operation) -> None:
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
            # The server has come past the write; an error to it would have been here first.
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
                subscription.push(PvRefused(subscription.address.text, _words(answer)))
                return
            subscription.number = self._request(
                changed,
                lambda number: link.subscribe("time", _elements(channel), number, mask=_VALUE_OR_ALARM),
            )

        def changed(answer: Any) -> None:
            if answer is not None and answer.status.success:
                subscription.push(channel.answer(answer))
            elif answer is not None:
                subscription.push(PvRefused(subscription.address.text, _words(answer)))

        self._describe(channel, described)

    def unwatch(self, channel: Channel, subscription: CaSubscription) -> None:
        """End a subscription."""
        if self._handlers.pop(subscription.number, None) is not None:
            self._send(channel.link.unsubscribe(subscription.number))


def _new_state(address: tuple[str, int]) -> Any:
    return caproto.VirtualCircuit(our_role=caproto.CLIENT, address=address, priority=0)


def _elements(channel: Channel) -> int:
    """Say how many elements to ask for: 0 stands for as many as there are now (Channel Access 4.13)."""
    return 0 if channel.native.elements > 1 else 1


def _words(answer: Any) -> str:
    status = answer.status
    return f"{status.description} ({status.name})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "nobody"


# ---- the client ------------------------------------------------------------------------------------------------------

# Seconds between searches: FIRST_PAUSE is doubled up to one of these.
_PAUSE_IN_A_CALL, _LONGEST_PAUSE = 0.5, 5.0
_TICK = 1.0
_DATAGRAM = 1024  # bytes; what the specification allows for a search


class Client:
    """All that one process has of Channel Access."""

    def __init__(self) -> None:
        """Open the socket for searches and start the thread."""
        environment = caproto.get_environment_variables()
        #: Seconds after which a silent server is asked whether it is there.
        self.silence = float(environment["EPICS_CA_CONN_TMO"])
        #: One count for channels, requests and subscriptions.
        self.numbers = itertools.count(1)
        self.selector = selectors.DefaultSelector()
        self._addresses = _search_addresses(environment)
        self._broadcaster = caproto.Broadcaster(our_role=caproto.CLIENT)
        self._channels: dict[str, Channel] = {}
        self._lost: dict[int, Channel] = {}
        self._circuits: dict[tuple[str, int], Circuit] = {}
        self._pause = FIRST_PAUSE
        self._search_at = self._tick_at = 0.0
        self._running = True
        self._calls: deque[Callable[[], None]] = deque()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._udp.bind(("", 0))
        self._bell, self._ear = socket.socketpair()
        for sock in (self._udp, self._bell, self._ear):
            sock.setblocking(False)
        self.selector.register(self._udp, selectors.EVENT_READ, self._found)
        self.selector.register(self._ear, selectors.EVENT_READ, self._called)
        self._thread = threading.Thread(target=self._run, name="ca client", daemon=True)
        self._thread.start()

    # -- for other threads ----------------------------------------------------------------------------------------

    def call(self, function: Callable[[], None]) -> None:
        """Run it in the client's thread, soon."""
        self._calls.append(function)
        with contextlib.suppress(OSError):  # it rings already so often that no more fits, or it is closed
            self._bell.send(b"!")

    def close(self) -> None:
        """Close every socket and end the thread."""
        self.call(self._stop)
        self._thread.join()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._running = False

    def _run(self) -> None:
        while self._running:
            for key, mask in self.selector.select(self._until_next()):
                self._guarded(key.data, mask)
            now = time.monotonic()
            tick = now >= self._tick_at
            if tick:
                self._tick_at = now + _TICK
            for circuit in list(self._circuits.values()):
                if tick:
                    self._guarded(circuit.check, now)
                self._guarded(circuit.flush)
        for circuit in self._circuits.values():
            circuit.socket.close()
        for sock in (self._udp, self._bell, self._ear):
            sock.close()
        self.selector.close()

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call it; the circuit whose method raises is dropped."""
        circuit = getattr(function, "__self__", None)
        if isinstance(circuit, Circuit) and self._circuits.get(circuit.address) is not circuit:
            return
        try:
            function(*arguments)
        except Exception as error:  # what one server breaks or sends must not end the client for the others
            if not isinstance(error, OSError):
                logger.exception("Channel Access, %r", circuit)
            if isinstance(circuit, Circuit):
                logger.debug("%r is dropped: %s", circuit, error)
                del self._circuits[circuit.address]
                circuit.drop()

    def _until_next(self) -> float | None:
        """Search if it is time; give the seconds until something is due."""
        now = time.monotonic()
        if self._lost and now >= self._search_at:
            self._search()
            self._search_at = now + self._pause
        due = [self._search_at] if self._lost else []
        due += [self._tick_at] if self._circuits else []
        return max(0.0, min(due) - now) if due else None

    def _search(self) -> None:
        in_a_call = False
        for number, channel in list(self._lost.items()):
            channel.waiting = [operation for operation in channel.waiting if operation.wanted]
            in_a_call = in_a_call or bool(channel.waiting)
            if not channel.waiting and not channel.subscriptions:
                del self._lost[number], self._channels[channel.name]
        version = caproto.VersionRequest(0, caproto.DEFAULT_PROTOCOL_VERSION)
        searches = [channel.search for channel in self._lost.values()]
        for batch in caproto.batch_requests(searches, _DATAGRAM - len(version)):
            datagram = self._broadcaster.send(version, *batch)
            for address in self._addresses:
                with contextlib.suppress(OSError):  # no way to one of them; another may know the PV
                    self._udp.sendto(datagram, address)
        self._pause = min(2 * self._pause, _PAUSE_IN_A_CALL if in_a_call else _LONGEST_PAUSE)

    def _found(self, _mask: int) -> None:
        """Connect to the server that answered a search; the first answer counts."""
        for command in self._broadcaster.recv(*self._udp.recvfrom(_CHUNK)):
            if isinstance(command, caproto.SearchResponse) and (channel := self._lost.get(command.cid)):
                address = caproto.extract_address(command)
                if address not in self._circuits:
                    self._circuits[address] = Circuit(self, address)
                self._circuits[address].add(channel)
                del self._lost[command.cid]

    def _called(self, _mask: int) -> None:
        self._ear.recv(_CHUNK)
        while self._calls:
            self._guarded(self._calls.popleft())

    # -- in the thread: what calls and circuits ask for -----------------------------------------------------------

    def search_for(self, channel: Channel, pause: float | None = None) -> None:
        """Search for a channel that is not connected.

        :param pause: seconds from now, and often then; None: when the others are searched for that are.
        """
        self._lost[channel.number] = channel
        if pause is not None:
            self._pause = FIRST_PAUSE
            self._search_at = min(self._search_at, time.monotonic() + pause)

    def _channel(self, name: str) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, next(self.numbers))
        if channel.circuit is None:
            self.search_for(channel, 0.0)
        return channel

    def want(self, operations: Iterable[Operation]) -> None:
        """Start gets and puts, each as soon as its PV is connected."""
        for operation in operations:
            try:
                channel = self._channel(operation.address.name)
            except caproto.CaprotoError as error:
                operation.refuse(str(error))
                continue
            channel.waiting.append(operation)
            if channel.circuit is not None:
                channel.circuit.serve(channel)

    def watch(self, subscription: CaSubscription) -> None:
        """Start a subscription."""
        try:
            channel = self._channel(subscription.address.name)
        except caproto.CaprotoError as error:
            subscription.push(PvNotConnected(subscription.address.text, str(error)))
            return
        subscription.number = 0
        channel.subscriptions.add(subscription)
        if channel.circuit is not None and channel.link is not None:
            channel.circuit.watch(channel, subscription)

    def unwatch(self, subscription: CaSubscription) -> None:
        """End a subscription."""
        channel = self._channels.get(subscription.address.name)
        if channel is not None:
            channel.subscriptions.discard(subscription)
            if channel.circuit is not None:
                channel.circuit.unwatch(channel, subscription)


def _search_addresses(environment: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Give the addresses to search at, as caproto reads them from the environment.

    With one difference, as in EPICS base: an empty list with ``EPICS_CA_AUTO_ADDR_LIST=NO`` reaches nothing, where
    caproto would broadcast to the whole site.
    """
    if not environment["EPICS_CA_ADDR_LIST"].strip() and environment["EPICS_CA_AUTO_ADDR_LIST"].lower() == "no":
        return []
    addresses = []
    for host, port in caproto.get_client_address_list():
        try:
            # Once: the thread of the client must not wait for a name server at every search.
            addresses.append((socket.gethostbyname(host), port))
        except OSError as error:
            logger.warning("EPICS_CA_ADDR_LIST: %s: %s", host, error)
    return addresses


# ---- the backend -----------------------------------------------------------------------------------------------------

# A fork waits for puts in flight, but not for ever.
_FORK_PATIENCE = 10.0
_LONGEST_WAIT = 3600.0


def open_backend() -> CaBackend:
    """Make the backend for ``ca://``; it opens nothing yet.

    :raises MissingExtra: when caproto is not installed.
    """
    if caproto is None:
        raise MissingExtra("ca:// addresses", "ca")
    return CaBackend()


class CaBackend:
    """PVs over Channel Access, with one client for the whole process, open from the first use on.

    Addresses come from the process environment (``EPICS_CA_ADDR_LIST`` and its kin), as every EPICS user expects.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        self._forget()
        fork.register(self)

    def _forget(self) -> None:
        # Held while operations are handed over and through a fork; never while waiting for an answer.
        self._lock = threading.RLock()
        self._client: Client | None = None
        self._batches: set[Batch] = set()
        self._subscriptions: set[CaSubscription] = set()
        self._events: queue.SimpleQueue[CaSubscription | None] = queue.SimpleQueue()
        self._dispatcher: threading.Thread | None = None

    def _open(self) -> Client:
        if self._client is None:
            self._client = Client()
        return self._client

    # -- reading and writing ------------------------------------------------------------------------------------

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all at once. Value, alarm and time of one PV are of one instant; units and limits are read beside it.

        :raises CallCancelled: when the deadline is cancelled.
        """
        answers = self._run(Batch(deadline, puts=False), dict.fromkeys(addresses))
        if deadline.cancelled:
            names = ", ".join(address.text for address in addresses[:3])
            raise CallCancelled(f"reading {names}{' and others' if len(addresses) > 3 else ''} cancelled")
        return {address: update(address, answer) for address, answer in answers.items()}

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        """Write all at once; the top of this module says what APPLIED means with ``wait`` and without."""
        return self._run(Batch(deadline, puts=True), values, wait)

    def snapshot(self, addresses: Sequence[PvAddress], window: float, deadline: Deadline) -> dict[PvAddress, Update]:
        """Read all at once: Channel Access has nothing closer to one instant."""
        return self.get_many(addresses, deadline)

    def _run(
        self, batch: Batch, values: Mapping[PvAddress, Any], wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, Any]:
        """Start an operation for each and wait."""
        answers: dict[PvAddress, Any] = {}
        with self._lock:
            self._batches.add(batch)
            batch.pending = {a: Operation(batch, a, value, a in wait) for a, value in values.items()}
            # Of a call that is over nothing more is sent, not even for the instant until it is given up.
            if not batch.deadline.expired:
                client = self._open()
                client.call(functools.partial(client.want, list(batch.pending.values())))
        unsubscribe = batch.deadline.on_cancel(lambda: batch.answers.put(None))
        try:
            while batch.pending and (left := batch.deadline.remaining()) > 0.0:
                try:
                    got = batch.answers.get(timeout=min(left, _LONGEST_WAIT))
                except queue.Empty:
                    continue
                if got is not None and batch.pending.pop(got[0].address, None) is not None:
                    answers[got[0].address] = got[1]
        finally:
            unsubscribe()
            for address, operation in batch.pending.items():
                answers[address] = operation.give_up()
            # The last answers may have come in while the rest was given up.
            while not batch.answers.empty():
                if (late := batch.answers.get()) is not None and late[0].address in batch.pending:
                    answers[late[0].address] = late[1]
            self._batches.discard(batch)
            batch.finished.set()
        return {address: answers[address] for address in values}

    # -- monitors -----------------------------------------------------------------------------------------------

    def monitor(self, address: PvAddress, callback: Callable[[Update], None], queue: int = 16) -> Subscription:
        """Subscribe; the callback runs in the one thread of this backend's monitors.

        Units, limits and labels are those of the time of connection, or of the last read of this PV.
        """
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = threading.Thread(
                    target=dispatch, args=(self._events,), name="ca monitors", daemon=True
                )
                self._dispatcher.start()
            subscription = CaSubscription(self._drop, address, callback, queue, self._events)
            self._subscriptions.add(subscription)
            client = self._open()
            client.call(functools.partial(client.watch, subscription))
        return subscription

    def _drop(self, subscription: CaSubscription) -> None:
        """Forget a subscription that was closed."""
        with self._lock:
            self._subscriptions.discard(subscription)
            if (client := self._client) is not None:
                client.call(functools.partial(client.unwatch, subscription))

    # -- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End calls in flight (gets fail, sent puts are UNKNOWN), subscriptions, the client and its thread."""
        fork.unregister(self)
        with self._lock:
            batches, subscriptions = list(self._batches), list(self._subscriptions)
            client, self._client = self._client, None
            dispatcher, self._dispatcher = self._dispatcher, None
        for batch in batches:
            batch.deadline.cancel("the interface was closed")
        for subscription in subscriptions:
            subscription.close()
        if dispatcher is not None:
            self._events.put(None)
            if dispatcher is not threading.current_thread():
                dispatcher.join()
        if client is not None:
            client.close()

    def suspend(self) -> None:
        """Put down every socket; gets and subscriptions of other threads go on afterwards."""
        with self._lock:
            self.before_fork()
            self.after_fork_in_parent()

    def before_fork(self) -> None:
        """Wait for puts in flight, then end the client: a child must not share its connections."""
        self._lock.acquire()
        for batch in [batch for batch in self._batches if batch.puts]:
            batch.finished.wait(min(batch.deadline.remaining(), _FORK_PATIENCE))
        if self._client is not None:
            self._client.close()
            self._client = None

    def after_fork_in_parent(self) -> None:
        """Start the gets again that were in flight, and the subscriptions."""
        try:
            gets = [op for batch in list(self._batches) if not batch.puts for op in list(batch.pending.values())]
            if gets or self._subscriptions:
                client = self._open()
                client.call(functools.partial(client.want, gets))
                for subscription in self._subscriptions:
                    client.call(functools.partial(client.watch, subscription))
        finally:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the threads that waited here exist in the parent alone."""
        for subscription in self._subscriptions:
            subscription.forget()
        self._forget()
