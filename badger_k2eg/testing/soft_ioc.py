"""`SoftIoc`: a real EPICS IOC in a child process, on loopback only, over PVAccess and Channel Access.

Owns what `SoftIoc` and `FaultServer` share (`Part`: name prefix, ports, life-cycle) and the environment their clients
need. The records are those of `ioc_records`. softioc is imported only in the child.

Every part has UDP and TCP ports of its own, and a client lists them all, `EPICS_PVA_ADDR_LIST='127.0.0.1:a
127.0.0.1:b'`: the kernel gives a unicast search on a UDP port that several servers share to one of them only. Not
EPICS_PVA_NAME_SERVERS: a client dials a restarted server again only every 10 s.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import random
import shutil
import tempfile
from types import TracebackType
from typing import Self

from .ports import LOOPBACK, PORT_TAKEN, PartPorts, free_port
from .processes import ChildFailed, ChildProcess, clean_environment

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
_random = random.SystemRandom()

FLAG_DELAYS = (0.01, 0.1, 0.3, 1.0, 2.5, None)
"""Seconds from a put to MOVE:n:SP until the flag MOVE:n:ST rises; None never does."""

MOVE_SECONDS = 0.3
"""How long the flag is up. MOVE:n:RB has arrived when it clears, and not before."""


class MissingTestPart(ImportError):
    """A package of the extra `test` is not installed."""


def random_prefix() -> str:
    """Make a PV name prefix nobody else on this host uses, like T3F9A."""
    return "T" + "".join(_random.choices(_LETTERS, k=4))


@functools.cache
def beacon_port() -> int:
    """Give the UDP port on which clients listen for PVAccess beacons: one where nobody sends any."""
    return free_port()


@functools.cache
def repeater_port() -> int:
    """Give the UDP port of the Channel Access repeater of this process's clients."""
    return free_port()


def client_environment(*parts: Part | PartPorts) -> dict[str, str]:
    """Give the EPICS_* variables with which a client reaches all these parts, and nothing else.

    :param parts: running ones, or the ports of some that are yet to start; with none, the client reaches nothing.
    """
    ports = [part.ports if isinstance(part, Part) else part for part in parts]
    environment = {
        "EPICS_PVA_ADDR_LIST": " ".join(f"{LOOPBACK}:{each.pva_udp}" for each in ports),
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": str(beacon_port()),
        "EPICS_PVA_NAME_SERVERS": "",
        "EPICS_CA_ADDR_LIST": " ".join(f"{LOOPBACK}:{each.ca}" for each in ports),
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_NAME_SERVERS": "",
        "EPICS_CA_REPEATER_PORT": str(repeater_port()),
    }
    if ports:
        environment["EPICS_CA_SERVER_PORT"] = str(ports[0].ca)
    return environment


class Part:
    """A real EPICS server of a test in a child process; the base of `SoftIoc` and `FaultServer`.

    :param prefix: of all its PVs, without the colon; random by default.
    :param ports: where it serves; free ones by default, and then others if somebody is faster.
    :raises MissingTestPart: if a package of the extra `test` is not installed.
    :raises ChildFailed: if it does not start; the message has what it printed.
    """

    _module: str
    _package: str

    def __init__(self, prefix: str | None = None, *, ports: PartPorts | None = None) -> None:
        """Choose what is not given, and start; returns when a client can connect."""
        if importlib.util.find_spec(self._package) is None:
            raise MissingTestPart(f"{self._package} is not installed: pip install badger-k2eg[test]")
        #: Of all its PVs, without the colon.
        self.prefix = prefix or random_prefix()
        self.ports = ports or PartPorts()
        self._child = self._launch(attempts=1 if ports else 3)

    def _arguments(self) -> list[str]:
        return []

    def _server_environment(self) -> dict[str, str]:
        return {
            "EPICS_PVAS_SERVER_PORT": str(self.ports.pva_tcp),
            "EPICS_PVAS_BROADCAST_PORT": str(self.ports.pva_udp),
            "EPICS_PVAS_INTF_ADDR_LIST": LOOPBACK,
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
            # No beacons. A client hurries its searches for the first one only, and for 30 s after that one it finds a
            # restarted server more slowly than by its own searches (4 s instead of 0.8 s). Nor would every client of a
            # host see them: the kernel gives each to one socket.
            "EPICS_PVAS_BEACON_ADDR_LIST": "",
            "EPICS_CAS_SERVER_PORT": str(self.ports.ca),
            "EPICS_CAS_INTF_ADDR_LIST": LOOPBACK,
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK,
            "EPICS_CAS_BEACON_PORT": str(repeater_port()),
        }

    def _launch(self, attempts: int) -> ChildProcess:
        while True:
            try:
                return ChildProcess(
                    ["-m", self._module, self.prefix, *self._arguments()],
                    environment=clean_environment({**self._server_environment(), "OPENBLAS_NUM_THREADS": "1"}),
                    name=f"{type(self).__name__} {self.prefix}",
                )
            except ChildFailed as error:
                attempts -= 1
                if attempts <= 0 or PORT_TAKEN not in str(error):
                    raise
                # Somebody took a port between our choice and the start of the server.
                self.ports = PartPorts()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.prefix}, {self._child!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pv(self, name: str) -> str:
        """Give the whole name of one of its PVs.

        :param name: without the prefix, e.g. `DBL`.
        """
        return f"{self.prefix}:{name}"

    @property
    def client_environment(self) -> dict[str, str]:
        """The EPICS_* variables with which a client reaches this part and nothing else; fixed for its life."""
        return client_environment(self)

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._child.pid

    @property
    def output(self) -> str:
        """The last of what the server printed."""
        return self._child.output

    @property
    def ready_after(self) -> float:
        """Seconds from the last start until a client could connect."""
        return self._child.ready_after

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self._child.kill()

    def stop(self) -> None:
        """Freeze the server (SIGSTOP)."""
        self._child.stop()

    def cont(self) -> None:
        """Let a frozen server go on."""
        self._child.cont()

    def restart(self) -> None:
        """Kill the server and start it anew on the same ports with the same prefix and its first values."""
        self._child.restart()

    def close(self) -> None:
        """End the server. Idempotent."""
        self._child.close()


class SoftIoc(Part):
    """A real IOC with the records of `ioc_records`.

    :param prefix: of all its PVs, without the colon; random by default.
    :param extra_records: so many plain `ao` records BIG:0000, ... besides, for benchmarks.
    :param ports: where it serves; free ones by default.
    """

    _module = "badger_k2eg.testing.ioc_records"
    _package = "softioc"

    def __init__(self, prefix: str | None = None, *, extra_records: int = 0, ports: PartPorts | None = None) -> None:
        """Start it; returns when a client can connect over either protocol."""
        self._extra_records = extra_records
        self._owner = os.getpid()
        self._directory = tempfile.mkdtemp(prefix="badger-k2eg-")
        atexit.register(self._remove_files)
        try:
            super().__init__(prefix, ports=ports)
        except BaseException:
            self._remove_files()
            raise

    def close(self) -> None:
        """End the IOC and remove its files. Idempotent."""
        super().close()
        self._remove_files()

    def _arguments(self) -> list[str]:
        return ["--directory", self._directory, "--extra-records", str(self._extra_records)]

    def _remove_files(self) -> None:
        if os.getpid() == self._owner:  # a forked process leaves them to us
            atexit.unregister(self._remove_files)
            shutil.rmtree(self._directory, ignore_errors=True)
