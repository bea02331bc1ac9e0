"""What the tests on a Kafka broker share."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from badger_k2eg.deadline import Deadline
from badger_k2eg.kafka import Delivery, Writer

PATIENCE = 20.0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def within(seconds: float = PATIENCE) -> Deadline:
    return Deadline(seconds)


def write(writer: Writer, topic: str, *values: bytes) -> list[Delivery]:
    """Write and wait until the broker has them."""
    deliveries: list[Delivery] = []
    for value in values:
        assert writer.send(topic, value, key=b"k", on_delivery=deliveries.append) is None
    wait_until(lambda: len(deliveries) == len(values), "delivered")
    assert not [delivery.error for delivery in deliveries if delivery.error is not None]
    return deliveries


def native_threads() -> int:
    tasks = "/proc/self/task"
    return len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count()
