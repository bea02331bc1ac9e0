"""K9: whoever is away, calls end at their deadline and say who it was; soon after all are back, calls succeed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from badger_k2eg.errors import KafkaError, OperationTimeout
from badger_k2eg.k2eg.client import K2egClient
from badger_k2eg.k2eg.codec import Get
from badger_k2eg.k2eg.environment import K2egEnvironment
from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.ports import free_port
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .double import Double, tree

pytestmark = pytest.mark.kafka


@pytest.fixture(autouse=True)
def faulty(broker: Broker) -> None:
    if not broker.has_faults:
        pytest.skip("this broker cannot be taken down: run with --k2eg-broker=embedded or --k2eg-broker=kafka")


def test_no_broker_at_all() -> None:
    address = f"127.0.0.1:{free_port()}"
    with K2egClient(K2egEnvironment("gone", address, "cmd"), "app") as client:
        for call in (client.get, lambda uri, timeout: client.put(uri, 1, timeout)):
            began = time.monotonic()
            with pytest.raises(OperationTimeout, match=address) as caught:
                call("pva://X", 1.0)
            assert caught.value.culprit == "broker" and not caught.value.sent
            assert time.monotonic() - began < 3.0 * pace()
        with pytest.raises(OperationTimeout, match=address):
            client.wait_for_backends(0.5)
        with pytest.raises(OperationTimeout) as caught:
            client.monitor("pva://X", print, 0.5)
        assert caught.value.culprit == "broker"
        with pytest.raises(OperationTimeout) as caught:
            client.snapshot_sync(["pva://X"], 0.5)
        assert caught.value.culprit == "broker"
        answers = client.get_many(["pva://X", "bad"], 0.5)
        assert isinstance(answers["pva://X"], OperationTimeout) and isinstance(answers["bad"], ValueError)


def test_the_broker_goes_and_comes_back(double: Double, client: K2egClient, broker: Broker) -> None:
    values: list[Any] = []
    client.monitor(double.uri("A"), lambda pv, value: values.append(value["value"]))
    assert client.get(double.uri("B"))["value"] == 2.5
    broker.down()
    try:
        # Once the loss has been noticed; before that it may be anybody.
        eventually(lambda: client.trouble is not None)
        began = time.monotonic()
        with pytest.raises(OperationTimeout, match=broker.bootstrap) as caught:
            client.get(double.uri("B"), 0.5)
        assert caught.value.culprit == "broker" and time.monotonic() - began < 2.0 * pace()
    finally:
        broker.up()
    time.sleep(3.0)
    assert client.get(double.uri("B"), 10.0)["value"] == 2.5
    double.post("A", 9.0)
    eventually(lambda: values[-1] == 9.0, seconds=20.0)


def test_the_gateway_goes_and_comes_back(double: Double, client: K2egClient) -> None:
    assert client.get(double.uri("A"))["value"] == 1.5
    double.listening(False)
    began = time.monotonic()
    with pytest.raises(
        OperationTimeout, match=f"no gateway answers on topic {double.environment.command_topic}"
    ) as caught:
        client.get(double.uri("A"), 0.5)
    assert caught.value.culprit == "gateway" and time.monotonic() - began < 2.0 * pace()
    double.listening(True)
    assert client.get(double.uri("A"))["value"] == 1.5


def test_a_pv_that_nobody_serves_is_told_from_a_gateway_that_is_away(double: Double, client: K2egClient) -> None:
    double.instead[Get] = lambda command: None if command.pv_name == double.uri("A") else True
    answers = client.get_many([double.uri("GONE"), double.uri("A")], 0.6)
    assert answers[double.uri("GONE")].culprit == "pv"


def test_a_broker_that_makes_no_topics_is_one_clear_error(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    from badger_k2eg.errors import TopicRefused

    environment = K2egEnvironment("strict", broker.bootstrap, "cmd", kafka=dict(broker.connection.options))
    with K2egClient(environment, "no-such-app-at-all") as client:

        def refuse(topic: str, *words: Any, **more: Any) -> Any:
            raise TopicRefused(f"topic {topic} cannot be made: not allowed", broker.bootstrap)

        monkeypatch.setattr(client._link.topics, "create", refuse)
        with pytest.raises(KafkaError, match="reply topic no-such-app-at-all-reply does not exist.*not allowed"):
            client.get("pva://X", 2.0)


def test_a_value_too_large_for_a_message_is_refused_at_once(double: Double, client: K2egClient) -> None:
    double.pvs[double.name("W")] = tree([0.5] * 10)
    client.get(double.uri("W"))
    with pytest.raises(KafkaError, match=r"(?i)large|size"):
        client.put(double.uri("W"), [0.5] * 1_000_000, 5.0)


def test_a_topic_of_the_process_is_unique(double: Double) -> None:
    with K2egClient(double.environment, "shared", unique_reply_topic=True) as client:
        assert client.get(double.uri("A"))["value"] == 1.5
        assert double.commands[-1].reply_topic.startswith("shared-reply-")
