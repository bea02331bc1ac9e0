"""The pytest plugin of badger-k2eg (entry point `badger_k2eg`): fixtures that give a test a real control system.

Owns the fixtures and the EPICS_* variables of the session. It imports our rooms inside its fixtures only: pytest loads
this before coverage starts.

`epics_environment`, on which every fixture with a server depends, is settled before the first of them starts: it lists
the ports of all parts a session may have, so that one client context reaches them all, whenever they come up. A session
that asks for none of these fixtures keeps its environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from badger_k2eg.backends.memory import MemoryBackend

    from .fault_server import FaultServer
    from .ports import PartPorts
    from .soft_ioc import Part, SoftIoc

    PartT = TypeVar("PartT", bound=Part)

_FACTORY_SLOTS = 6
"""How many IOCs of `soft_ioc_factory` at once are in the session's environment."""


class SessionPorts:
    """The ports of a session, chosen before anything starts."""

    def __init__(self) -> None:
        """Choose them all."""
        from .ports import PartPorts

        self.soft_ioc = PartPorts()
        self.second_soft_ioc = PartPorts()
        self.fault_server = PartPorts()
        #: Not in use at the moment.
        self.factory = [PartPorts() for _ in range(_FACTORY_SLOTS)]

    @property
    def environment(self) -> dict[str, str]:
        """The EPICS_* variables of a client of all of them."""
        from .soft_ioc import client_environment

        return client_environment(self.soft_ioc, self.second_soft_ioc, self.fault_server, *self.factory)


def _start(kind: type[PartT], ports: PartPorts) -> PartT:
    from .soft_ioc import MissingTestPart

    try:
        return kind(ports=ports)
    except MissingTestPart as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def epics_environment() -> Iterator[SessionPorts]:
    """Set the EPICS_* variables of this session's clients: they reach its parts on loopback, and nothing else."""
    ports = SessionPorts()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ports.environment.items():
            patch.setenv(name, value)
        yield ports


@pytest.fixture(scope="session")
def soft_ioc(epics_environment: SessionPorts) -> Iterator[SoftIoc]:
    """Give the session's IOC. For a test that kills, stops or restarts one there is `soft_ioc_factory`."""
    from .soft_ioc import SoftIoc

    with _start(SoftIoc, epics_environment.soft_ioc) as ioc:
        yield ioc


@pytest.fixture(scope="session")
def second_soft_ioc(epics_environment: SessionPorts) -> Iterator[SoftIoc]:
    """Give a second IOC of the session, with the same records under another prefix."""
    from .soft_ioc import SoftIoc

    with _start(SoftIoc, epics_environment.second_soft_ioc) as ioc:
        yield ioc


@pytest.fixture(scope="session")
def fault_server(epics_environment: SessionPorts) -> Iterator[FaultServer]:
    """Give the session's server of lost, late, refused and changed puts; a put to its RESET sets it back."""
    from .fault_server import FaultServer

    with _start(FaultServer, epics_environment.fault_server) as server:
        yield server


@pytest.fixture
def soft_ioc_factory(epics_environment: SessionPorts) -> Generator[Callable[..., SoftIoc]]:
    """Give a function that starts an IOC of the test's own, ended with the test; its arguments are `SoftIoc`'s.

    The session's environment reaches six of them at once. Another one has a `client_environment`.
    """
    from .soft_ioc import MissingTestPart, SoftIoc

    slots = epics_environment.factory
    used: list[PartPorts] = []
    with contextlib.ExitStack() as running:

        def start(prefix: str | None = None, *, extra_records: int = 0) -> SoftIoc:
            ports = slots.pop() if slots else None
            if ports is not None:
                used.append(ports)
            try:
                return running.enter_context(SoftIoc(prefix, extra_records=extra_records, ports=ports))
            except MissingTestPart as error:
                pytest.skip(str(error))

        yield start
    slots.extend(used)


@pytest.fixture
def memory_context() -> Iterator[MemoryBackend]:
    """Give an empty control system in memory: add PVs to it, and give it to an interface as its ``context``."""
    from badger_k2eg.backends.memory import MemoryBackend

    memory = MemoryBackend()
    yield memory
    memory.close()
