"""K4, K8, K11, K12: monitors over K2EG come with the current value, in order, and the last one is never lost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from badger_k2eg.errors import OperationTimeout, PvError
from badger_k2eg.k2eg import monitors
from badger_k2eg.k2eg.client import K2egClient
from badger_k2eg.k2eg.codec import HEADER, MonitorEvent, MultiMonitor, Reply, Serialization, monitor_topic
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .double import Double, tree

pytestmark = pytest.mark.kafka

#: Long enough for the present value to be asked for after the last update.
SOON = monitors._QUIET + 2.0


class Seen:
    def __init__(self) -> None:
        self.values: list[Any] = []
        self.names: list[str] = []

    def __call__(self, pv: str, value: Any) -> None:
        self.names.append(pv)
        self.values.append(value["value"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upkeep in tenths of a second."""
    for name in ("_QUIET", "_REFRESH", "_PATIENCE", "_REPLY_PATIENCE", "_RETRY"):
        monkeypatch.setattr(monitors, name, getattr(monitors, name) / 6)


def test_the_current_value_first_and_then_every_update_in_order(double: Double, client: K2egClient) -> None:
    seen = Seen()
    began = time.monotonic()
    client.monitor(double.uri("A"), seen)
    assert time.monotonic() - began < 3.0 * pace()
    for i in range(200):
        double.post("A", float(i))
    eventually(lambda: len(seen.values) == 201)
    assert seen.values == [1.5, *map(float, range(200))] and set(seen.names) == {double.name("A")}


def test_a_topic_with_old_events_starts_with_the_current_value(double: Double, client: K2egClient) -> None:
    topic = monitor_topic(double.name("A"))
    double.broker.create_topic(topic, 3)
    double.send(topic, MonitorEvent(double.name("A"), tree(-99.0)), double.name("A"))
    time.sleep(0.2)
    seen = Seen()
    client.monitor(double.uri("A"), seen)
    assert seen.values[:1] in ([], [1.5])
    eventually(lambda: seen.values == [1.5])


def test_repeated_events_are_no_news(double: Double, client: K2egClient, quick: None) -> None:
    seen = Seen()
    double.pvs[double.name("A")]["control"]["limitLow"] = float("nan")
    client.monitor(double.uri("A"), seen)
    eventually(lambda: len([c for c in double.commands if isinstance(c, MultiMonitor)]) >= 4)
    assert seen.values == [1.5]


def test_a_repeat_that_nobody_asked_for_is_no_news_and_no_reason_to_ask(double: Double, client: K2egClient) -> None:
    def asked() -> int:
        return len([command for command in double.commands if isinstance(command, MultiMonitor)])

    seen = Seen()
    client.monitor(double.uri("A"), seen)
    eventually(lambda: asked() == 2)
    for _ in range(3):
        double.publish(double.name("A"))
    time.sleep(monitors._REFRESH / 2)
    assert (seen.values, asked()) == ([1.5], 2)


def test_what_our_gateway_repeats_for_others_is_told_once(gateway: Any, soft_ioc: Any) -> None:
    seen = Seen()
    with K2egClient(gateway.environment_name, "repeats", folder=gateway.folder) as client:
        client.monitor(f"pva://{soft_ioc.pv('STR')}", seen)
        time.sleep(4.0)
    assert seen.values == ["hello"]


def test_the_last_value_of_a_burst_that_the_gateway_left_out_comes_soon(double: Double, client: K2egClient) -> None:
    seen = Seen()
    client.monitor(double.uri("A"), seen)
    eventually(lambda: seen.values == [1.5])
    # The first one is sent once per update; the record holds another.
    double.post("A", 1.0)
    double.publish(double.name("A"))
    double.pvs[double.name("A")] = tree(20.0)
    began = time.monotonic()
    eventually(lambda: seen.values == [1.5, 1.0, 20.0])
    assert time.monotonic() - began < SOON + 3.0 * pace()


def test_a_monitor_of_a_pv_that_nobody_serves_is_an_error(double: Double, client: K2egClient) -> None:
    # However busy the host is, the gateway has accepted the command before the second in which no value comes.
    client.start_monitors([double.uri("GONE")], lambda pv, event: None, 60.0, wait="reply")
    with pytest.raises(
        OperationTimeout, match=f"{double.uri('GONE')}: no value within 1 s: nobody serves it"
    ) as caught:
        client.monitor(double.uri("GONE"), print, 1.0)
    assert caught.value.culprit == "pv"
    double.listening(False)
    with pytest.raises(OperationTimeout) as caught:
        client.monitor(double.uri("A"), print, 0.5)
    assert caught.value.culprit == "gateway"


def test_one_of_many_without_a_value_and_none_is_monitored(double: Double, client: K2egClient) -> None:
    seen = Seen()
    with pytest.raises(OperationTimeout, match="GONE"):
        client.monitor_many([double.uri("A"), double.uri("GONE")], seen, 1.0)
    count = len(seen.values)
    double.post("A", 9.0)
    time.sleep(0.3)
    assert len(seen.values) == count


def test_a_starting_gateway_is_asked_again(double: Double, client: K2egClient) -> None:
    refused: list[int] = []

    def starting(command: MultiMonitor) -> Any:
        if len(refused) < 2:
            refused.append(1)
            words = "Command cannot be executed, k2eg monitor worker is starting"
            double.reply(command, Reply(command.reply_id, -2, words))
            return True
        return None

    double.instead[MultiMonitor] = starting
    seen = Seen()
    client.monitor(double.uri("A"), seen, 10.0)
    eventually(lambda: seen.values == [1.5])


def test_pvs_that_share_a_topic_are_told_apart(double: Double, client: K2egClient) -> None:
    double.pvs |= {double.name("X:Y"): tree(1.0), double.name("X_Y"): tree(2.0)}
    one, two = Seen(), Seen()
    client.monitor(double.uri("X:Y"), one)
    client.monitor(double.uri("X_Y"), two)
    double.post("X:Y", 3.0)
    double.post("X_Y", 4.0)
    eventually(lambda: (one.values, two.values) == ([1.0, 3.0], [2.0, 4.0]))


def test_a_second_monitor_gets_the_value_too_and_each_ends_alone(double: Double, client: K2egClient) -> None:
    one, two = Seen(), Seen()
    first = client.monitor(double.uri("A"), one)
    client.monitor(double.uri("A"), two)
    eventually(lambda: one.values == two.values == [1.5])
    first.close()
    first.close()
    double.post("A", 2.0)
    eventually(lambda: two.values == [1.5, 2.0])
    client.stop_monitor(double.uri("A"))
    client.stop_monitor(double.name("A"))
    client.stop_monitor("NEVER:MONITORED")
    double.post("A", 3.0)
    time.sleep(0.3)
    assert (one.values, two.values) == ([1.5], [1.5, 2.0])


def test_a_slow_handler_misses_some_and_never_the_last(double: Double, client: K2egClient) -> None:
    seen = Seen()

    def slow(pv: str, value: Any) -> None:
        seen(pv, value)
        time.sleep(0.05)

    client.start_monitors([double.uri("A")], lambda pv, event: slow(pv, event[0]), depth=16)
    for i in range(100):
        double.post("A", float(i))
    eventually(lambda: seen.values[-1:] == [99.0])
    assert seen.values == sorted(seen.values, key=lambda v: (v != 1.5, v)) and len(seen.values) < 60
    assert client.counters.lost > 0


def test_a_handler_that_raises_ends_nothing(
    double: Double, client: K2egClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()

    def bad(pv: str, value: Any) -> None:
        raise RuntimeError("mine")

    client.monitor(double.uri("A"), bad)
    client.monitor(double.uri("B"), seen)
    double.post("A", 2.0)
    double.post("B", 3.0)
    eventually(lambda: seen.values == [2.5, 3.0])
    assert "mine" in caplog.text


def test_a_gateway_that_forgot_the_monitor_is_asked_again(double: Double, client: K2egClient, quick: None) -> None:
    """K12: expired, with nobody saying a word; then a new value."""
    seen = Seen()
    client.monitor(double.uri("A"), seen)
    double.monitored.clear()
    double.pvs[double.name("A")] = tree(7.0)
    eventually(lambda: seen.values == [1.5, 7.0])
    double.post("A", 8.0)
    eventually(lambda: seen.values == [1.5, 7.0, 8.0])


def test_a_pv_that_says_nothing_is_told_as_gone_and_comes_back(double: Double, client: K2egClient, quick: None) -> None:
    told: list[Any] = []
    client.start_monitors([double.uri("A")], lambda pv, event: told.append(event))
    before = double.pvs.pop(double.name("A"))
    eventually(lambda: told and isinstance(told[-1], PvError))
    assert told[-1].pv == double.uri("A") and "disconnected" in told[-1].message
    double.pvs[double.name("A")] = before
    eventually(lambda: isinstance(told[-1], tuple))
    assert [type(event) for event in told].count(type(told[1])) == 1, "told once"


def test_any_bytes_on_any_topic_are_counted_and_skipped(double: Double, client: K2egClient) -> None:
    seen = Seen()
    client.monitor(double.uri("A"), seen)
    header = ((HEADER, b"Msgpack"),)
    bad: list[tuple[bytes | None, Any]] = [
        (None, header),
        (b"", header),
        (b"\xc1", header),
        (b"\x81", header),
        (b"\x93\x01\x02\x03", header),
        (b"\x81\x01\x02", header),
        (b"\x82\xa5error\xa1x\xa8reply_id\x01", header),
        (b"{}", ((HEADER, b"Json"),)),
        (b"nonsense", ((HEADER, b"Json"),)),
        (b"\x80", ((HEADER, b"Msgpack-Compact"),)),
        (b"\x80", ()),
        (b"[" * 100_000, ((HEADER, b"json"),)),
    ]
    before = client.counters.bad_records
    for topic in (client.reply_topic, monitor_topic(double.name("A"))):
        for value, headers in bad:
            double.send_raw(topic, value, headers)
    double.send(client.reply_topic, MonitorEvent("X", tree(1.0)), "X", Serialization.JSON)
    double.post("A", 5.0)
    eventually(lambda: seen.values == [1.5, 5.0])
    assert client.get(double.uri("B"))["value"] == 2.5
    eventually(lambda: client.counters.bad_records - before == 2 * len(bad))


@pytest.mark.timeout(300)
def test_a_monitor_outlives_its_expiry_and_its_topic(gateway_factory: Any, soft_ioc: Any) -> None:
    """K12: the gateway drops what is not asked for in 2 s, and deletes its topic where the broker can."""
    gateway = gateway_factory("--monitor-expiry", "2", "--purge", "--allow-write", "*")
    seen = Seen()
    uri = f"pva://{soft_ioc.pv('FREE')}"
    with K2egClient(gateway.environment_name, "outlive", folder=gateway.folder) as client:
        client.monitor(uri, seen)
        eventually(lambda: seen.values == [1.0])
        for value in (2.0, 3.0, 1.0):
            time.sleep(3.5)
            client.put(uri, value)
            # It is asked for every 4 s, and a topic that is deleted and made again meanwhile may cost several turns.
            eventually(lambda value=value: seen.values[-1] == value, seconds=80.0)
    assert seen.values == [1.0, 2.0, 3.0, 1.0]
