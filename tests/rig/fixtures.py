"""The fixtures of these tests besides those of the pytest plugin: faults, Apache Kafka, places of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg.testing.plugin import SessionPorts, end_run

if TYPE_CHECKING:
    from badger_k2eg.testing.soft_ioc import Part, SoftIoc

    from .fault_server import FaultServer
    from .ioc import RigIoc


def pytest_configure() -> None:
    from badger_k2eg.testing.broker import BROKERS

    from .kafka_server import KafkaServer

    BROKERS[KafkaServer.kind] = KafkaServer


@pytest.fixture(scope="session", autouse=True)
def _own_journal_and_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let every run be recorded, and lock its PVs, in a folder of the session's own."""
    folder = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BADGER_K2EG_JOURNAL_DIR", str(folder / "journal"))
        patch.setenv("BADGER_K2EG_LOCK_DIR", str(folder / "locks"))
        yield


@pytest.fixture(autouse=True)
def _one_run_each() -> Iterator[None]:
    """End the run that a test has begun: the next test begins its own."""
    yield
    end_run()


@pytest.fixture(scope="session")
def soft_ioc_class() -> type[RigIoc]:
    from .ioc import RigIoc

    return RigIoc


def _started(kind: type[Part], ports: SessionPorts) -> Iterator[Any]:
    from badger_k2eg.testing.soft_ioc import MissingTestPart

    own = ports.factory.pop()
    try:
        part = kind(ports=own)
    except MissingTestPart as error:
        pytest.skip(str(error))
    with part:
        yield part
    ports.factory.append(own)


@pytest.fixture(scope="session")
def second_soft_ioc(epics_environment: SessionPorts, soft_ioc_class: type[RigIoc]) -> Iterator[SoftIoc]:
    """A second IOC of the session, with the same records under another prefix."""
    yield from _started(soft_ioc_class, epics_environment)


@pytest.fixture(scope="session")
def fault_server(epics_environment: SessionPorts) -> Iterator[FaultServer]:
    """The session's server of lost, late, refused and changed puts; a put to its RESET sets it back."""
    from .fault_server import FaultServer

    yield from _started(FaultServer, epics_environment)
