"""A broker that is down, late, or refuses access: bounded errors that name it, and no lasting harm."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.errors import (
    AuthenticationFailed,
    BrokerUnreachable,
    CallCancelled,
    KafkaError,
    MessageTooLarge,
    WriterFull,
)
from badger_k2eg.kafka import (
    Delivery,
    GroupConsumer,
    KafkaConnection,
    KafkaRecord,
    Producer,
    TopicReader,
    Topics,
    consumer,
)
from badger_k2eg.kafka.handles import ConsumerHandle
from badger_k2eg.testing.broker import Broker, EmbeddedBrokerProcess
from badger_k2eg.testing.ports import free_port
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .kafka_parts import within, write

# Apache Kafka takes its time to go and to come back on a busy machine.
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


@pytest.fixture
def fragile(broker: Broker) -> Iterator[Broker]:
    """The session's broker, which is up again after the test."""
    if not broker.has_faults:
        pytest.skip("a broker that somebody else runs is not taken down; use --broker=embedded or --broker=kafka")
    yield broker
    broker.up()


def nobody() -> KafkaConnection:
    return KafkaConnection(f"127.0.0.1:{free_port()}")


def test_nobody_there() -> None:
    connection = nobody()
    topics, reader = Topics(connection), TopicReader(connection, print)
    group = GroupConsumer(connection, "g", ["topic"], print)
    for call in (
        lambda: topics.create("topic", Deadline(0.5)),
        lambda: reader.assign(["topic"], Deadline(0.5)),
        lambda: group.start(Deadline(0.5)),
    ):
        began = time.monotonic()
        with pytest.raises(
            BrokerUnreachable, match=f"{connection.bootstrap} does not answer: Connection refused"
        ) as caught:
            call()
        assert isinstance(caught.value, TimeoutError) and caught.value.broker == connection.bootstrap
        assert time.monotonic() - began < 5 * pace()
    for part in (topics, reader, group):
        began = time.monotonic()
        part.close()
        assert time.monotonic() - began < 5 * pace()


def test_record_for_nobody_is_given_up_in_bounded_time() -> None:
    connection = nobody().with_options({"message.timeout.ms": 500})
    writer = Producer(connection)
    deliveries: list[Delivery] = []
    began = time.monotonic()
    assert writer.send("topic", b"1", on_delivery=deliveries.append) is None
    eventually(lambda: bool(deliveries), what="given up", seconds=10)
    assert time.monotonic() - began < 5 * pace()
    assert isinstance(deliveries[0].error, BrokerUnreachable) and connection.bootstrap in str(deliveries[0].error)
    writer.close()


def test_close_gives_up_what_cannot_be_sent() -> None:
    writer = Producer(nobody())
    deliveries: list[Delivery] = []
    writer.send("topic", b"1", on_delivery=deliveries.append)
    began = time.monotonic()
    writer.close(0.2)
    assert time.monotonic() - began < 5 * pace()
    assert len(deliveries) == 1 and isinstance(deliveries[0].error, KafkaError) and deliveries[0].sent is False


def test_full_queue_is_an_answer_at_once() -> None:
    writer = Producer(nobody().with_options({"queue.buffering.max.messages": 2}))
    answers = [writer.send("topic", b"1") for _ in range(3)]
    assert answers[:2] == [None, None] and isinstance(answers[2], WriterFull) and "topic" in str(answers[2])
    writer.close(0.0)


def test_cancelled_deadline_ends_the_call_at_once() -> None:
    deadline = Deadline(30)
    topics = Topics(nobody())
    timer = threading.Timer(0.2, deadline.cancel)
    timer.start()
    began = time.monotonic()
    with pytest.raises(CallCancelled):
        topics.exists("topic", deadline)
    assert time.monotonic() - began < 5 * pace()
    timer.join()
    topics.close()


@pytest.mark.timeout(300)
def test_down_is_told_and_up_again_works(
    fragile: Broker, topic: str, got: list[KafkaRecord], reader: TopicReader
) -> None:
    writer, topics = Producer(fragile.connection.with_options({"message.timeout.ms": 3000})), Topics(fragile.connection)
    reader.assign([topic], within())
    write(writer, topic, b"before")
    eventually(lambda: bool(got), what="read before")
    assert reader.trouble is None and writer.trouble is None
    gone = time.time()
    fragile.down()

    eventually(lambda: reader.trouble is not None and writer.trouble is not None, what="trouble is seen")
    for part in (reader, writer):
        trouble = part.trouble
        assert trouble is not None and trouble.broker == fragile.bootstrap and gone - 1 <= trouble.since <= time.time()
    with pytest.raises(BrokerUnreachable, match=fragile.bootstrap):
        topics.exists(topic, Deadline(0.5))
    deliveries: list[Delivery] = []
    writer.send(topic, b"lost", on_delivery=deliveries.append)
    eventually(lambda: bool(deliveries), what="given up")
    assert isinstance(deliveries[0].error, BrokerUnreachable) and fragile.bootstrap in str(deliveries[0].error)

    fragile.up()
    time.sleep(10)
    assert topics.exists(topic, Deadline(5))
    write(writer, topic, b"after")
    eventually(lambda: got[-1].value == b"after", what="read again")
    assert [record.value for record in got] == [b"before", b"after"]
    eventually(lambda: reader.trouble is None and writer.trouble is None, what="no trouble any more")
    writer.close()
    topics.close()


@pytest.mark.timeout(300)
def test_reader_goes_on_where_it_was(fragile: Broker, topic: str, got: list[KafkaRecord], reader: TopicReader) -> None:
    """What was waiting to be sent while the broker was away arrives once, and after what was sent before."""
    writer = Producer(fragile.connection.with_options({"message.timeout.ms": 90_000}))
    reader.assign([topic], within())
    write(writer, topic, *(b"%d" % number for number in range(100)))
    fragile.down()
    for number in range(100, 200):
        assert writer.send(topic, b"%d" % number) is None
    fragile.up()
    # A busy machine needs half a minute to start Apache Kafka again.
    eventually(lambda: len(got) >= 200, what="all read", seconds=60)
    time.sleep(0.2)
    assert [record.value for record in got] == [b"%d" % number for number in range(200)]
    writer.close()


def test_close_while_down_is_bounded(fragile: Broker, topic: str) -> None:
    reader, writer = TopicReader(fragile.connection, print), Producer(fragile.connection)
    group = GroupConsumer(fragile.connection, f"g-{topic}", [topic], print)
    reader.assign([topic], within())
    group.start(within())
    write(writer, topic, b"1")
    fragile.down()
    for part in (reader, group, writer):
        began = time.monotonic()
        part.close()
        assert time.monotonic() - began < 8 * pace()


def test_consumer_that_the_library_keeps_open_is_left(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a group's now and then while its broker is down: without a bound, and a command would never end."""
    answered = threading.Event()
    really_close = ConsumerHandle.close
    monkeypatch.setattr(ConsumerHandle, "close", lambda consumer: (answered.wait(30), really_close(consumer)))
    monkeypatch.setattr(consumer, "_CLOSING", 0.2)
    reader = TopicReader(broker.connection, print, name="left")
    reader.assign([topic], within())
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 5 * pace()
    assert "left: the broker does not answer; it is closed as soon as that is over" in caplog.text
    answered.set()
    eventually(lambda: "kafka left" not in {thread.name for thread in threading.enumerate()}, what="closed")


def test_slow_broker_is_waited_for(broker: Broker, topics: Topics, topic: str) -> None:
    if not isinstance(broker, EmbeddedBrokerProcess):
        pytest.skip("only the embedded broker can be slow on request; run it with --broker=embedded")
    assert topics.exists(topic, within())
    broker.rtt(300)
    try:
        began = time.monotonic()
        assert topics.exists(topic, within())
        assert time.monotonic() - began >= 0.25
        with pytest.raises(BrokerUnreachable, match=broker.bootstrap):
            topics.exists(topic, Deadline(0.05))
    finally:
        broker.rtt(0)


def test_refused_by_the_broker_is_an_error_value(broker: Broker, topic: str) -> None:
    if not isinstance(broker, EmbeddedBrokerProcess):
        pytest.skip("only the embedded broker fails on request; run it with --broker=embedded")
    writer = Producer(broker.connection)
    write(writer, topic, b"1")
    message_too_large = 10
    broker.push_errors(0, [message_too_large])
    deliveries: list[Delivery] = []
    writer.send(topic, b"2", on_delivery=deliveries.append)
    eventually(lambda: bool(deliveries), what="reported")
    assert isinstance(deliveries[0].error, MessageTooLarge) and deliveries[0].sent is False
    write(writer, topic, b"3")
    writer.close()


def test_wrong_password(broker: Broker, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    if broker.kind != "kafka":
        pytest.skip("this broker asks for no password; run it with --broker=kafka")
    from badger_k2eg.testing.kafka_server import KafkaServer

    assert isinstance(broker, KafkaServer)
    right = Topics(broker.sasl())
    assert right.exists(topic, within())
    right.close()
    caplog.set_level("DEBUG")
    wrong = broker.sasl("hush-hush")
    reader, writer = TopicReader(wrong, print), Producer(wrong.with_options({"message.timeout.ms": 1000}))
    began = time.monotonic()
    with pytest.raises(AuthenticationFailed, match=wrong.bootstrap) as caught:
        reader.assign([topic], Deadline(20))
    assert isinstance(caught.value, PermissionError) and time.monotonic() - began < 10 * pace()
    deliveries: list[Delivery] = []
    writer.send(topic, b"1", on_delivery=deliveries.append)
    eventually(lambda: bool(deliveries), what="given up")
    assert isinstance(deliveries[0].error, AuthenticationFailed)
    assert writer.trouble is not None and writer.trouble.authentication
    assert "hush-hush" not in caplog.text + repr(wrong) + str(caught.value)
    reader.close()
    writer.close()
