"""Status PVs of a run, seen by a client that is not ours; STOP; a fork; and a second run under the same prefix."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control, connect
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import SetpointBlocked
from badger_k2eg.journal import Journal
from badger_k2eg.testing.plugin import SessionPorts
from badger_k2eg.testing.ports import free_port
from tests.rig.waiting import eventually

PREFIX = f"PANEL{os.getpid()}"


@pytest.fixture
def panel(
    epics_environment: SessionPorts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """A client of p4p's own, as an operator's panel: reads a status PV, or puts to it."""
    from p4p.client.thread import Context

    ports = epics_environment.factory.pop()
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("BADGER_K2EG_STATUS_PREFIX", PREFIX)
    monkeypatch.setenv("EPICS_PVAS_INTF_ADDR_LIST", "127.0.0.1")
    monkeypatch.setenv("EPICS_PVAS_SERVER_PORT", str(ports.pva_tcp))
    monkeypatch.setenv("EPICS_PVAS_BROADCAST_PORT", str(ports.pva_udp))
    monkeypatch.setenv("EPICS_PVAS_BEACON_ADDR_LIST", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("EPICS_PVAS_AUTO_BEACON_ADDR_LIST", "NO")
    contexts: list[Any] = []

    def use(name: str, value: Any = None) -> Any:
        if not contexts:
            contexts.append(Context("pva", useenv=True))
        if value is None:
            return contexts[0].get(f"{PREFIX}:{name}", timeout=10)
        return contexts[0].put(f"{PREFIX}:{name}", value, timeout=10)

    yield use
    for context in contexts:
        context.close()
    epics_environment.factory.append(ports)


@pytest.fixture
def control() -> Iterator[Control]:
    memory = MemoryBackend({"A": 1.0})
    yield run.Attachment().attach(Control(memory, Settings(timeout=2.0)))
    memory.close()


def test_what_a_panel_sees_and_stops(panel: Callable[..., Any], control: Control) -> None:
    run.declare()
    control.set({"A": 2.0})
    ours = run.current()
    assert ours is not None
    assert panel("RUN") == ours.id
    assert f"process {os.getpid()}" in panel("OWNER")
    assert panel("EVALUATION") == 1
    control.get(["A"])
    control.set({"A": 3.0})
    ours.is_best({"f": 0.25})
    assert (panel("EVALUATION"), panel("BEST")) == (2, 0.25)
    beat = panel("HEARTBEAT")
    eventually(lambda: panel("HEARTBEAT") > beat)
    panel("STOP", 1)
    assert ours.ended.wait(10)
    recorded = Journal.open().run(ours.id)
    assert recorded.reason == "stopped"
    with pytest.raises(SetpointBlocked, match=f"was stopped .{PREFIX}:STOP by .* at 127.0.0.1"):
        control.set({"A": 4.0})


def test_it_is_there_again_after_a_fork(panel: Callable[..., Any], control: Control) -> None:
    run.declare()
    control.set({"A": 2.0})
    child = os.fork()
    if child == 0:
        os._exit(0 if run.current() is None else 1)
    until = time.monotonic() + 10
    while (waited := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
        time.sleep(0.02)
    assert waited == (child, 0)
    assert panel("EVALUATION") == 1
    run.end()
    with pytest.raises(TimeoutError):
        connected = Control(connect("pva"), Settings(timeout=0.5))
        connected.get([f"{PREFIX}:RUN"])


def test_the_younger_run_yields(panel: Callable[..., Any], control: Control) -> None:
    from badger_k2eg.run import status_pvs

    other = status_pvs.StatusPvs(PREFIX, "alice@elsewhere", "another-run", lambda who: None)
    tied = run.Attachment(locks=False).attach(Control(connect("pva"), Settings(timeout=2.0)))
    try:
        run.declare()
        with pytest.raises(SetpointBlocked, match=f"{PREFIX}:OWNER: alice@elsewhere runs already .run another-run"):
            tied.set({f"{PREFIX}:STOP": 1})
    finally:
        other.close()
        tied.close()
        tied.backend.close()


def test_nothing_is_served_without_a_prefix(
    panel: Callable[..., Any], control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BADGER_K2EG_STATUS_PREFIX")
    run.declare()
    control.set({"A": 2.0})
    with pytest.raises(TimeoutError):
        Control(connect("pva"), Settings(timeout=0.5)).get([f"{PREFIX}:RUN"])
