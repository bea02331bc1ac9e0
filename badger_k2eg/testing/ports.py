"""Ports for parts on loopback, and the proof that a server answers on them.

The proof is a minimal client for each protocol: one search over PVAccess or Channel Access, then a TCP connection.

Sources: pvAccess Protocol Specification, 4.3 (header, searchRequest 0x03, searchResponse 0x04); Channel Access
Protocol Specification (CA_PROTO_VERSION 0, CA_PROTO_SEARCH 6).
"""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import time
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
PORT_TAKEN = "port taken"
"""Part of the error of a server whose chosen port was not free."""

# Below the range of outgoing connections on Linux (from 32768) and macOS (from 49152): no client's socket takes a port
# chosen here between two starts of a server.
_LOWEST, _HIGHEST = 12000, 32000

_random = random.SystemRandom()
_given: set[int] = set()


def _own_ports() -> range:
    """Return the ports to choose from: each worker of pytest-xdist, with its children, has its own range."""
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    count = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    if worker is None or not count.isdecimal() or int(worker[1]) >= int(count):
        return range(_LOWEST, _HIGHEST)
    share = (_HIGHEST - _LOWEST) // int(count)
    return range(_LOWEST + int(worker[1]) * share, _LOWEST + (int(worker[1]) + 1) * share)


def free_port() -> int:
    """Return a loopback port that is free for UDP and TCP, and never the same one twice in this process.

    :raises OSError: if none is found.
    """
    ports = _own_ports()
    for _ in range(1000):
        port = _random.choice(ports)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port between {ports[0]} and {ports[-1]}")


@dataclass(frozen=True, slots=True)
class PartPorts:
    """Ports of one server; no two servers share one."""

    pva_tcp: int = field(default_factory=free_port)
    """Where it serves PVAccess."""
    pva_udp: int = field(default_factory=free_port)
    """Where it listens for PVAccess searches."""
    ca: int = field(default_factory=free_port)
    """Where it serves Channel Access and listens for its searches."""


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                # On all interfaces, as some servers bind their UDP socket.
                probe.bind(("", port))
            except OSError:
                return False
    return True


def wait_for_pva(name: str, udp_port: int, tcp_port: int, *, timeout: float = 10.0) -> None:
    """Wait until a PVAccess server answers a search for this PV and accepts a connection on the given port.

    :param name: a PV it serves.
    :param udp_port: the port on which it listens for searches.
    :param tcp_port: the port on which it must serve.
    :param timeout: seconds.
    :raises RuntimeError: if it serves on another port, because this one was taken.
    :raises TimeoutError: if it does not answer.
    """
    until = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        sock.settimeout(0.02)
        request = _pva_search(name, sock.getsockname()[1])
        while time.monotonic() < until:
            sock.sendto(request, (LOOPBACK, udp_port))
            port = _pva_found(_receive(sock))
            if port is not None:
                _connect(port, tcp_port, until)
                return
    raise TimeoutError(f"no PVAccess server answered for {name} on UDP port {udp_port} in {timeout} s")


def wait_for_ca(name: str, port: int, *, timeout: float = 10.0) -> None:
    """Wait until a Channel Access server answers a search for this PV and accepts a connection on the same port.

    :param name: a PV it serves.
    :param port: its UDP and TCP port.
    :param timeout: seconds.
    :raises RuntimeError: if it serves on another port, because this one was taken.
    :raises TimeoutError: if it does not answer.
    """
    until = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.02)
        while time.monotonic() < until:
            sock.sendto(_ca_search(name), (LOOPBACK, port))
            found = _ca_found(_receive(sock))
            if found is not None:
                _connect(found, port, until)
                return
    raise TimeoutError(f"no Channel Access server answered for {name} on port {port} in {timeout} s")


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(2048)
    except OSError:
        return b""


def _connect(found: int, wanted: int, until: float) -> None:
    if found != wanted:
        raise RuntimeError(f"{PORT_TAKEN}: the server went to {found} instead of {wanted}")
    with socket.create_connection((LOOPBACK, wanted), timeout=max(0.1, until - time.monotonic())) as sock:
        # Both servers send a greeting first. Closing with it unread would reset the connection, which a server reports.
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass


def _pva_search(name: str, reply_port: int) -> bytes:
    reply_to = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(LOOPBACK)
    text = name.encode()
    body = struct.pack("<IB3x", 0x4B32, 0x81) + reply_to + struct.pack("<H", reply_port)
    body += b"\x01\x03tcp" + struct.pack("<HIB", 1, 1, len(text)) + text
    return struct.pack("<BBBBI", 0xCA, 2, 0x00, 0x03, len(body)) + body


def _pva_found(reply: bytes) -> int | None:
    # header 8, guid 12, sequence 4, address 16, port 2, protocol string, found 1
    if len(reply) < 47 or reply[0] != 0xCA or reply[3] != 0x04:
        return None
    order = ">" if reply[2] & 0x80 else "<"
    (port,) = struct.unpack_from(order + "H", reply, 40)
    found = reply[42 + 1 + reply[42]]
    return int(port) if found else None


def _ca_search(name: str) -> bytes:
    text = name.encode() + b"\0"
    text += b"\0" * (-len(text) % 8)
    version = struct.pack(">HHHHII", 0, 0, 0, 13, 0, 0)
    return version + struct.pack(">HHHHII", 6, len(text), 5, 13, 1, 1) + text


def _ca_found(reply: bytes) -> int | None:
    at = 0
    while at + 16 <= len(reply):
        command, size, port = struct.unpack_from(">HHH", reply, at)
        if command == 6:
            return int(port)
        at += 16 + size
    return None
