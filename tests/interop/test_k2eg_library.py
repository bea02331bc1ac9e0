"""The K2EG client library that sites use, `k2eg` 0.3.2, against our gateway."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.soft_ioc import SoftIoc
from tests.rig.pace import pace

pytestmark = [pytest.mark.extended, pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

Library = Callable[..., list[dict[str, Any]]]

ANSWER = 5.0
# The library reads a topic only some time after its command was answered; what is there by then it may pass over.
JOINED = ["sleep", 4.0]


@pytest.fixture
def real_broker(broker: Broker) -> None:
    if broker.kind == "embedded":
        pytest.skip(
            "with the embedded broker the library needs 30 s for each further topic; run it with --k2eg-broker=kafka"
        )


def values(answer: dict[str, Any], name: str) -> list[Any]:
    """What the events of a PV carry, in the order in which they came."""
    return [tree["value"] for pv, tree in answer["value"] if pv == name]


def test_get_and_put(library: Library, soft_ioc: SoftIoc) -> None:
    name = f"{soft_ioc.prefix}:FREE"
    over_pva, over_ca, put, after, array, _ = library(
        ["get", f"pva://{soft_ioc.prefix}:STR", ANSWER],
        ["get", f"ca://{soft_ioc.prefix}:STR", ANSWER],
        ["put", f"pva://{name}", 2.75, ANSWER],
        ["get", f"pva://{name}", ANSWER],
        ["get", f"pva://{soft_ioc.prefix}:WF", ANSWER],
        # As it was, for other tests.
        ["put", f"pva://{name}", 1.0, ANSWER],
    )
    assert over_pva["value"]["value"] == over_ca["value"]["value"] == "hello"
    assert put["error"] is None and put["value"]["error"] == 0
    assert after["value"]["value"] == 2.75
    assert {"alarm", "timeStamp", "value"} <= set(after["value"])
    assert array["value"]["value"][:3] == [1.0, 2.5, -3.25]


def test_one_shot_snapshot(library: Library, soft_ioc: SoftIoc) -> None:
    names = [f"{soft_ioc.prefix}:{record}" for record in ("STR", "INTFREE", "SP:000")]
    (answer,) = library(["snapshot_sync", [f"pva://{name}" for name in names], 10.0])
    assert answer["error"] is None and answer["value"]["error"] == 0
    for name in names:
        assert [tree["value"] for tree in answer["value"][name]], name


def test_missing_pv_and_silence(library: Library, soft_ioc: SoftIoc) -> None:
    """The gateway's own timeout is 10 s; a caller who waits less sees his own."""
    missing = f"pva://{soft_ioc.prefix}:NOT-THERE"
    impatient, patient, badly_named, snapshot = library(
        ["get", missing, 1.0],
        ["get", missing, 15.0],
        ["get", "no-scheme", ANSWER],
        ["snapshot_sync", [missing, f"pva://{soft_ioc.prefix}:STR"], 10.0],
    )
    assert impatient["error"][0] == "OperationTimeout" and impatient["seconds"] < 5 * pace()
    assert patient["error"][0] == "OperationError" and 5 < patient["seconds"] < 14 * pace()
    assert badly_named["error"][0] == "ValueError"
    assert set(snapshot["value"]) >= {f"{soft_ioc.prefix}:STR", "error"}


def test_refused_put(library: Library, soft_ioc: SoftIoc) -> None:
    (answer,) = library(["put", f"pva://{soft_ioc.prefix}:ASG", 1.0, 15.0])
    assert answer["error"][0] == "OperationError"


@pytest.mark.usefixtures("real_broker")
def test_monitor(library: Library, soft_ioc: SoftIoc) -> None:
    name = f"{soft_ioc.prefix}:SP:010"
    puts = [["put", f"pva://{name}", float(number), ANSWER] for number in range(1, 6)]
    started, *_, last, _, silent = library(
        ["monitor", f"pva://{name}", ANSWER],
        JOINED,
        *puts,
        ["sleep", 1.0],
        ["collect", 1, 5.0],
        ["stop_monitor", name],
        ["collect", 1, 0.5],
    )
    assert started["value"]["error"] == 0
    assert values(last, name)[-1] == 5.0
    assert silent["value"] == []


@pytest.mark.usefixtures("real_broker")
def test_the_first_value_of_a_static_pv(library: Library, soft_ioc: SoftIoc) -> None:
    names = [f"{soft_ioc.prefix}:SP:{number:03}" for number in (11, 12, 13)]
    single, heard_single, many, heard_many = library(
        ["monitor", f"pva://{names[0]}", ANSWER],
        ["collect", 1, 15.0],
        ["monitor_many", [f"pva://{name}" for name in names[1:]], ANSWER],
        # One of them may come twice before the other one comes.
        ["collect", 1000, 8.0],
    )
    assert single["value"]["error"] == many["value"]["error"] == 0
    assert values(heard_single, names[0])
    assert all(values(heard_many, name) for name in names[1:])


@pytest.mark.usefixtures("real_broker")
def test_monitor_many(library: Library, soft_ioc: SoftIoc) -> None:
    names = [f"{soft_ioc.prefix}:SP:{number:03}" for number in (20, 21, 22)]
    started, *_, heard = library(
        ["monitor_many", [f"pva://{name}" for name in names], ANSWER],
        JOINED,
        *(["put", f"pva://{name}", 7.0 + number, ANSWER] for number, name in enumerate(names)),
        ["sleep", 1.0],
        ["collect", len(names), 10.0],
    )
    assert started["value"]["error"] == 0
    for number, name in enumerate(names):
        assert values(heard, name)[-1] == 7.0 + number


def recurring(names: list[str], **properties: Any) -> tuple[str, list[Any]]:
    snapshot = f"interop-{uuid.uuid4().hex[:8]}"
    about = {"snapshot_name": snapshot, "pv_uri_list": [f"pva://{name}" for name in names], **properties}
    return snapshot, ["recurring", ANSWER, about]


def iterations(answer: dict[str, Any]) -> list[dict[str, Any]]:
    heard = [data for _, data in answer["value"]]
    numbers = [data["iteration"] for data in heard]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "consecutive"
    return heard


MODES = [
    pytest.param({}, id="normal"),
    pytest.param({"type": "timedbuffered"}, id="timedbuffered"),
    pytest.param({"type": "timedbuffered", "sub_push_delay_msec": 200}, id="timedbuffered in parts"),
    pytest.param({"type": "timedbuffered", "pv_field_filter_list": ["value", "timeStamp"]}, id="some fields only"),
]


@pytest.mark.usefixtures("real_broker")
@pytest.mark.parametrize("mode", MODES)
def test_recurring_snapshot(library: Library, soft_ioc: SoftIoc, mode: dict[str, Any]) -> None:
    names = [f"{soft_ioc.prefix}:{record}" for record in ("COUNT", "SP:030")]
    snapshot, start = recurring(names, time_window=700, **mode)
    started, heard, stopped = library(start, ["collect", 4, 30.0], ["stop", snapshot, ANSWER])
    assert started["error"] is None and started["value"]["error"] == 0 and started["value"]["publishing_topic"]
    seen = iterations(heard)
    assert len(seen) >= 4
    counted = [tree for data in seen for tree in data[names[0]]]
    assert len(counted) >= (4 if not mode else 8)
    assert all(set(tree) <= {"value", "timeStamp"} for tree in counted) or "pv_field_filter_list" not in mode
    assert stopped["error"] is None and stopped["value"]["error"] == 0


@pytest.mark.usefixtures("real_broker")
@pytest.mark.parametrize("kind", ["normal", "timedbuffered"])
def test_triggered_snapshot(library: Library, soft_ioc: SoftIoc, kind: str) -> None:
    name = f"{soft_ioc.prefix}:SP:031"
    snapshot, start = recurring([name], time_window=500, triggered=True, type=kind)
    started, _, untriggered, *rest = library(
        start,
        JOINED,
        ["collect", 1, 1.0],
        ["trigger", snapshot, ANSWER],
        ["collect", 1, 15.0],
        ["trigger", snapshot, ANSWER],
        ["collect", 1, 15.0],
        ["stop", snapshot, ANSWER],
    )
    first, heard_first, second, heard_second, stopped = rest
    assert started["value"]["error"] == first["value"]["error"] == second["value"]["error"] == 0
    assert untriggered["value"] == []
    assert [len(iterations(each)) for each in (heard_first, heard_second)] == [1, 1]
    assert stopped["value"]["error"] == 0
