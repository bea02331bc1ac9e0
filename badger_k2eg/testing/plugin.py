"""The pytest plugin of badger-k2eg (entry point `badger_k2eg`): fixtures that give a test a real control system.

A session that asks for none of these fixtures runs as if the plugin were not installed. pytest loads this module before
coverage starts, so it imports the package inside its fixtures only.

`epics_environment`, on which every fixture with a server depends, lists the ports of all servers that a session may
start before the first of them starts: one client context reaches them all, whenever they come up. The EPICS_* variables
stay set from the first test that asks for a server until the end of the session.

A test with one of these control systems records its runs, and locks its PVs, in a temporary folder: never in its user's
own journal, and never waiting for the lock of a real run. A journal or lock folder that the session has chosen itself
is kept.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from badger_k2eg.backends.memory import MemoryBackend

    from .broker import Broker
    from .gateway import GatewayProcess
    from .ports import PartPorts
    from .soft_ioc import SoftIoc
    from .virtual_clock import VirtualClock

_FACTORY_SLOTS = 8
"""Number of further servers that the session's environment reaches at once, beside the session's IOC."""

_PLACES = {"BADGER_K2EG_JOURNAL_DIR": "journal", "BADGER_K2EG_LOCK_DIR": "locks"}
_PLACES_AT_START = {name: os.environ.get(name) for name in _PLACES}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the user choose the Kafka broker of the session."""
    parser.getgroup("badger-k2eg").addoption(
        "--k2eg-broker",
        default="embedded",
        metavar="embedded|HOST:PORT",
        help="the Kafka broker of the fixtures broker and gateway: embedded (in memory), or one that runs already; "
        "default: embedded",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give each test that uses a server of the session a run of its own."""
    names = getattr(item, "fixturenames", [])
    if "epics_environment" in names and "_own_run" not in names:
        names.insert(0, "_own_run")


class SessionPorts:
    """The ports of a session, chosen before anything starts."""

    def __init__(self) -> None:
        """Choose them all."""
        from .ports import PartPorts
        from .soft_ioc import client_environment

        self.soft_ioc = PartPorts()
        #: Not in use at the moment.
        self.factory = [PartPorts() for _ in range(_FACTORY_SLOTS)]
        #: The EPICS_* variables of a client of all of them, also of those of the factory that are in use.
        self.environment = client_environment(self.soft_ioc, *self.factory)


@contextlib.contextmanager
def _own_places(folder: Path) -> Iterator[None]:
    """Place journal and locks in a folder, unless the session has chosen other places."""
    with pytest.MonkeyPatch.context() as patch:
        for name, leaf in _PLACES.items():
            if os.environ.get(name) == _PLACES_AT_START[name]:
                patch.setenv(name, str(folder / leaf))
        yield


def end_run() -> None:
    """End the run that this process has begun, if any."""
    if (process := sys.modules.get("badger_k2eg.run.process")) is not None:
        process.forget()


@pytest.fixture
def _own_run() -> Iterator[None]:
    """End the run that the test has begun: the next test begins its own."""
    yield
    end_run()


@pytest.fixture(scope="session")
def _places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder for the journal and the locks of this session's tests."""
    return tmp_path_factory.mktemp("badger-k2eg")


@pytest.fixture(scope="session")
def epics_environment(_places: Path) -> Iterator[SessionPorts]:
    """Set the EPICS_* variables of this session's clients: they reach its servers on loopback, and nothing else."""
    ports = SessionPorts()
    with _own_places(_places), pytest.MonkeyPatch.context() as patch:
        for name, value in ports.environment.items():
            patch.setenv(name, value)
        yield ports


@pytest.fixture(scope="session")
def soft_ioc_class() -> type[SoftIoc]:
    """Return the class of the IOCs; override it by a subclass of `SoftIoc` that has records of its own."""
    from .soft_ioc import SoftIoc

    return SoftIoc


@pytest.fixture(scope="session")
def soft_ioc(epics_environment: SessionPorts, soft_ioc_class: type[SoftIoc]) -> Iterator[SoftIoc]:
    """Start the session's IOC. A test that kills, stops or restarts an IOC uses `soft_ioc_factory`."""
    from .soft_ioc import MissingTestPart

    try:
        ioc = soft_ioc_class(ports=epics_environment.soft_ioc)
    except MissingTestPart as error:
        pytest.skip(str(error))
    with ioc:
        yield ioc


@pytest.fixture
def soft_ioc_factory(
    epics_environment: SessionPorts, soft_ioc_class: type[SoftIoc]
) -> Generator[Callable[..., SoftIoc]]:
    """Return a function that starts an IOC of the test's own, ended with the test; its arguments are the class's.

    The session's environment reaches eight of them at once. A further one has a `client_environment` of its own.
    """
    from .soft_ioc import MissingTestPart

    slots = epics_environment.factory
    used: list[PartPorts] = []
    with contextlib.ExitStack() as running:

        def start(prefix: str | None = None, **keywords: Any) -> SoftIoc:
            ports = slots.pop() if slots else None
            if ports is not None:
                used.append(ports)
            try:
                return running.enter_context(soft_ioc_class(prefix, ports=ports, **keywords))
            except MissingTestPart as error:
                pytest.skip(str(error))

        yield start
    slots.extend(used)


@pytest.fixture
def own_journal(_places: Path) -> Iterator[Path]:
    """Record the runs of the test, and lock its PVs, in a temporary folder; return the folder of the journal.

    For a test with a mocked context; the control systems of this plugin have it anyway.
    """
    with _own_places(_places):
        yield Path(os.environ["BADGER_K2EG_JOURNAL_DIR"])
        end_run()


@pytest.fixture
def memory_context(own_journal: Path) -> Iterator[MemoryBackend]:
    """Return an empty control system in memory: add PVs to it, and pass it to an interface as its ``context``."""
    from badger_k2eg.backends.memory import MemoryBackend

    memory = MemoryBackend()
    yield memory
    memory.close()


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Install the clock by which everything in the test goes: no delay, settle time or timeout takes any real time.

    For a control system in memory (`memory_context`). A server is another process, which needs real time to answer.
    """
    from .virtual_clock import VirtualClock

    with VirtualClock() as clock:
        yield clock
        end_run()


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Start the session's Kafka broker, as `--k2eg-broker` says, in a process of its own."""
    from .broker import start_broker
    from .soft_ioc import MissingTestPart

    try:
        running = start_broker(request.config.getoption("--k2eg-broker"))
    except MissingTestPart as error:
        pytest.skip(str(error))
    except ValueError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    with running:
        yield running


@pytest.fixture(scope="session")
def gateway(broker: Broker, epics_environment: SessionPorts) -> Iterator[GatewayProcess]:
    """Start the session's K2EG gateway on the session's broker; it may write every PV of the session."""
    from .gateway import GatewayProcess

    with GatewayProcess("--allow-write", "*", broker=broker, epics=epics_environment.environment) as process:
        yield process


@pytest.fixture
def gateway_factory(broker: Broker, epics_environment: SessionPorts) -> Generator[Callable[..., GatewayProcess]]:
    """Return a function that starts a gateway of the test's own on the session's broker, ended with the test.

    Its arguments are those of `GatewayProcess`; the gateway reaches the PVs of the session.
    """
    from .gateway import GatewayProcess

    with contextlib.ExitStack() as running:

        def start(*options: str, **keywords: Any) -> GatewayProcess:
            about: dict[str, Any] = {"epics": epics_environment.environment, "broker": broker, **keywords}
            return running.enter_context(GatewayProcess(*options, **about))

        yield start
