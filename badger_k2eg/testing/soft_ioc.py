"""`SoftIoc`: a real EPICS IOC in a child process, on loopback only, over PVAccess and Channel Access.

`Part` is any EPICS server of a test (name prefix, ports, life-cycle), `client_environment` what its clients need. The
records are those of `ioc_records`. softioc is imported only in the child.

Every part has UDP and TCP ports of its own, and a client lists them all, `EPICS_PVA_ADDR_LIST='127.0.0.1:a
127.0.0.1:b'`: a unicast search on a UDP port that several servers share reaches only one of them. With
EPICS_PVA_NAME_SERVERS instead, a client would connect to a restarted server again only every 10 s.
"""

from __future__ import annotations

import functools
import importlib.util
import random
from types import TracebackType
from typing import Self

from .ports import LOOPBACK, PORT_TAKEN, PartPorts, free_port
from .processes import ChildFailed, ChildProcess, clean_environment

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
_random = random.SystemRandom()


class MissingTestPart(ImportError):
    """A package of the extra `test` is not installed."""


def random_prefix() -> str:
    """Return a random prefix of PV names, such as T3F9A."""
    return "T" + "".join(_random.choices(_LETTERS, k=4))


@functools.cache
def beacon_port() -> int:
    """Return the UDP port on which clients listen for PVAccess beacons: one to which no server sends any."""
    return free_port()


@functools.cache
def repeater_port() -> int:
    """Return the UDP port of the Channel Access repeater of this process's clients."""
    return free_port()


def client_environment(*parts: Part | PartPorts) -> dict[str, str]:
    """Return the EPICS_* variables with which a client reaches all these parts, and nothing else.

    :param parts: running parts, or the ports of parts that are yet to start; without any, the client reaches nothing.
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
    """A real EPICS server of a test in a child process; the base of `SoftIoc` and of servers of your own.

    A subclass names its program, run as `python -m MODULE PREFIX ARGUMENT...`, which serves on the ports of its EPICS_*
    variables, and calls `processes.exit_with_parent` and `processes.announce_ready`.

    :cvar module: the program.
    :cvar package: what the program needs to be installed.

    :param prefix: prefix of all its PVs, without the colon; random by default.
    :param ports: its ports; free ones by default, and others if one of them is taken meanwhile.
    :raises MissingTestPart: if a package of the extra `test` is not installed.
    :raises ChildFailed: if it does not start; the message contains its output.
    """

    module: str
    package: str

    def __init__(self, prefix: str | None = None, *, ports: PartPorts | None = None) -> None:
        """Start the server; return when a client can connect."""
        if importlib.util.find_spec(self.package) is None:
            raise MissingTestPart(f"{self.package} is not installed: pip install badger-k2eg[test]")
        #: Prefix of all its PVs, without the colon.
        self.prefix = prefix or random_prefix()
        self.ports = ports or PartPorts()
        self._child = self._launch(attempts=1 if ports else 3)

    def arguments(self) -> list[str]:
        """Return further arguments of the program."""
        return []

    def _server_environment(self) -> dict[str, str]:
        return {
            "EPICS_PVAS_SERVER_PORT": str(self.ports.pva_tcp),
            "EPICS_PVAS_BROADCAST_PORT": str(self.ports.pva_udp),
            "EPICS_PVAS_INTF_ADDR_LIST": LOOPBACK,
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
            # No beacons. A client speeds up its searches for the first beacon only, and for 30 s after it finds a
            # restarted server more slowly than by its own searches (4 s instead of 0.8 s). Nor would every client of
            # a host receive them: each beacon reaches one socket.
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
                    ["-m", self.module, self.prefix, *self.arguments()],
                    environment=clean_environment({**self._server_environment(), "OPENBLAS_NUM_THREADS": "1"}),
                    name=f"{type(self).__name__} {self.prefix}",
                )
            except ChildFailed as error:
                attempts -= 1
                if attempts <= 0 or PORT_TAKEN not in str(error):
                    raise
                # A port was taken between its choice and the start of the server.
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
        """Return the full name of one of its PVs.

        :param name: without the prefix, e.g. `DBL`.
        """
        return f"{self.prefix}:{name}"

    @property
    def client_environment(self) -> dict[str, str]:
        """The EPICS_* variables with which a client reaches this part and nothing else; constant."""
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
        """Continue a frozen server."""
        self._child.cont()

    def restart(self) -> None:
        """Kill the server and start it again, with the same ports, prefix and initial values."""
        self._child.restart()

    def close(self) -> None:
        """End the server. Idempotent."""
        self._child.close()


class SoftIoc(Part):
    """A real IOC with the records of `ioc_records`.

    A subclass whose `module` names another program has other records; see `ioc_records.serve`.

    :param prefix: prefix of all its PVs, without the colon; random by default.
    :param ports: its ports; free ones by default.
    """

    module = "badger_k2eg.testing.ioc_records"
    package = "softioc"
