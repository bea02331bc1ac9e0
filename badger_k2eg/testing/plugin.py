"""The pytest plugin of badger-k2eg (entry point `badger_k2eg`): fixtures that give a test a real control system.

Owns the fixtures, the EPICS_* variables of the session, and the place of its journal and locks. It imports our rooms
inside its fixtures only: pytest loads this before coverage starts.

`epics_environment`, on which every fixture with a server depends, is settled before the first of them starts: it lists
the ports of all parts a session may have, so that one client context reaches them all, whenever they come up. A session
that asks for none of these fixtures keeps its EPICS_* variables. Journal and locks of every session are in a temporary
folder, so that no test writes a run into its user's own journal, or waits for the lock of a run that goes on.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from badger_k2eg.backends.memory import MemoryBackend

    from .broker import Broker
    from .fault_server import FaultServer
    from .gateway import GatewayProcess
    from .ports import PartPorts
    from .soft_ioc import Part, SoftIoc
    from .virtual_clock import VirtualClock

    PartT = TypeVar("PartT", bound=Part)

_FACTORY_SLOTS = 6
"""How many IOCs of `soft_ioc_factory` at once are in the session's environment."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the user choose the Kafka broker of the session."""
    parser.getgroup("badger-k2eg").addoption(
        "--broker",
        default="embedded",
        metavar="embedded|kafka|HOST:PORT",
        help="the Kafka broker of the tests: embedded (in memory), kafka (Apache Kafka, needs Java 17 and Maven), or "
        "one that runs; default: embedded",
    )


class SessionPorts:
    """The ports of a session, chosen before anything starts."""

    def __init__(self) -> None:
        """Choose them all."""
        from .ports import PartPorts
        from .soft_ioc import client_environment

        self.soft_ioc = PartPorts()
        self.second_soft_ioc = PartPorts()
        self.fault_server = PartPorts()
        #: Not in use at the moment.
        self.factory = [PartPorts() for _ in range(_FACTORY_SLOTS)]
        #: The EPICS_* variables of a client of all of them, also of those of the factory that are in use.
        self.environment = client_environment(self.soft_ioc, self.second_soft_ioc, self.fault_server, *self.factory)


def _start(kind: type[PartT], ports: PartPorts) -> PartT:
    from .soft_ioc import MissingTestPart

    try:
        return kind(ports=ports)
    except MissingTestPart as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def _own_journal_and_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let runs of tests be recorded, and lock their PVs, in a folder of the session's own."""
    folder = tmp_path_factory.mktemp("badger-k2eg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BADGER_K2EG_JOURNAL_DIR", str(folder / "journal"))
        patch.setenv("BADGER_K2EG_LOCK_DIR", str(folder / "locks"))
        yield


@pytest.fixture(autouse=True)
def _own_run() -> Iterator[None]:
    """End the run that a test has begun: the next one has its own."""
    yield
    _end_run()


def _end_run() -> None:
    if (process := sys.modules.get("badger_k2eg.run.process")) is not None:
        process.forget()


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


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Give the clock by which everything in the test goes: no delay, settle time or timeout takes any time.

    For a control system in memory (`memory_context`). A server is somebody else, who needs real time to answer.
    """
    from .virtual_clock import VirtualClock

    with VirtualClock() as clock:
        yield clock
        _end_run()


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Give the session's Kafka broker, as `--broker` says, in a process of its own."""
    from .broker import start_broker
    from .soft_ioc import MissingTestPart

    try:
        running = start_broker(request.config.getoption("--broker"))
    except MissingTestPart as error:
        pytest.skip(str(error))
    except ValueError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    with running:
        yield running


@pytest.fixture(scope="session")
def gateway(broker: Broker, epics_environment: SessionPorts) -> Iterator[GatewayProcess]:
    """Give the session's K2EG gateway on the session's broker; it may write every PV of the session."""
    from .gateway import GatewayProcess

    with GatewayProcess("--allow-write", "*", broker=broker, epics=epics_environment.environment) as process:
        yield process


@pytest.fixture
def gateway_factory(broker: Broker, epics_environment: SessionPorts) -> Generator[Callable[..., GatewayProcess]]:
    """Give a function that starts a gateway of the test's own on the session's broker, ended with the test.

    Its arguments are `GatewayProcess`'s; it reaches the PVs of the session.
    """
    from .gateway import GatewayProcess

    with contextlib.ExitStack() as running:

        def start(*options: str, **keywords: Any) -> GatewayProcess:
            about: dict[str, Any] = {"epics": epics_environment.environment, "broker": broker, **keywords}
            return running.enter_context(GatewayProcess(*options, **about))

        yield start
