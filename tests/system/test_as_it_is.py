"""PVs whose names and values a terminal might eat: read, set, watched and put back by ``runs restore``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from badger_k2eg import run
from badger_k2eg.control import Control, connect
from badger_k2eg.core.printable import printable, printable_lines
from badger_k2eg.core.settings import Settings
from badger_k2eg.testing.ports import LOOPBACK, PartPorts
from badger_k2eg.testing.processes import clean_environment
from badger_k2eg.testing.soft_ioc import client_environment

#: What each PV holds before, by its name.
BEFORE = {
    "Q[/b]": "[/data/x]",
    "Q[red]x[/red]": "[red]x[/red]",
    "T38PG:FREE": ":FREE:",
    "X:FREE:Y": "T38PG:FREE",
    "X:smile:": ":smile:",
    "X{x}": "{x}",
    "X%s": "%s",
    "X#1": "#",
    "X<b>": "<b>",
    "X&amp": "&amp;",
    "X1": "$x_1^2$",
    "X2": "\x1b[31mred",
    "X3": "a\nb",
    "X4": "a\rb",
    "X5": "\x07",
    "X6": "\u202eabc",
    "X7": r"a\b\[c",
    "X8": "中文字",
    "X9": "[/b]" * 1250,
}
AFTER = "[/moved]\x1b[2J"

#: Seconds for a server to be found on a busy machine.
PATIENCE = 15.0


@pytest.fixture
def pvs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server of texts, which this process and its children find."""
    from p4p.nt import NTScalar
    from p4p.server import Server
    from p4p.server.thread import SharedPV

    ports = PartPorts()
    conf = {
        "EPICS_PVAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_SERVER_PORT": str(ports.pva_tcp),
        "EPICS_PVAS_BROADCAST_PORT": str(ports.pva_udp),
        "EPICS_PVAS_BEACON_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
    }

    class Put:
        def put(self, pv: Any, operation: Any) -> None:
            pv.post(operation.value())
            operation.done()

    made = {}
    for name, text in BEFORE.items():
        made[name] = SharedPV(nt=NTScalar("s", display=True), handler=Put(), initial=text)
    for name, value in client_environment(ports).items():
        monkeypatch.setenv(name, value)
    with Server(providers=[made], conf=conf, useenv=False):
        yield made


def shown(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "badger_k2eg.cli", *words],
        capture_output=True,
        timeout=58,
        stdin=subprocess.DEVNULL,
        env={
            **clean_environment({"BADGER_K2EG_TIMEOUT": str(PATIENCE)}),
            **{k: v for k, v in os.environ.items() if k.startswith("EPICS_")},
        },
    )
    assert done.returncode == code, done.stderr.decode()
    told = done.stdout.decode()
    assert printable_lines(told) == told and done.stderr == b""
    return told


def held(pvs: dict[str, Any]) -> dict[str, str]:
    return {name: pv.current().raw.value for name, pv in pvs.items()}


def in_cells(told: str) -> str:
    """Take a table's folded cells together again, as far as they are the only ones that are folded."""
    return "".join(told.split())


def test_get_monitor_snapshot_and_put_show_them(pvs: dict[str, Any]) -> None:
    for told in (shown("get", *pvs), shown("snapshot", *pvs)):
        folded = in_cells(told)
        for name, text in BEFORE.items():
            assert name in told and in_cells(printable(text))[:40] in folded
    watched = shown("monitor", "--count", str(len(pvs)), *pvs)
    assert len(watched.splitlines()) == len(pvs)
    for name, text in BEFORE.items():
        assert name in watched and printable(text) in watched
    told = json.loads(shown("get", "--json", *pvs))
    assert {name: reading["value"] for name, reading in told.items()} == BEFORE
    told = shown("put", "Q[/b]", "[/x]\x1b[1m", "X3", ":smile:")
    assert told.splitlines() == [r"Q[/b] = '[/x]\x1b[1m': APPLIED", "X3 = ':smile:': APPLIED"]
    assert (held(pvs)["Q[/b]"], held(pvs)["X3"]) == ("[/x]\x1b[1m", ":smile:")


@pytest.mark.slow
def test_a_run_of_them_is_undone_whatever_they_hold(pvs: dict[str, Any]) -> None:
    backend = connect("pva")
    control = run.Attachment().attach(Control(backend, Settings(timeout=PATIENCE)))
    control.set(dict.fromkeys(pvs, AFTER))
    run.end()
    control.close()
    backend.close()
    assert set(held(pvs).values()) == {AFTER}
    told = shown("runs", "restore", "last", "--dry-run")
    assert set(held(pvs).values()) == {AFTER}
    for name, text in BEFORE.items():
        (row,) = [line for line in told.splitlines() if f"│ {name} " in line]
        assert printable(text)[:20] in row and printable(AFTER) in row and "to do" in row
    told = shown("runs", "restore", "last", "--yes")
    assert held(pvs) == BEFORE
    for name in BEFORE:
        assert f"\n{name}: restored\n" in told
    assert told.endswith(f"{len(BEFORE)} restored\n")
    assert printable(AFTER) in shown("runs", "show", "last")
    assert printable(AFTER) in shown("log", "show", "last")
    assert "no difference" in shown("runs", "diff", "last", "now", "--at", "start")
