"""Monitors of a gateway: every update, the last one always, and no event that nobody asked for."""

from __future__ import annotations

import time

import pytest

from badger_k2eg.k2eg import codec
from badger_k2eg.k2eg.codec import MonitorEvent, Serialization
from badger_k2eg.testing.broker import Broker

from .conftest import Serve, Served
from .wire import PATIENCE

# With an outage of the broker, which may be Apache Kafka.
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

#: Seconds after a command in which the value is repeated, if ever.
REPEATED = 3.0


@pytest.fixture
def served(serve: Serve) -> Served:
    served = serve()
    served.memory.add("A:X", 1.0)
    served.memory.add("B", 2.0)
    return served


def values(served: Served, topic: str) -> list[object]:
    return [event.tree["value"] for event in served.wire.events(topic)]


def test_the_present_value_and_every_update(served: Served):
    (topic,) = served.listen(f"{served.prefix}_events")
    reply = served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=topic)
    assert (reply.error, reply.message) == (0, "Monitor activated for pva://A:X")
    for number in range(2, 12):
        served.memory.post("A:X", float(number))
    served.wire.until(lambda: len(values(served, topic)) == 11)
    assert values(served, topic) == [float(number) for number in range(1, 12)]
    keys = {record.key for _, record in served.wire.records if record.topic == topic}
    assert keys == {b"A:X"}


def test_without_a_destination_events_come_where_replies_come(served: Served):
    served.ask(codec.Monitor, pv_name="pva://B")
    served.wire.until(lambda: served.wire.events(served.replies))
    assert served.wire.events(served.replies) == [MonitorEvent("B", {"value": 2.0})]


def test_the_same_command_again_forces_one_event(served: Served):
    (topic,) = served.listen(f"{served.prefix}_events")
    for count in (1, 2, 3):
        assert served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=topic).error == 0
        served.wire.until(lambda count=count: len(values(served, topic)) == count)
    served.memory.post("A:X", 5.0)
    served.wire.until(lambda: values(served, topic)[-1:] == [5.0])
    # One stream, not three.
    time.sleep(0.5)
    assert values(served, topic).count(5.0) == 1


def test_the_value_is_repeated_once_for_whoever_reads_the_topic_only_now(served: Served):
    (topic,) = served.listen(f"{served.prefix}_events")
    served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=topic)
    served.wire.until(lambda: values(served, topic) == [1.0])
    # From the end of the topic on, as a client that joins after the answer.
    served.wire.ignore([topic])
    served.wire.clear()
    served.listen(topic)
    served.wire.until(lambda: served.wire.events(topic))
    time.sleep(REPEATED)
    assert values(served, topic) == [1.0]


def test_the_value_is_not_repeated_after_a_newer_one(served: Served):
    (topic,) = served.listen(f"{served.prefix}_events")
    served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=topic)
    served.wire.until(lambda: values(served, topic) == [1.0])
    served.memory.post("A:X", 5.0)
    served.wire.until(lambda: values(served, topic) == [1.0, 5.0])
    time.sleep(REPEATED)
    assert values(served, topic) == [1.0, 5.0]


def test_another_destination_gets_the_events_too_in_its_own_serialization(served: Served):
    first, second = served.listen(f"{served.prefix}_a", f"{served.prefix}_b")
    served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=first)
    served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=second, serialization=Serialization.JSON)
    served.memory.post("A:X", 5.0)
    served.wire.until(lambda: values(served, first)[-1:] == values(served, second)[-1:] == [5.0])
    headers = {record.topic: record.headers for _, record in served.wire.records}
    assert headers[first] == (("k2eg-ser-type", b"Msgpack"),)
    assert headers[second] == (("k2eg-ser-type", b"Json"),)


def test_many_go_each_to_the_topic_of_its_name(served: Served):
    name = f"{served.prefix}:M"
    served.memory.add(name, 7.0)
    (topic,) = served.listen(codec.monitor_topic(name))
    assert topic == f"{served.prefix}_M"
    reply = served.ask(codec.MultiMonitor, pv_name_list=(f"pva://{name}", "no-uri", "pva://NO:SUCH:PV"))
    assert (reply.error, reply.message) == (0, "Monitor activated")
    served.wire.until(lambda: values(served, topic) == [7.0])


def test_a_malformed_or_missing_pv_is_no_error_as_in_k2eg(served: Served):
    for uri in ("A:X", "pva://NO:SUCH:PV"):
        reply = served.ask(codec.Monitor, pv_name=uri)
        assert (reply.error, reply.message) == (0, f"Monitor activated for {uri}")


@pytest.mark.parametrize("updates", [50, 3000])
def test_the_last_value_of_a_burst_always_comes(served: Served, updates: int):
    (topic,) = served.listen(f"{served.prefix}_events")
    served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=topic)
    for number in range(updates):
        served.memory.post("A:X", float(number))
    served.wire.until(lambda: values(served, topic)[-1:] == [updates - 1.0])
    seen = values(served, topic)[1:]
    assert seen == sorted(seen)


def test_a_pv_that_is_gone_is_marked_invalid_until_it_is_back(served: Served):
    (topic,) = served.listen(f"{served.prefix}_events")
    served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=topic)
    served.wire.until(lambda: served.wire.events(topic))
    served.memory.fault("A:X", "missing")
    served.wire.until(lambda: len(served.wire.events(topic)) == 2)
    gone = served.wire.events(topic)[-1].tree
    assert gone["value"] == 1.0
    assert (gone["alarm"]["severity"], gone["alarm"]["message"]) == (3, "disconnected")
    served.memory.fault("A:X", None)
    served.wire.until(lambda: len(served.wire.events(topic)) == 3)
    assert "alarm" not in served.wire.events(topic)[-1].tree


def test_a_monitor_that_nobody_asks_for_again_is_dropped(serve: Serve):
    served = serve(monitor_expiry=1.0)
    served.memory.add("X", 1.0)
    kept, dropped = served.listen(f"{served.prefix}_kept", f"{served.prefix}_dropped")
    served.ask(codec.Monitor, pv_name="pva://X", monitor_dest_topic=dropped)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        served.ask(codec.Monitor, pv_name="pva://X", monitor_dest_topic=kept)
        time.sleep(0.3)
    served.memory.post("X", 2.0)
    served.wire.until(lambda: values(served, kept)[-1:] == [2.0])
    assert values(served, dropped) == [1.0]
    # Asked for again, it is there again.
    served.ask(codec.Monitor, pv_name="pva://X", monitor_dest_topic=dropped)
    served.wire.until(lambda: values(served, dropped) == [1.0, 2.0])


def test_purge_deletes_the_topic_of_a_dropped_monitor(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    served = serve(monitor_expiry=0.5, purge=True)
    served.memory.add("X", 1.0)
    # The embedded broker cannot delete topics: what is asked of it is looked at.
    deleted: list[str] = []
    monkeypatch.setattr(served.gateway._topics, "delete", lambda topic, deadline: deleted.append(topic))
    (topic,) = served.listen(f"{served.prefix}_purged")
    served.ask(codec.Monitor, pv_name="pva://X", monitor_dest_topic=topic)
    until = time.monotonic() + PATIENCE
    while not deleted and time.monotonic() < until:
        time.sleep(0.05)
    assert deleted == [topic]


def test_after_an_outage_of_the_broker_the_present_value_comes_once_more(served: Served, broker: Broker):
    if not broker.has_faults:
        pytest.skip("this broker is somebody else's: it is not taken down (--k2eg-broker=embedded can be)")
    (topic,) = served.listen(f"{served.prefix}_events")
    served.ask(codec.Monitor, pv_name="pva://A:X", monitor_dest_topic=topic)
    served.wire.until(lambda: values(served, topic) == [1.0])
    broker.down()
    try:
        served.memory.post("A:X", 2.0)
        # Longer than a record may wait for its delivery.
        time.sleep(7.0)
    finally:
        broker.up()
    served.wire.until(lambda: values(served, topic)[-1:] == [2.0], PATIENCE)
