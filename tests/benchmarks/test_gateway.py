"""The gateway under many updates: what of them is published, how late, and what that costs.

The reader is confluent-kafka alone, so that the gateway is measured and not a client. The server of the PVs, the broker
and that reader are on the same cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from badger_k2eg.k2eg.client import K2egClient
from badger_k2eg.k2eg.codec import MonitorEvent, decode_record, monitor_topic
from badger_k2eg.testing.gateway import GatewayProcess

from .board import Board, Figure, is_full

if TYPE_CHECKING:
    from badger_k2eg.testing.broker import Broker

    from .updates import UpdateServer

HERTZ = 50.0
"""Of each of a hundred PVs: 5,000 updates a second."""
TARGET_MERGED = 1.0
"""Percent."""
TARGET_KB = 2048
LOOKS = 10
_PATIENCE = 60.0


class Events:
    """What is published of some PVs from now on: how many events, the last value of each, and how late some came."""

    def __init__(self, broker: Broker, pvs: list[str]) -> None:
        self.count = 0
        self.last: dict[str, float] = {}
        #: Seconds from the server's time stamp until it is read here.
        self.delays: list[float] = []
        self._last: dict[str, Any] = {}
        self._consumer = Consumer(
            {"bootstrap.servers": broker.bootstrap, "group.id": "events", "enable.auto.commit": False}
        )
        places = []
        for topic in {monitor_topic(pv) for pv in pvs}:
            for partition in self._consumer.list_topics(topic, timeout=_PATIENCE).topics[topic].partitions:
                place = TopicPartition(topic, partition)
                place.offset = self._consumer.get_watermark_offsets(place, timeout=_PATIENCE)[1]
                places.append(place)
        self._consumer.assign(places)

    def read(self, seconds: float) -> None:
        """Read for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0.0:
            messages = self._consumer.consume(1000, timeout=min(left, 0.1))
            self.count += len(messages)
            # Of a batch the last alone is looked into: that of all would cost the gateway its core.
            if messages:
                event = _event(messages[-1])
                stamp = event.tree["timeStamp"]
                self.delays.append(time.time() - stamp["secondsPastEpoch"] - stamp["nanoseconds"] * 1e-9)
            self._last.update({(message.topic(), message.key()): message for message in messages})

    def values(self) -> dict[str, float]:
        """Give the last value of each PV, by its name."""
        events = map(_event, self._last.values())
        return {event.pv: float(event.tree["value"]) for event in events}

    def close(self) -> None:
        self._consumer.close()


def _event(message: Any) -> MonitorEvent:
    assert message.error() is None, message.error()
    event = decode_record(message.value(), tuple(message.headers() or ()))
    assert isinstance(event, MonitorEvent), event
    return event


@pytest.fixture
def gateway(broker: Broker, update_server: UpdateServer) -> Iterator[GatewayProcess]:
    with GatewayProcess(broker=broker, epics=update_server.client_environment) as process:
        yield process


def test_updates(board: Board, broker: Broker, gateway: GatewayProcess, update_server: UpdateServer) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process(gateway.pid)
    pvs = update_server.pvs
    with K2egClient(gateway.environment_name, "bench-updates", folder=gateway.folder) as client:
        client.monitor_many([f"pva://{pv}" for pv in pvs], lambda pv, tree: None, timeout=_PATIENCE)
    # From here on nobody but this one reads; a gateway goes on publishing.
    events = Events(broker, pvs)
    warm_up, seconds = (1.0, 5.0) if board.short else (10.0, 300.0 if is_full() else 60.0)
    first, began = update_server.update(HERTZ), time.monotonic()
    try:
        events.read(warm_up)
        events.delays.clear()
        resident = []
        used, warm = sum(process.cpu_times()[:2]), time.monotonic()
        for _ in range(LOOKS):
            events.read(seconds / LOOKS)
            resident.append(process.memory_info().rss / 1024)
        used = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - warm)
    finally:
        last, took = update_server.update(0.0), time.monotonic() - began
    delays = events.delays.copy()
    events.read(2.0)
    offered, published = sum(last) - sum(first), events.count
    wrong = [pv for pv, value in zip(pvs, last, strict=True) if events.values().get(pv) != value]
    events.close()
    assert not wrong, f"the last value is missing of {len(wrong)} PVs: {wrong[:5]}"
    begin, end = statistics.median(resident[:3]), statistics.median(resident[-3:])
    group = f"gateway: {offered / took:.0f} updates/s of {len(pvs)} PVs, {took:.0f} s"
    for what, ours, unit, target, more in (
        ("updates not published (merged at the PV)", max(0.0, 1 - published / offered) * 100, "%", TARGET_MERGED, {}),
        ("PVs whose last value is not published", float(len(wrong)), "", 0.0, {}),
        ("from the server's time stamp to the reader, p50", statistics.median(delays) * 1e3, "ms", None, {}),
        ("the same, p99", statistics.quantiles(delays, n=100)[98] * 1e3, "ms", None, {}),
        ("processor time of the gateway", used * 100, "% of a core", None, {}),
        ("resident memory, growth", end - begin, "kB", TARGET_KB, {"series": resident}),
    ):
        board.add(
            Figure(
                group=group,
                what=what,
                ours=ours,
                unit=unit,
                target=target,
                samples=LOOKS if more else published,
                more=more,
            )
        )
