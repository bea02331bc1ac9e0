"""``badger-k2eg doctor`` on journal and disk, locks, K2EG, units and clocks: real parts, each of them once at fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.cli import doctor_checks
from badger_k2eg.cli.doctor_checks import journal as journal_check
from badger_k2eg.cli.doctor_checks import k2eg as k2eg_check
from badger_k2eg.core import clock
from badger_k2eg.k2eg.environment import ENVIRONMENT_VARIABLE, FOLDER_VARIABLE
from badger_k2eg.run.pv_locks import locks
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.ports import LOOPBACK, PartPorts, free_port
from badger_k2eg.testing.soft_ioc import client_environment, random_prefix

from .test_doctor import doctor, findings, only

_HOLDS = """
import sys, time
from badger_k2eg.run.pv_locks import lock
with lock(["QUAD:1", "QUAD:2"]):
    print("locked", flush=True)
    time.sleep(60)
"""


# -- journal and disk -------------------------------------------------------------------------------------------------


def test_the_journal_and_its_disk(tmp_path: Path) -> None:
    found = findings(doctor("--json", home=tmp_path, BADGER_K2EG_JOURNAL_DIR=str(tmp_path / "journal")))
    assert found["journal"] == ("good", f"{tmp_path / 'journal'}, which the first run makes")
    assert "GiB free in" in found["disk"][1]
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize(
    ("options", "row", "status", "text"),
    [
        ({"SEGMENT_SIZE": "9000T"}, "disk", "bad", "less than one segment of the journal: make room"),
        ({"KEEP_SIZE": "9000T"}, "disk", "note", "the journal may grow to 9216000.0 GiB"),
        ({"ENABLED": "no"}, "journal", "note", "runs are not recorded"),
        ({"SEGMENT_SIZE": "much"}, "journal", "bad", "'much' is not a size"),
        ({"DIR": "{file}"}, "journal", "bad", "cannot be written: name another folder by BADGER_K2EG_JOURNAL_DIR"),
    ],
)
def test_a_journal_that_cannot_be_kept(
    options: dict[str, str], row: str, status: str, text: str, tmp_path: Path
) -> None:
    (file := tmp_path / "file").write_text("where a folder should be")
    done = doctor(
        "--json",
        home=tmp_path,
        **{f"BADGER_K2EG_JOURNAL_{name}": value.format(file=file) for name, value in options.items()},
    )
    assert done.returncode == (status == "bad")
    found = findings(done)[row]
    assert found[0] == status and text in found[1]


def test_a_network_file_system_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_check, "network_file_system", lambda path: "nfs4")
    told = [each.text for each in journal_check.check(doctor_checks.Subject()) if each.what == "disk"]
    assert "is on nfs4: the index of the journal is kept on this host" in told[0]


# -- locks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has locked QUAD:1 and QUAD:2."""
    environment = {**os.environ, "BADGER_K2EG_LOCK_DIR": str(tmp_path / "locks")}
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_locks_are_named_with_their_owners(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    def look() -> subprocess.CompletedProcess[str]:
        return doctor("--json", home=tmp_path, BADGER_K2EG_LOCK_DIR=str(tmp_path / "locks"))

    done = look()
    found = findings(done)
    assert (done.returncode, found["locks"]) == (0, ("good", f"2 PVs locked, in {tmp_path / 'locks'}"))
    for pv in ("QUAD:1", "QUAD:2"):
        assert found[pv][0] == "note" and f"(process {holder.pid}, since" in found[pv][1]
    # Somebody has it, and it is not who it says: its process is gone.
    file = locks(tmp_path / "locks").path("QUAD:1")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    file.write_text(json.dumps({**json.loads(file.read_text()), "pid": ended.pid}))
    done = look()
    assert done.returncode == 1
    status, text = findings(done)["QUAD:1"]
    assert status == "bad" and "a process that is gone: badger-k2eg unlock --force QUAD:1" in text
    holder.kill()
    holder.wait()
    done = look()
    found = findings(done)
    assert (done.returncode, found["locks"][1].split(",")[0]) == (0, "0 PVs locked")
    assert found["QUAD:2"][0] == "note" and "has ended without letting go of it" in found["QUAD:2"][1]
    assert f"(process {holder.pid}, since" in found["QUAD:2"][1]


def test_a_place_where_no_lock_can_be_kept(tmp_path: Path) -> None:
    (file := tmp_path / "locks").write_text("where a folder should be")
    done = doctor("--json", home=tmp_path, BADGER_K2EG_LOCK_DIR=str(file))
    assert done.returncode == 1
    assert findings(done)["locks"][0] == "bad" and "BADGER_K2EG_LOCK_DIR" in findings(done)["locks"][1]


# -- K2EG -------------------------------------------------------------------------------------------------------------


def test_broker_and_gateway(tmp_path: Path, gateway: GatewayProcess) -> None:
    variables = {FOLDER_VARIABLE: str(gateway.folder), ENVIRONMENT_VARIABLE: gateway.environment_name}
    done = doctor("--json", home=tmp_path, **variables)
    assert done.returncode == 0, done.stdout
    found = findings(done)
    assert {found[row][0] for row in ("K2EG", "K2EG broker", "K2EG gateway", "K2EG clock")} == {"good"}
    assert "has the time of this host" in found["K2EG clock"][1]


def test_a_broker_without_gateway_and_no_broker(tmp_path: Path, broker: Broker) -> None:
    for name, place in (("silent", broker.bootstrap), ("gone", f"127.0.0.1:{free_port()}")):
        command_topic = f"cmd-{random_prefix()}"
        (tmp_path / f"{name}.ini").write_text(
            f"[DEFAULT]\nkafka_broker_url = {place}\nk2eg_cmd_topic = {command_topic}\n"
        )
    for name, row in (("silent", "K2EG gateway"), ("gone", "K2EG broker")):
        done = doctor("--json", home=tmp_path, **{FOLDER_VARIABLE: str(tmp_path), ENVIRONMENT_VARIABLE: name})
        assert done.returncode == 1
        bad = {what for what, (status, _) in findings(done).items() if status == "bad"}
        assert bad == {row}, done.stdout


def test_a_broker_of_another_time(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(clock.Clock):
        def time_ns(self) -> int:
            return super().time_ns() + 3600 * 10**9

    monkeypatch.setenv(FOLDER_VARIABLE, str(gateway.folder))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, gateway.environment_name)
    with clock.installed(Later()):
        status, text = only(k2eg_check)["K2EG clock"]
    assert status == "bad" and " s behind this host: times on record cannot be compared" in text
    assert 3595.0 < float(text.split(" s behind")[0].split()[-1]) < 3600.5


# -- units and clocks -------------------------------------------------------------------------------------------------


@pytest.fixture
def post() -> Iterator[tuple[dict[str, str], Callable[..., Any]]]:
    """A server with X, which changes ten times a second: the variables to reach it, and a function that says how."""
    from p4p.nt import NTScalar
    from p4p.server import Server
    from p4p.server.thread import SharedPV

    kind, ports = NTScalar("d", display=True), PartPorts()
    conf = {
        "EPICS_PVAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_SERVER_PORT": str(ports.pva_tcp),
        "EPICS_PVAS_BROADCAST_PORT": str(ports.pva_udp),
        "EPICS_PVAS_BEACON_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
    }
    said: dict[str, Any] = {"units": "mm", "away": 0.0, "changes": True}

    def value(number: int) -> Any:
        stamp = time.time() + said["away"]
        return kind.wrap({"value": float(number), "display.units": said["units"]}, timestamp=stamp)

    pv, ended = SharedPV(nt=kind, initial=value(0)), threading.Event()

    def change() -> None:
        number = 0
        while not ended.wait(0.1):
            number += said["changes"]
            if said["changes"]:
                pv.post(value(number))

    changing = threading.Thread(target=change)
    with Server(providers=[{"X": pv}], conf=conf, useenv=False):
        changing.start()
        yield client_environment(ports), said.update
        ended.set()
        changing.join()


def test_units_and_clock_of_a_pv(tmp_path: Path, post: Any) -> None:
    client, say = post
    done = doctor("--json", "X", home=tmp_path, **client)
    found = findings(done)
    assert done.returncode == 0, done.stdout
    assert found["PVs: units"] == ("good", "all are known: mm")
    assert found["PVs: clock"][0] == "good" and "X has the time of this host, within 0." in found["PVs: clock"][1]
    say(units="wobbles", away=-7200.0)
    time.sleep(0.3)
    done = doctor("--json", "X", home=tmp_path, **client)
    found = findings(done)
    assert done.returncode == 1
    assert found["PVs: units"][0] == "note" and "'wobbles' of X is opaque" in found["PVs: units"][1]
    assert found["PVs: clock"][0] == "bad" and "X is 7200." in found["PVs: clock"][1]
    # What does not change may have any time.
    say(changes=False)
    found = findings(doctor("--json", "X", home=tmp_path, **client))
    assert found["PVs: clock"][0] == "note" and "no PV has updated within 2 s" in found["PVs: clock"][1]


def test_a_wrong_file_of_units_is_a_finding(tmp_path: Path, post: Any) -> None:
    client, _ = post
    done = doctor("--json", "X", home=tmp_path, **client, BADGER_K2EG_UNITS=str(tmp_path / "none.ini"))
    assert done.returncode == 1
    assert findings(done)["PVs: units"][0] == "bad"
