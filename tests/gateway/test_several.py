"""Several gateways of one group: what belongs to a monitor or a snapshot reaches the one that holds it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from badger_k2eg.errors import ControlError
from badger_k2eg.k2eg import monitors
from badger_k2eg.k2eg.client import K2egClient
from badger_k2eg.k2eg.environment import K2egEnvironment
from badger_k2eg.k2eg.snapshots import Iteration, SnapshotProperties
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.soft_ioc import SoftIoc, random_prefix
from tests.rig.waiting import eventually

from .conftest import Serve, Served

pytestmark = pytest.mark.kafka

PVS = 200
MONITORED = 40


@pytest.fixture
def pair(serve: Serve, memory_context: Any) -> list[Served]:
    """Two gateways before one machine in memory."""
    topic = f"cmd-{random_prefix()}"
    for number in range(PVS):
        memory_context.add(f"P:{number}", 0.0)
    return [serve(topic), serve(topic)]


@pytest.fixture
def client(pair: list[Served], broker: Broker) -> Iterator[K2egClient]:
    """Their client, when both have their share of the commands."""
    options = dict(broker.connection.options)
    environment = K2egEnvironment("several", broker.bootstrap, pair[0].gateway.command_topic, kafka=options)
    with K2egClient(environment, f"app-{random_prefix()}") as made:

        def both_serve() -> bool:
            made.get_many(uris(), 5.0)
            return all(served.gateway._gets._known for served in pair)

        eventually(both_serve, seconds=30.0)
        yield made


def uris(count: int = PVS) -> list[str]:
    return [f"pva://P:{number}" for number in range(count)]


def test_two_hundred_gets(client: K2egClient):
    assert [answer["value"] for answer in client.get_many(uris()).values()] == [0.0] * PVS  # type: ignore[index]


def test_a_monitor_asked_for_again_is_held_by_one_until_another_takes_over(
    pair: list[Served], client: K2egClient, monkeypatch: pytest.MonkeyPatch
):
    for name in ("_QUIET", "_REFRESH"):
        monkeypatch.setattr(monitors, name, 0.5)
    seen: dict[str, list[float]] = defaultdict(list)

    def hear(pv: str, tree: Mapping[str, Any]) -> None:
        seen[pv].append(tree["value"])

    client.monitor_many(uris(MONITORED), hear)
    # Each is asked for again several times.
    time.sleep(3.0)
    held = [served.gateway.monitored for served in pair]
    assert sum(held) == MONITORED and all(held)
    for value in (1.0, 2.0):
        for number in range(MONITORED):
            pair[0].memory.post(f"P:{number}", value)
    eventually(lambda: all(seen[f"P:{number}"] == [0.0, 1.0, 2.0] for number in range(MONITORED)))
    pair[0].gateway.close()
    eventually(lambda: pair[1].gateway.monitored == MONITORED, seconds=30.0)
    for number in range(MONITORED):
        pair[1].memory.post(f"P:{number}", 3.0)
    eventually(lambda: all(seen[f"P:{number}"][-1] == 3.0 for number in range(MONITORED)))


def test_snapshots_are_triggered_and_stopped_where_they_run(pair: list[Served], client: K2egClient):
    names = [f"{pair[0].prefix} {number}" for number in range(8)]
    seen: dict[str, list[Iteration]] = defaultdict(list)
    for name in names:
        about = SnapshotProperties(name, time_window=200, triggered=True, pv_uri_list=uris(2))
        client.snapshot_recurring(about, seen[name].append)
    assert all(served.gateway.snapshots for served in pair)
    for count in (1, 2):
        for name in names:
            client.trigger(name)
            eventually(lambda name=name, count=count: len(seen[name]) == count)
    for name in names:
        client.stop(name)
    assert [served.gateway.snapshots for served in pair] == [0, 0]
    eventually(lambda: all(len(seen[name]) == 3 for name in names))
    assert not any(iteration.partial for iterations in seen.values() for iteration in iterations)


@pytest.mark.slow
def test_one_that_is_killed_is_replaced(soft_ioc: SoftIoc, gateway_factory: Callable[..., GatewayProcess]):
    shared = {"command_topic": f"cmd-{random_prefix()}", "group": f"group-{random_prefix()}"}
    first, second = gateway_factory(**shared), gateway_factory(**shared)
    counts: list[float] = []
    wanted = [f"pva://{soft_ioc.prefix}:SP:{number:03}" for number in range(40)]
    with K2egClient(second.environment_name, f"app-{random_prefix()}", folder=second.folder) as client:
        client.monitor(f"pva://{soft_ioc.pv('COUNT')}", lambda _, tree: counts.append(tree["value"]), 10.0)
        assert not errors(client, wanted)
        first.kill()
        eventually(lambda: not errors(client, wanted), seconds=30.0)
        so_far = len(counts)
        eventually(lambda: len(counts) > so_far + 10, seconds=30.0)
    assert counts[-1] == max(counts)


def errors(client: K2egClient, wanted: list[str]) -> list[Exception]:
    """Read PVs, with little patience; gives what went wrong."""
    return [answer for answer in client.get_many(wanted, 3.0).values() if isinstance(answer, ControlError)]
