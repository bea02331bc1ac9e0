"""Forks with live Kafka handles: the parent goes on, the child starts without them and never hangs."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.errors import BrokerUnreachable
from badger_k2eg.kafka import EmbeddedBroker, GroupConsumer, KafkaRecord, Producer, Start, TopicReader, Topics
from badger_k2eg.testing.broker import Broker
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from ..contract.children import in_fork
from .kafka_parts import native_threads, within, write

pytestmark = pytest.mark.kafka

FORKS = pytest.mark.parametrize("forks", [3, pytest.param(20, marks=pytest.mark.extended)])


@FORKS
def test_forks_in_a_row_with_live_reader_and_writer(
    broker: Broker, writer: Producer, topics: Topics, topic: str, forks: int
) -> None:
    got: list[KafkaRecord] = []
    reader = TopicReader(broker.connection, got.append, topics=topics)
    reader.assign([topic], within())
    done = threading.Event()
    sent: list[bytes] = []

    def flood() -> None:
        while not done.is_set():
            sent.append(b"parent %d" % len(sent))
            assert writer.send(topic, sent[-1]) is None
            time.sleep(0.002)

    def child() -> dict[str, Any]:
        mine = f"{topic}-{os.getpid()}"
        had = len(got)
        assert reader.assigned == frozenset() and native_threads() == 1
        assert topics.create(mine, Deadline(10)).value == "new"
        reader.assign([mine], Deadline(10), Start.BEGINNING)
        write(writer, mine, b"child 1", b"child 2")
        eventually(lambda: len(got) == had + 2, what="read in the child", seconds=10)
        reader.close()
        writer.close()
        topics.close()
        gc.collect()
        return {"values": [str(record.value) for record in got[had:]], "threads": threading.active_count()}

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        for _ in range(forks):
            answer, took = in_fork(child, seconds=15)
            assert answer == {"values": ["b'child 1'", "b'child 2'"], "threads": 1}
            assert took < 15 * pace()
    finally:
        done.set()
        flooding.join()
    eventually(lambda: len(got) == len(sent), what="the parent reads on")
    assert [record.value for record in got] == sent
    reader.close()


@FORKS
def test_children_forked_while_addresses_are_looked_up(broker: Broker, topics: Topics, topic: str, forks: int) -> None:
    """As librdkafka's threads do whenever they connect: a child may inherit a lock of the C library locked."""
    assert topics.exists(topic, within())
    done = threading.Event()

    def look_up() -> None:
        while not done.is_set():
            socket.getaddrinfo("127.0.0.1", 1, flags=socket.AI_ADDRCONFIG, type=socket.SOCK_STREAM)

    threads = [threading.Thread(target=look_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(forks):
            assert in_fork(lambda: [native_threads(), topics.exists(topic, Deadline(10))], seconds=15)[0] == [1, True]
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_child_of_a_group_member_may_join_as_another(broker: Broker, writer: Producer, topic: str) -> None:
    got: list[KafkaRecord] = []
    group = GroupConsumer(broker.connection, f"g-{topic}", [topic], got.append)
    group.start(within())
    write(writer, topic, b"for the parent")
    eventually(lambda: len(got) == 1, what="read by the parent")

    def child() -> int:
        assert native_threads() == 1
        group.start(Deadline(20))
        had = threading.active_count()
        group.close()
        return had

    assert in_fork(child, seconds=30)[0] == 2
    write(writer, topic, b"for the parent again")
    eventually(lambda: len(got) == 2, what="the parent reads on")
    assert [record.value for record in got] == [b"for the parent", b"for the parent again"]
    group.close()


@FORKS
def test_handle_that_only_a_traceback_knows_is_not_collected_in_the_child(forks: int) -> None:
    """An error of a call keeps the frames of that call, and in them the handle, until the garbage is collected."""
    with EmbeddedBroker() as broker:
        broker.create_topic("mine")

        def child() -> bool:
            topics = Topics(broker.connection)
            found = topics.exists("mine", within(10))
            gc.collect()
            return found

        for _ in range(forks):
            topics = Topics(broker.connection)
            assert topics.exists("mine", within())
            broker.down()
            with contextlib.suppress(BrokerUnreachable):
                _fail_into_a_cycle(topics)
            topics.close()
            broker.up()
            assert in_fork(child)[0] is True
            gc.collect()


def _fail_into_a_cycle(topics: Topics) -> None:
    try:
        topics.exists("mine", within(0.1))
    except BrokerUnreachable as error:
        cycle: list[Any] = [error]
        cycle.append(cycle)
        raise


CHILD_GOES_THROUGH_THE_END = """
import gc, os, sys
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.errors import BrokerUnreachable
from badger_k2eg.kafka import GroupConsumer, KafkaConnection, TopicReader, Producer

connection, topic = KafkaConnection(sys.argv[1]), sys.argv[2]
reader, writer = TopicReader(connection, print), Producer(connection)
group = GroupConsumer(connection, "g-" + topic, [topic], print)
reader.assign([topic], Deadline(10))
group.start(Deadline(10))
writer.send(topic, b"1")
child = os.fork()
if child == 0:
    reader.close(), group.close()
    del reader, group
    gc.collect()
    sys.exit(0)
_, status = os.waitpid(child, 0)
for part in (reader, group, writer):
    part.close()
sys.exit(status)
"""


def test_child_that_goes_through_the_end_of_the_interpreter(broker: Broker, topic: str) -> None:
    """All objects are let go there, the inherited ones too."""
    arguments = [sys.executable, "-c", CHILD_GOES_THROUGH_THE_END, broker.bootstrap, topic]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=150)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_embedded_broker_survives_the_fork_of_its_process(topic: str) -> None:
    with EmbeddedBroker() as broker:
        broker.create_topic("mine")
        writer = Producer(broker.connection)
        write(writer, "mine", b"1")

        def child() -> str:
            broker.down()
            broker.create_topic("another")
            broker.close()
            write(writer, "mine", b"2")
            writer.close()
            return broker.bootstrap

        assert in_fork(child)[0] == broker.bootstrap
        write(writer, "mine", b"3")
        writer.close()
        topics = Topics(broker.connection)
        assert topics.watermarks(["mine"], within()) == {"mine": {0: (0, 3)}}
        topics.close()
