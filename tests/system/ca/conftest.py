"""Channel Access on real IOCs: what `backends.ca` promises, and that it reaches for no PVAccess and no repeater.

What the tests look at and change besides goes through p4p.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg.backends import open_backend
from badger_k2eg.core.backend import Backend
from badger_k2eg.testing.ports import wait_for_ca
from badger_k2eg.testing.processes import ChildFailed
from badger_k2eg.testing.soft_ioc import SoftIoc
from tests.rig.ioc import RigIoc

from .parts import PATIENCE, Pvs

if TYPE_CHECKING:
    from p4p.client.thread import Context

    from badger_k2eg.testing.plugin import SessionPorts


pytest.importorskip("softioc", reason="pip install badger-k2eg[test]")
pytest.importorskip("caproto", reason="pip install badger-k2eg[test]")


@pytest.fixture(scope="module")
def ioc(epics_environment: SessionPorts) -> Iterator[SoftIoc]:
    ports = epics_environment.factory.pop()
    with RigIoc(ports=ports) as started:
        yield started
    epics_environment.factory.append(ports)


@pytest.fixture(scope="module")
def outside(ioc: SoftIoc) -> Iterator[Callable[[str], Any]]:
    """Read a PV of the IOC past all of our code."""
    from p4p.client.thread import Context

    def look(name: str) -> Any:
        value = context.get(ioc.pv(name), timeout=PATIENCE).value
        return value.index if hasattr(value, "choices") else value

    context: Context = Context("pva", nt=False)
    yield look
    context.close()


@pytest.fixture
def backend(epics_environment: SessionPorts) -> Iterator[Backend]:
    made = open_backend("ca")
    yield made
    made.close()


@pytest.fixture
def pvs(ioc: SoftIoc, backend: Backend) -> Pvs:
    return Pvs(ioc, backend)


@pytest.fixture(scope="module")
def victim(epics_environment: SessionPorts) -> Iterator[SoftIoc]:
    ports = epics_environment.factory.pop()
    with RigIoc(ports=ports) as started:
        yield started
    epics_environment.factory.append(ports)


@pytest.fixture
def own(victim: SoftIoc, backend: Backend) -> Iterator[Pvs]:
    """An IOC that the test may stop, kill and restart; its values are those that the last one left."""
    try:
        wait_for_ca(victim.pv("STATIC"), victim.ports.ca, timeout=1.0)
    except TimeoutError:
        victim.restart()
    yield Pvs(victim, backend)
    with contextlib.suppress(ChildFailed):  # killed
        victim.cont()
