"""K3: a program written for the k2eg library runs with its imports changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.k2eg.codec import SnapshotData, SnapshotHeader, SnapshotTail
from badger_k2eg.k2eg.dml import (
    Generic,
    NTTable,
    OperationError,
    OperationTimeout,
    Scalar,
    SnapshotProperties,
    SnapshotType,
    Vector,
    dml,
)
from badger_k2eg.k2eg.environment import FOLDER_VARIABLE
from tests.rig.waiting import eventually

from .double import Double, tree


@pytest.fixture
def k(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dml]:
    environment = double.environment
    lines = ["[DEFAULT]", f"kafka_broker_url = {environment.broker}", f"k2eg_cmd_topic = {environment.command_topic}"]
    lines += [f"kafka.{name} = {value}" for name, value in environment.kafka.items()]
    (tmp_path / "test.ini").write_text("\n".join(lines))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    client = dml("test", f"{double.prefix}-app", f"{double.prefix}-group")
    yield client
    client.close()


def test_get_and_put(double: Double, k: dml) -> None:
    k.wait_for_backends()
    assert k.get(double.uri("A"))["value"] == 1.5
    assert k.put(double.uri("A"), Scalar(payload=42))["error"] == 0
    assert k.put(double.uri("A"), 43, timeout=5.0)["error"] == 0
    k.put(double.uri("W"), Vector(payload=[1.5, 2.5]))
    k.put(double.uri("E"), Generic(payload={"index": 2}))
    double.pvs[double.name("T")] = tree({"a": [1.0]}, labels=["a"])
    table = NTTable(labels=["a"])
    table.set_column("a", [4.0])
    k.put(double.uri("T"), table)
    fields = [each for _, each in double.puts]
    assert fields == [
        {"value": 42.0},
        {"value": 43.0},
        {"value": [1.5, 2.5]},
        {"value": {"index": 2}},
        {"value": {"a": [4.0]}},
    ]
    assert Scalar(payload=3.5).to_base_64() == "gaV2YWx1ZctADAAAAAAAAA=="


def test_errors(double: Double, k: dml) -> None:
    assert k.parse_pv_url("ca://A:B") == ("ca", "A:B")
    for bad in ("A:B", "http://A", "pva://A.B"):
        with pytest.raises(ValueError):
            k.parse_pv_url(bad)
        with pytest.raises(ValueError):
            k.get(bad)
    with pytest.raises(OperationTimeout):
        k.get(double.uri("GONE"), timeout=0.3)
    with pytest.raises(OperationError):
        k.snapshost_trigger("nope")
    with pytest.raises(ValueError, match="nowhere"):
        dml("nowhere", "app")


def test_monitors(double: Double, k: dml) -> None:
    seen: list[Any] = []
    k.monitor(double.uri("A"), lambda pv, value: seen.append((pv, value["value"])))
    eventually(lambda: seen == [(double.name("A"), 1.5)])
    k.stop_monitor(double.name("A"))
    # Also one that nobody serves, as the gateway agrees.
    k.monitor_many([double.uri("B"), double.uri("GONE")], lambda pv, value: seen.append((pv, value["value"])))
    eventually(lambda: seen[1:] == [(double.name("B"), 2.5)])


def test_snapshots(double: Double, k: dml) -> None:
    a, b = double.name("A"), double.name("B")
    taken = k.snapshot_sync([double.uri("A"), double.uri("B")])
    assert taken["error"] == 0 and taken[a][0]["value"] == 1.5
    assert taken["snapshot"] == {a: taken[a], b: taken[b]}
    heard: list[Any] = []
    identity = k.snapshot([double.uri("A")], lambda *words: heard.append(words))
    eventually(lambda: heard)
    assert heard[0][0] == identity and heard[0][1][a][0]["value"] == 1.5


def test_recurring(double: Double, k: dml) -> None:
    heard: list[Any] = []
    asked = SnapshotProperties(
        snapshot_name=f"{double.prefix}-snap",
        time_window=500,
        type=SnapshotType.NORMAL,
        pv_uri_list=[double.uri("A"), double.uri("B")],
    )
    reply = k.snapshot_recurring(asked, lambda *words: heard.append(words), timeout=5.0)
    topic = reply["publishing_topic"]
    assert reply["error"] == 0 and topic == f"{double.prefix.lower()}-snap"
    about = {"iter_index": 1, "timestamp": 5}
    double.send(topic, SnapshotHeader(snapshot_name="s", **about), "s")
    double.send(topic, SnapshotData(pv=double.name("A"), tree=tree(1.0), **about), "s")
    double.send(topic, SnapshotTail(snapshot_name="s", iter_index=1, timestamp=9), "s")
    eventually(lambda: heard)
    name, data = heard[0]
    assert name == topic and (data["iteration"], data["header_timestamp"], data["tail_timestamp"]) == (1, 5, 9)
    assert data["timestamp"] == 9 and len(data[double.name("A")]) == 1 and data[double.name("B")] == []
    k.snapshost_trigger(asked.snapshot_name)
    k.snapshot_stop(asked.snapshot_name)


def test_a_program_that_forgets_to_close_ends_all_the_same(double: Double, k: dml) -> None:
    program = (
        "import sys; from badger_k2eg.k2eg.dml import dml\n"
        "k = dml('test', 'forgetful')\n"
        "k.monitor(sys.argv[1], print, timeout=10.0); print(k.get(sys.argv[1])['value'])"
    )
    done = subprocess.run([sys.executable, "-c", program, double.uri("B")], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0 and "2.5" in done.stdout and not done.stderr, done.stderr
