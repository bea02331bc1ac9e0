"""Many monitored PVs at a high rate: the last value of each comes, and memory stays flat."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest
from p4p.client.thread import Context

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.k2eg import codec
from badger_k2eg.kafka import Topics
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.soft_ioc import client_environment, random_prefix

from .pulse_server import PVS, RATE, PulseServer
from .wire import PATIENCE, Wire

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

WARM, SECONDS = 4.0, 8.0


@pytest.mark.extended
def test_a_hundred_pvs_at_fifty_updates_a_second(
    broker: Broker, gateway_factory: Callable[..., GatewayProcess], record_property: Callable[[str, object], None]
):
    with PulseServer() as server:
        environment = client_environment(server)
        gateway = gateway_factory(epics=environment)
        names = [server.pv(str(number)) for number in range(PVS)]
        topics = [codec.monitor_topic(name) for name in names]
        with Wire(broker, gateway.command_topic) as wire:
            replies = f"replies-{random_prefix()}"
            wire.listen(replies)
            uris = tuple(f"pva://{name}" for name in names)
            wire.ask(codec.MultiMonitor, topic=replies, pv_name_list=uris)
            process = psutil.Process(gateway.pid)
            time.sleep(WARM)
            before, memory, cpu = written(broker, topics), process.memory_info().rss, sum(process.cpu_times()[:2])
            time.sleep(SECONDS)
            events = written(broker, topics) - before
            growth = process.memory_info().rss - memory
            record_property("events_per_second", events / SECONDS)
            record_property("cpus", (sum(process.cpu_times()[:2]) - cpu) / SECONDS)
            with Context("pva", conf=environment, useenv=False) as epics:
                epics.put(server.pv("STOP"), 1, timeout=PATIENCE)
                time.sleep(1.0)
                last = float(epics.get(server.pv("STOP"), timeout=PATIENCE))
            # Nobody asks for it: it came by itself.
            wire.listen_last(*topics)
            wire.until(lambda: len(seen(wire)) == PVS)
            assert seen(wire) == dict.fromkeys(names, last)
    # A busy host slows both sides down; half the rate would be a fault.
    assert events > PVS * RATE * SECONDS / 2
    # Forty thousand events of 600 bytes have gone through.
    assert growth < 12_000_000


def seen(wire: Wire) -> dict[str, float]:
    """Give the last value of each PV."""
    return {e.pv: e.tree["value"] for e in wire.messages() if isinstance(e, codec.MonitorEvent)}


def written(broker: Broker, topics: list[str]) -> int:
    """Count what is on topics."""
    asking = Topics(broker.connection)
    ends = asking.watermarks(topics, Deadline(PATIENCE))
    asking.close()
    return sum(end for places in ends.values() for _, end in places.values())
