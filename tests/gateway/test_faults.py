"""A gateway before a real IOC that bursts, dies and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from p4p.client.thread import Context

from badger_k2eg.k2eg import codec
from badger_k2eg.k2eg.codec import MonitorEvent, Reply, SnapshotData, ValueReply
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.soft_ioc import SoftIoc, random_prefix
from tests.rig.pace import pace

from .wire import Wire

RECOVERY = 30.0


@pytest.fixture
def ioc(soft_ioc_factory: Callable[..., SoftIoc]) -> SoftIoc:
    return soft_ioc_factory()


@pytest.fixture
def wire(broker: Broker, gateway: GatewayProcess) -> Iterator[Wire]:
    with Wire(broker, gateway.command_topic) as wire:
        yield wire


@pytest.fixture
def topic(wire: Wire) -> str:
    topic = f"wire-{random_prefix()}"
    wire.listen(topic)
    return topic


@pytest.mark.parametrize("scheme", ["pva", "ca"])
def test_the_last_value_of_a_burst_of_puts_comes(ioc: SoftIoc, wire: Wire, topic: str, scheme: str):
    name = ioc.pv("INT")
    wire.ask(codec.Monitor, topic=topic, pv_name=f"{scheme}://{name}")
    wire.until(lambda: wire.events(topic))
    with Context("pva", conf=ioc.client_environment, useenv=False) as epics:
        for number in range(1, 101):
            epics.put(name, number, wait=False)
    seen = wire.until(lambda: [e.tree["value"] for e in wire.events(topic)][-1:] == [100] and wire.events(topic))
    values = [event.tree["value"] for event in seen][1:]
    assert values == sorted(values)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["pva", pytest.param("ca", marks=pytest.mark.extended)])
def test_gets_and_puts_while_the_ioc_of_a_monitored_pv_is_dead(ioc: SoftIoc, wire: Wire, topic: str, scheme: str):
    name = ioc.pv("DBL")
    uri = f"{scheme}://{name}"
    wire.ask(codec.Monitor, topic=topic, pv_name=uri)
    (event,) = wire.until(lambda: wire.events(topic))
    assert event.tree["alarm"]["severity"] == 0
    ioc.kill()
    gone = wire.until(lambda: wire.events(topic)[1:], RECOVERY)[0]
    assert gone == MonitorEvent(name, {**event.tree, "alarm": {"severity": 3, "status": 7, "message": "disconnected"}})
    began = time.monotonic()
    value = codec.encode_put_value({"value": 2.0})
    wire.send(codec.Put(pv_name=uri, value=value, reply_topic=topic, reply_id="put"))
    wire.send(codec.Get(pv_name=uri, reply_topic=topic, reply_id="get"))
    wire.until(lambda: wire.replies("put") and wire.replies("get"))
    assert time.monotonic() - began > 9.5
    assert wire.replies("put") == [Reply("put", -3, "Timeout operation")]
    assert wire.replies("get") == [Reply("get", -3, "Timeout operation")]
    ioc.restart()
    back = wire.until(lambda: wire.events(topic)[2:], RECOVERY)[0]
    assert back.tree["alarm"]["severity"] == 0
    # What was not sent is not sent later.
    assert back.tree["value"] == event.tree["value"]


@pytest.mark.slow
def test_a_recurring_snapshot_marks_what_a_dead_ioc_had_last(ioc: SoftIoc, wire: Wire, topic: str):
    fields = {"snapshot_name": topic, "pv_name_list": (f"pva://{ioc.pv('DBL')}",), "time_window_msec": 200}
    wire.listen(codec.snapshot_topic(topic))
    wire.ask(codec.RepeatingSnapshot, topic=topic, **fields)

    def last_severity(wanted: int) -> bool:
        data = [message for message in wire.messages() if isinstance(message, SnapshotData)]
        return bool(data) and data[-1].tree["alarm"]["severity"] == wanted

    wire.until(lambda: last_severity(0))
    ioc.kill()
    wire.until(lambda: last_severity(3), RECOVERY)
    ioc.restart()
    wire.until(lambda: last_severity(0), RECOVERY)
    wire.ask(codec.SnapshotStop, topic=topic, snapshot_name=topic)


def test_a_get_takes_milliseconds_once_the_channel_is_open(ioc: SoftIoc, wire: Wire, topic: str):
    taken = []
    for _ in range(20):
        began = time.monotonic()
        assert isinstance(wire.ask(codec.Get, topic=topic, pv_name=f"pva://{ioc.pv('DBL')}"), ValueReply)
        taken.append(time.monotonic() - began)
    # 240 ms for each with the real gateway; a generous bound for a busy host.
    assert sorted(taken)[len(taken) // 2] < 0.12 * pace()
