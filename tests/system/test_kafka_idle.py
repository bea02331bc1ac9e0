"""Threads of handles sleep while nothing happens, and wake up at once when something does."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.kafka import GroupConsumer, KafkaRecord, Producer, TopicReader, handles, waker
from badger_k2eg.testing.broker import Broker
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .kafka_parts import within, write

pytestmark = pytest.mark.kafka

AT_REST = 2.0
MOST_PER_SECOND = 5.0


def switches(thread: threading.Thread) -> int:
    """How many times a thread went to sleep by itself."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="the system does not count the wake-ups of a thread")
def test_threads_sleep_at_rest(broker: Broker, topic: str, got: list[KafkaRecord]) -> None:
    before = set(threading.enumerate())
    reader, writer = TopicReader(broker.connection, got.append), Producer(broker.connection)
    group = GroupConsumer(broker.connection, f"g-{topic}", [topic], got.append)
    reader.assign([topic], within())
    group.start(within())
    write(writer, topic, b"1")
    eventually(lambda: len(got) == 2, what="both have read")
    threads = [thread for thread in threading.enumerate() if thread not in before]
    assert len(threads) == 3
    time.sleep(0.5)
    counts = {thread: switches(thread) for thread in threads}
    time.sleep(AT_REST)
    rates = {thread.name: (switches(thread) - counts[thread]) / AT_REST for thread in threads}
    assert max(rates.values()) < MOST_PER_SECOND, rates
    for part in (reader, group, writer):
        part.close()


def test_all_that_comes_at_rest_is_heard_at_once(
    broker: Broker, topic: str, writer: Producer, reader: TopicReader, got: list[KafkaRecord]
) -> None:
    """A record, a delivery report, a request and a close: none of them waits for the end of a sleep."""
    reader.assign([topic], within())
    write(writer, topic, b"0")
    took: dict[str, list[float]] = {"record": [], "request": [], "close": []}
    for number in range(1, 6):
        time.sleep(0.3)
        began = time.monotonic()
        write(writer, topic, b"%d" % number)
        eventually(lambda: len(got) == number + 1, what="read")  # noqa: B023 (used in this round only)
        took["record"].append(time.monotonic() - began)
        time.sleep(0.3)
        began = time.monotonic()
        reader.unassign([f"{topic}-not-assigned"])
        took["request"].append(time.monotonic() - began)
        another = Producer(broker.connection)
        write(another, topic)
        another.connect()
        time.sleep(0.3)
        began = time.monotonic()
        another.close()
        took["close"].append(time.monotonic() - began)
    # The longest sleep takes a second; the quickest of five shows that none was waited for.
    assert {what: min(times) for what, times in took.items() if min(times) > 0.1 * pace()} == {}, took


def test_without_the_help_of_the_library_all_works_by_polling(
    broker: Broker, topic: str, got: list[KafkaRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waker, "native_handle", lambda handle: None)
    reader, writer = TopicReader(broker.connection, got.append), Producer(broker.connection)
    reader.assign([topic], within())
    write(writer, topic, b"1", b"2")
    eventually(lambda: len(got) == 2, what="read")
    reader.unassign([topic])
    assert reader.assigned == frozenset()
    for part in (reader, writer):
        part.close()


def test_only_a_handle_of_the_library_is_taken_for_one() -> None:
    handle = handles.make(handles.ProducerHandle, {"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    address = waker.native_handle(handle)
    assert address is not None and waker.native_handle(handle) == address
    for other in (object(), [handle], (handle, handle), {"handle": handle}, "a text that is long enough", Deadline(1)):
        assert waker.native_handle(other) is None


def test_pipes_are_closed(broker: Broker, topic: str) -> None:
    descriptors = "/proc/self/fd"
    if not os.path.isdir(descriptors):
        pytest.skip("the system does not list the open files of a process")

    def use() -> None:
        reader, writer = TopicReader(broker.connection, print), Producer(broker.connection)
        reader.assign([topic], within())
        write(writer, topic, b"1")
        for part in (reader, writer):
            part.close()

    use()
    before = len(os.listdir(descriptors))
    for _ in range(3):
        use()
    eventually(lambda: len(os.listdir(descriptors)) <= before, what="closed")
