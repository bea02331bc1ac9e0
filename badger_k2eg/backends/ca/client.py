"""The Channel Access client: finds PVs, holds the circuits to their servers, and drives it all from one thread.

Uses caproto's protocol core (commands, ``VirtualCircuit``, ``Broadcaster``) with a selector of its own, not
``caproto.threading.client`` (measured with caproto 1.3.0): that one does not report the error reply to a plain put; its
search thread ends for good when a server that was found refuses the connection, and no further PV connects; it takes
0.4 to 5 s to end, at each fork too.

A PV is searched for while a call or a subscription wants it, and only then. Beacons are not listened to, so nothing
here speaks to a CA repeater or starts one (``caproto.sync.client`` and ``caproto-get`` do start one, which outlives
them). Everything but ``call`` and ``close`` runs in the thread "ca client", so that nothing needs a lock; answers are
passed on through queues. Imports caproto, and no other client library.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import caproto

from ...core.errors import PvNotConnected
from .circuit import FIRST_PAUSE, Channel, Circuit
from .operations import CaOperation, CaSubscription

logger = logging.getLogger(__name__)

# Seconds between searches: FIRST_PAUSE is doubled up to one of these.
_PAUSE_IN_A_CALL, _LONGEST_PAUSE = 0.5, 5.0
_TICK = 1.0
_DATAGRAM = 1024  # bytes; what the specification allows for a search
_CHUNK = 1 << 16


class Client:
    """The Channel Access client of a process."""

    def __init__(self) -> None:
        """Open the socket for searches and start the thread."""
        environment = caproto.get_environment_variables()
        #: Seconds of silence after which a server is sent an echo.
        self.silence = float(environment["EPICS_CA_CONN_TMO"])
        #: Numbers for channels, requests and subscriptions.
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
        """Run a function in the client's thread soon."""
        self._calls.append(function)
        with contextlib.suppress(OSError):  # the buffer is full of wake-ups already, or it is closed
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
        """Call a function; drop the circuit whose method raises."""
        circuit = getattr(function, "__self__", None)
        if isinstance(circuit, Circuit) and self._circuits.get(circuit.address) is not circuit:
            return
        try:
            function(*arguments)
        except Exception as error:  # a fault of one server must not end the client for the others
            if not isinstance(error, OSError):
                logger.exception("Channel Access, %r", circuit)
            if isinstance(circuit, Circuit):
                logger.debug("%r is dropped: %s", circuit, error)
                del self._circuits[circuit.address]
                circuit.drop()

    def _until_next(self) -> float | None:
        """Search if it is time, and return the seconds until something is due; None if nothing is."""
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
            channel.waiting = [operation for operation in channel.waiting if operation.is_wanted]
            in_a_call = in_a_call or bool(channel.waiting)
            if not channel.waiting and not channel.subscriptions:
                del self._lost[number], self._channels[channel.name]
        version = caproto.VersionRequest(0, caproto.DEFAULT_PROTOCOL_VERSION)
        searches = [channel.search for channel in self._lost.values()]
        for batch in caproto.batch_requests(searches, _DATAGRAM - len(version)):
            datagram = self._broadcaster.send(version, *batch)
            for address in self._addresses:
                with contextlib.suppress(OSError):  # one address may be unreachable; another may know the PV
                    self._udp.sendto(datagram, address)
        self._pause = min(2 * self._pause, _PAUSE_IN_A_CALL if in_a_call else _LONGEST_PAUSE)

    def _found(self, _mask: int) -> None:
        """Connect to the server that answered a search first."""
        for command in self._broadcaster.recv(*self._udp.recvfrom(_CHUNK)):
            if isinstance(command, caproto.SearchResponse) and (channel := self._lost.get(command.cid)):
                address = caproto.extract_address(command)
                if address not in self._circuits:
                    self._circuits[address] = Circuit(
                        address,
                        selector=self.selector,
                        numbers=self.numbers,
                        silence=self.silence,
                        search_for=self.search_for,
                    )
                self._circuits[address].add(channel)
                del self._lost[command.cid]

    def _called(self, _mask: int) -> None:
        self._ear.recv(_CHUNK)
        while self._calls:
            self._guarded(self._calls.popleft())

    # -- in the thread: for calls and circuits --------------------------------------------------------------------

    def search_for(self, channel: Channel, pause: float | None = None) -> None:
        """Search for a channel that is not connected.

        :param pause: seconds until the first search of a quick series; None to join the present rhythm.
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

    def want(self, operations: Iterable[CaOperation]) -> None:
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
            subscription.put(PvNotConnected(subscription.address.text, str(error)))
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
    """Return the addresses to search at, as caproto reads them from the environment.

    With one difference, as in EPICS base: an empty list with ``EPICS_CA_AUTO_ADDR_LIST=NO`` reaches nothing, where
    caproto would broadcast to the whole site.
    """
    if not environment["EPICS_CA_ADDR_LIST"].strip() and environment["EPICS_CA_AUTO_ADDR_LIST"].lower() == "no":
        return []
    addresses = []
    for host, port in caproto.get_client_address_list():
        try:
            # Only once: the client's thread must not wait for a name server at every search.
            addresses.append((socket.gethostbyname(host), port))
        except OSError as error:
            logger.warning("EPICS_CA_ADDR_LIST: %s: %s", host, error)
    return addresses
