"""Fixtures of the tests on a Kafka broker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from badger_k2eg.kafka import KafkaRecord, Producer, TopicReader, Topics
from badger_k2eg.testing.broker import Broker


@pytest.fixture
def topic(broker: Broker) -> str:
    name = f"t-{uuid.uuid4().hex[:12]}"
    broker.create_topic(name)
    return name


@pytest.fixture
def topics(broker: Broker) -> Iterator[Topics]:
    topics = Topics(broker.connection)
    yield topics
    topics.close()


@pytest.fixture
def writer(broker: Broker) -> Iterator[Producer]:
    writer = Producer(broker.connection)
    yield writer
    writer.close()


@pytest.fixture
def got() -> list[KafkaRecord]:
    return []


@pytest.fixture
def reader(broker: Broker, got: list[KafkaRecord]) -> Iterator[TopicReader]:
    reader = TopicReader(broker.connection, got.append)
    yield reader
    reader.close()
