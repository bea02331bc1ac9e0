"""Servers that are none, and such as are not an IOC."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

from badger_k2eg.backends import open_backend
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, PvAddress, Reading
from badger_k2eg.errors import PvNotConnected
from badger_k2eg.testing.ports import LOOPBACK, free_port, wait_for_ca
from badger_k2eg.testing.soft_ioc import SoftIoc, repeater_port
from tests.rig.pace import pace

from .parts import AT_ONCE, PATIENCE, Pvs, Timer


class Impostor:
    """Answers a search for IMP:X, and does not serve it.

    :param speech: what it says to who connects; None: nobody can.
    """

    def __init__(self, speech: bytes | None) -> None:
        self.port = free_port()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((LOOPBACK, self.port))
        self._tcp = socket.create_server((LOOPBACK, self.port)) if speech is not None else None
        self._speech = speech or b""
        self.visits: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._found)]
        if self._tcp is not None:
            self._threads.append(threading.Thread(target=self._visited, args=(self._tcp,)))
        for thread in self._threads:
            thread.start()

    def _found(self) -> None:
        while True:
            request, client = self._udp.recvfrom(4096)
            if request == b"end":
                return
            at = 0
            while at + 16 <= len(request):
                command, size, _, _, number, _ = struct.unpack_from(">HHHHII", request, at)
                if command == 6 and request[at + 16 : at + 16 + size].rstrip(b"\0") == b"IMP:X":
                    answer = struct.pack(">HHHHII", 6, 8, self.port, 0, 0xFFFFFFFF, number) + b"\0\x0d" + bytes(6)
                    self._udp.sendto(b"garbage that is no message at all", client)
                    self._udp.sendto(answer, client)
                at += 16 + size

    def _visited(self, tcp: socket.socket) -> None:
        while True:
            visit, _ = tcp.accept()
            self.visits.append(visit)
            if visit.recv(3, socket.MSG_PEEK) == b"end":
                return
            visit.sendall(self._speech)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"end", (LOOPBACK, self.port))
        if self._tcp is not None:
            with socket.create_connection((LOOPBACK, self.port)) as end:
                end.sendall(b"end")
                self._threads[1].join()
            self._tcp.close()
        self._threads[0].join()
        self._udp.close()
        for visit in self.visits:
            visit.close()


@pytest.mark.parametrize("speech", [None, b"", b"\xff" * 64], ids=["refuses", "is mute", "talks nonsense"])
def test_a_server_that_is_none_keeps_nobody_else_from_working(
    ioc: SoftIoc, monkeypatch: pytest.MonkeyPatch, speech: bytes | None
) -> None:
    """The search thread of caproto's own client ends for good at the first server that refuses a connection."""
    impostor = Impostor(speech)
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", f"{LOOPBACK}:{impostor.port} {os.environ['EPICS_CA_ADDR_LIST']}")
    pvs = Pvs(ioc, open_backend("ca"))
    try:
        with Timer() as timer:
            answers = pvs.gets("IMP:X", "DBL", timeout=0.6)
        assert timer.seconds < 0.6 + AT_ONCE * pace()
        assert type(answers["IMP:X"]) is PvNotConnected
        assert isinstance(answers["DBL"], Reading)
        if speech is not None:
            assert impostor.visits
            assert len(impostor.visits) < 40
        assert pvs.get("INT", timeout=AT_ONCE).value == 42
        assert pvs.put("IMP:X", 1.0, timeout=0.2)[0] is Outcome.NOT_SENT
    finally:
        pvs.backend.close()
        impostor.close()


PYTHON_IOC = """
import sys
from caproto.server import PVGroup, pvproperty, run

class Big(PVGroup):
    big = pvproperty(value=[0.0] * 3, dtype=float, max_length=1_000_000, name="BIG")
    no = pvproperty(value=1.0, name="NO")

    @no.putter
    async def no(self, instance, value):
        raise ValueError("no")

run(Big(prefix="CAP:").pvdb, interfaces=["127.0.0.1"])
"""


def test_eight_megabytes_and_another_kind_of_server(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    settings = {
        "EPICS_CAS_SERVER_PORT": port, "EPICS_CA_SERVER_PORT": port, "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK, "EPICS_CAS_BEACON_PORT": repeater_port(),
    }  # fmt: skip
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", f"{LOOPBACK}:{port}")
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "-c", PYTHON_IOC], env=environment, **quiet)  # type: ignore[call-overload]
    backend = open_backend("ca")
    try:
        wait_for_ca("CAP:BIG", port)
        big, no = PvAddress.parse("CAP:BIG"), PvAddress.parse("CAP:NO")
        asked = np.arange(1_000_000) / 7
        assert backend.put_many({big: asked}, Deadline(PATIENCE))[big].outcome is Outcome.APPLIED
        answer = backend.get_many([big], Deadline(PATIENCE))[big]
        assert isinstance(answer, Reading) and np.array_equal(answer.value, asked)
        assert answer.type.max_length == 1_000_000
        # Such a server answers a plain put out of order; one in ``wait`` it answers for itself.
        assert backend.put_many({no: 2.0}, Deadline(PATIENCE), wait=[no])[no].outcome is Outcome.REFUSED
    finally:
        backend.close()
        server.terminate()
        server.wait()
