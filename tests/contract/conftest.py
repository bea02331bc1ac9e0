"""The `machine` on which every test of the suite runs, once for each way to reach PVs.

A test that a transport cannot give (marker `needs`) is not made for it; the end of the run says how many, and why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.core import clock
from badger_k2eg.testing.virtual_clock import VirtualClock
from tests.rig.left_out import leave_out

from .machine import FEATURES, CaMachine, IocMachine, K2egMachine, Machine, MemoryMachine, PvaMachine
from .memory_machine import SimulatedMachine


def _missing(*packages: str) -> str | None:
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"{', '.join(absent)} not installed: pip install 'badger-k2eg[test]'" if absent else None


def _backend(kind: type[Machine], *packages: str) -> Any:
    reason = _missing(*packages)
    return pytest.param(kind, id=kind.name, marks=pytest.mark.skipif(reason is not None, reason=reason or ""))


BACKENDS = [
    _backend(MemoryMachine),
    _backend(PvaMachine, "p4p", "softioc"),
    _backend(CaMachine, "p4p", "softioc", "caproto", "badger_k2eg.backends.ca"),
    _backend(K2egMachine, "p4p", "softioc"),
]
KINDS: tuple[Any, ...] = (MemoryMachine, PvaMachine, CaMachine, K2egMachine)
#: The modules whose tests over K2EG depend on the times and the order in which a broker delivers.
ON_EVERY_BROKER = ("test_arrival", "test_monitors", "test_restart", "test_retry")
#: The modules that show what a transport can change: all machines run them in a plain session. The others run on memory
#: and PVAccess there, and on every machine in an extended one.
WHAT_A_TRANSPORT_CHANGES = (
    "test_cancel", "test_fork", "test_monitors", "test_never_lies", "test_reading", "test_restart", "test_retry",
    "test_values", "test_waiting",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*features): what the machine must be able to give (tests/contract)")


@pytest.hookimpl(tryfirst=True)  # before the selection by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if K2egMachine in _kinds(item) and item.path.stem in ON_EVERY_BROKER:
            item.add_marker(pytest.mark.kafka)
        if {CaMachine, K2egMachine} & {*_kinds(item)} and item.path.stem not in WHAT_A_TRANSPORT_CHANGES:
            item.add_marker(pytest.mark.extended)
    left_out = [item for item in items if not _can_run(config, item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _kinds(item: pytest.Item) -> list[type[Machine]]:
    given = getattr(item, "callspec", None)
    return [value for value in (given.params.values() if given else ()) if isinstance(value, type) and value in KINDS]


def _can_run(config: pytest.Config, item: pytest.Item) -> bool:
    for kind in _kinds(item):
        for feature in (feature for marker in item.iter_markers("needs") for feature in marker.args):
            if not kind.has(feature):
                leave_out(config, f"{kind.name}: {FEATURES[feature]}: {kind.lacks[feature]}")
                return False
    return True


@pytest.fixture(scope="session", autouse=True)
def independent_client() -> Iterator[None]:
    """The client of the tests themselves goes last."""
    yield
    IocMachine.independent.close()


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's own ini file and environment say nothing here; journal and locks are in the session's folder."""
    for name in list(os.environ):
        if name.startswith("BADGER_K2EG_") and not name.endswith("_DIR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


#: The file of tests for which the shared IOC was set back.
_as_new_for: list[Path] = []


@pytest.fixture(autouse=True)
def _by_its_own_clock(request: pytest.FixtureRequest) -> Iterator[None]:
    """Memory goes by a virtual clock; servers need the machine's, whatever a machine of the module goes by."""
    if MemoryMachine in _kinds(request.node) and request.node.get_closest_marker("real_time") is None:
        request.getfixturevalue("virtual_clock")
        yield
    else:
        with clock.installed(clock.Clock()):
            yield


def _shared(request: pytest.FixtureRequest) -> Machine:
    kind: type[Machine] = request.param
    if issubclass(kind, IocMachine):
        faults = request.getfixturevalue("fault_server") if kind.has("faults") else None
        made = _behind(request, kind, request.getfixturevalue("soft_ioc"), faults)
        if _as_new_for != [request.path]:
            _as_new_for[:] = [request.path]
            made.as_new()
        return made
    return MemoryMachine(SimulatedMachine())


def _behind(request: pytest.FixtureRequest, kind: type[IocMachine], ioc: Any, faults: Any) -> IocMachine:
    if issubclass(kind, K2egMachine):
        return kind(ioc, faults, request.getfixturevalue("gateway"))
    return kind(ioc, faults)


@pytest.fixture(params=BACKENDS)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Give the machine of this session; what a test changes is set back after it."""
    made = _shared(request)
    yield made
    made.close()


@pytest.fixture(scope="module", params=BACKENDS)
def module_machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Give the machine to a fixture that does once what several tests look at."""
    with VirtualClock() if request.param is MemoryMachine else contextlib.nullcontext():
        made = _shared(request)
        yield made
        made.close()


@pytest.fixture(scope="session")
def victim(epics_environment: Any) -> Iterator[Any]:
    """Give an IOC that is killed, stopped and started again by one test after the other."""
    from tests.rig.ioc import RigIoc as SoftIoc

    ports = epics_environment.factory.pop()
    with SoftIoc(ports=ports) as ioc:
        yield ioc
    epics_environment.factory.append(ports)


@pytest.fixture(params=BACKENDS)
def own_machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Give a machine whose server the test may kill, stop and restart; no fault PVs."""
    kind: type[Machine] = request.param
    if not issubclass(kind, IocMachine):
        made: Machine = MemoryMachine(SimulatedMachine())
        yield made
        made.close_controls()
        return
    ioc = request.getfixturevalue("victim")
    made = _behind(request, kind, ioc, None)
    yield made
    ioc.cont() if made.server_runs else made.come_back()
    made.close()
