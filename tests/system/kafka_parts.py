"""What the tests on a Kafka broker share."""

from __future__ import annotations

import os
import threading

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.kafka import Delivery, Producer
from tests.rig.waiting import eventually

PATIENCE = 20.0


def within(seconds: float = PATIENCE) -> Deadline:
    return Deadline(seconds)


def write(writer: Producer, topic: str, *values: bytes) -> list[Delivery]:
    """Write and wait until the broker has them."""
    deliveries: list[Delivery] = []
    for value in values:
        assert writer.send(topic, value, key=b"k", on_delivery=deliveries.append) is None
    eventually(lambda: len(deliveries) == len(values), what="delivered")
    assert not [delivery.error for delivery in deliveries if delivery.error is not None]
    return deliveries


def native_threads() -> int:
    tasks = "/proc/self/task"
    return len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count()
