"""Readers, producers and topics on a real broker; `--broker=kafka` runs them on Apache Kafka."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from badger_k2eg.errors import KafkaError, MessageTooLarge, SettingsError, TopicMissing, TopicRefused
from badger_k2eg.kafka import Created, Delivery, KafkaConnection, KafkaRecord, Producer, Start, TopicReader, Topics
from badger_k2eg.testing.broker import Broker
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .kafka_parts import native_threads, within, write

pytestmark = pytest.mark.kafka


def test_record_arrives_whole(writer: Producer, reader: TopicReader, topic: str, got: list[KafkaRecord]) -> None:
    assert reader.assign([topic], within()) == {topic: {0: 0}}
    deliveries: list[Delivery] = []
    headers = [("k2eg-ser-type", b"Json"), ("other", b""), ("other", b"2")]
    writer.send(topic, b"\x00value", key=b"a key", headers=headers, on_delivery=deliveries.append)
    eventually(lambda: bool(got and deliveries), what="read and reported")
    assert deliveries == [Delivery(topic, 0, 0)]
    record = got[0]
    assert (record.topic, record.partition, record.offset) == (topic, 0, 0)
    assert (record.key, record.value, record.headers) == (b"a key", b"\x00value", tuple(headers))
    assert (record.header("other"), record.header("none")) == (b"2", None)
    assert abs(record.timestamp - time.time()) < 60


def test_end_reads_only_what_comes_after(
    writer: Producer, reader: TopicReader, topic: str, got: list[KafkaRecord]
) -> None:
    write(writer, topic, b"before")
    assert reader.assign([topic], within()) == {topic: {0: 1}}
    write(writer, topic, b"after")
    eventually(lambda: bool(got), what="read")
    assert [record.value for record in got] == [b"after"]


def test_beginning_and_offset(broker: Broker, writer: Producer, topic: str) -> None:
    write(writer, topic, b"0", b"1", b"2")
    for start, expected in ((Start.BEGINNING, [b"0", b"1", b"2"]), ({0: 2}, [b"2"])):
        got: list[KafkaRecord] = []
        reader = TopicReader(broker.connection, got.append)
        reader.assign([topic], within(), start)
        eventually(lambda: len(got) == len(expected), what="read")  # noqa: B023 (used in this round only)
        assert [record.value for record in got] == expected
        reader.close()


def test_ten_thousand_in_order(writer: Producer, reader: TopicReader, topic: str, got: list[KafkaRecord]) -> None:
    reader.assign([topic], within())
    values = [b"%d" % number for number in range(10_000)]
    for value in values:
        assert writer.send(topic, value) is None
    eventually(lambda: len(got) == len(values), what="all read")
    assert [record.value for record in got] == values
    assert [record.offset for record in got] == list(range(len(values)))
    eventually(lambda: writer.waiting == 0, what="all delivered")


def test_adding_topics_loses_nothing_of_the_others(
    broker: Broker, writer: Producer, reader: TopicReader, topic: str, got: list[KafkaRecord]
) -> None:
    """Records flow on one topic all the while 20 others come and go."""
    reader.assign([topic], within())
    others = [f"{topic}-{number}" for number in range(20)]
    for other in others:
        broker.create_topic(other)
    done = threading.Event()
    sent: list[bytes] = []

    def flood() -> None:
        while not done.is_set():
            sent.append(b"%d" % len(sent))
            assert writer.send(topic, sent[-1]) is None
            time.sleep(0.0005)

    flooding = threading.Thread(target=flood)
    flooding.start()
    for number, other in enumerate(others):
        assert reader.assign([other], within()) == {other: {0: 0}}
        write(writer, other, b"first on %d" % number)
        if number % 2:
            reader.unassign([other, "never-assigned"])
    done.set()
    flooding.join()
    kept = {topic, *others[::2]}
    assert reader.assigned == kept
    eventually(lambda: sum(record.topic == topic for record in got) == len(sent), what="all of the first topic")
    assert [record.value for record in got if record.topic == topic] == sent
    eventually(lambda: {record.topic for record in got} >= kept, what="one record of every topic that is kept")
    assert len(sent) > 20


def test_an_assigned_topic_keeps_its_position(
    writer: Producer, reader: TopicReader, topic: str, got: list[KafkaRecord]
) -> None:
    reader.assign([topic], within())
    write(writer, topic, b"0", b"1")
    eventually(lambda: len(got) == 2, what="read")
    assert reader.assign([topic, topic], within(), Start.BEGINNING) == {topic: {0: 0}}
    write(writer, topic, b"2")
    eventually(lambda: len(got) == 3, what="read")
    assert [record.value for record in got] == [b"0", b"1", b"2"]


def test_unassigned_topic_is_silent_and_can_come_back(
    writer: Producer, reader: TopicReader, topic: str, got: list[KafkaRecord]
) -> None:
    reader.assign([topic], within())
    reader.unassign([topic])
    reader.unassign([topic])
    assert reader.assigned == frozenset()
    write(writer, topic, b"unheard")
    reader.assign([topic], within())
    write(writer, topic, b"heard")
    eventually(lambda: bool(got), what="read")
    assert [record.value for record in got] == [b"heard"]


def test_callback_that_raises_is_counted_and_logged(
    broker: Broker, writer: Producer, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[bytes | None] = []

    def fragile(record: KafkaRecord) -> None:
        got.append(record.value)
        if record.value == b"bad":
            raise ZeroDivisionError("on purpose")

    reader = TopicReader(broker.connection, fragile, name="fragile reader")
    reader.assign([topic], within())
    write(writer, topic, b"good", b"bad", b"good again")
    eventually(lambda: len(got) == 3, what="read on")
    assert reader.callback_errors == 1
    assert "fragile reader: the callback failed" in caplog.text and "on purpose" in caplog.text
    reader.close()


def test_callback_may_unassign_but_not_assign(broker: Broker, writer: Producer, topic: str) -> None:
    errors: list[KafkaError] = []

    def callback(record: KafkaRecord) -> None:
        reader.unassign([topic])
        try:
            reader.assign(["another"], within())
        except KafkaError as error:
            errors.append(error)

    reader = TopicReader(broker.connection, callback)
    reader.assign([topic], within())
    write(writer, topic, b"1")
    eventually(lambda: not reader.assigned and bool(errors), what="unassigned")
    assert "inside the callback" in str(errors[0])
    reader.close()


def test_huge_message(
    broker: Broker, writer: Producer, reader: TopicReader, topic: str, got: list[KafkaRecord]
) -> None:
    error = writer.send(topic, bytes(2_000_000))
    assert isinstance(error, MessageTooLarge) and topic in str(error)
    reader.assign([topic], within())
    large = Producer(broker.connection.with_options({"message.max.bytes": 3_000_000}))
    deliveries: list[Delivery] = []
    assert large.send(topic, bytes(2_000_000), on_delivery=deliveries.append) is None
    eventually(lambda: bool(deliveries), what="reported")
    if deliveries[0].error is None:  # the embedded broker has no limit of its own
        eventually(lambda: bool(got), what="read")
        assert got[0].value == bytes(2_000_000)
    else:
        assert isinstance(deliveries[0].error, MessageTooLarge) and deliveries[0].sent is False
    large.close()


def test_topic_is_made_once(topics: Topics) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    assert not topics.exists(name, within())
    assert topics.create(name, within()) is Created.NEW
    assert topics.exists(name, within())
    assert topics.create(name, within()) is Created.EXISTED


def test_topic_that_cannot_be_made(broker: Broker, topics: Topics, topic: str) -> None:
    if broker.kind == "embedded":
        pytest.skip("the embedded broker refuses no topic; run it with --broker=kafka")
    with pytest.raises(TopicRefused, match="not a name"):
        topics.create("not a name", within())
    with pytest.raises(TopicRefused, match=f"{topic}-copied.*replica"):
        topics.create(f"{topic}-copied", within(), replication=7)


def test_delete(broker: Broker, topics: Topics, topic: str) -> None:
    if broker.kind == "embedded":
        with pytest.raises(TopicRefused, match=topic):
            topics.delete(topic, within())
    else:
        assert topics.delete(topic, within()) is True
        eventually(lambda: not topics.exists(topic, within()), what="gone")
        assert topics.delete(topic, within()) is False


def test_watermarks_and_partitions(broker: Broker, topics: Topics, writer: Producer, topic: str) -> None:
    wide = f"{topic}-wide"
    broker.create_topic(wide, 3)
    write(writer, topic, b"0", b"1")
    assert topics.partitions([topic, wide], within()) == {topic: (0,), wide: (0, 1, 2)}
    assert topics.watermarks([topic, wide], within()) == {topic: {0: (0, 2)}, wide: dict.fromkeys(range(3), (0, 0))}
    assert broker.bootstrap in topics.brokers(within()).values()


def test_missing_topic_is_named_and_nothing_is_assigned(reader: TopicReader, topics: Topics, topic: str) -> None:
    missing = f"{topic}-missing"
    began = time.monotonic()
    with pytest.raises(TopicMissing, match=missing) as caught:
        reader.assign([topic, missing], within())
    assert isinstance(caught.value, LookupError) and time.monotonic() - began < 5 * pace()
    assert reader.assigned == frozenset() and not topics.exists(missing, within())


def test_wrong_option_is_named(topic: str) -> None:
    wrong = KafkaConnection("127.0.0.1:1", {"no.such.option": 1})
    for use in (
        lambda: Topics(wrong).exists(topic, within()),
        lambda: TopicReader(wrong, print, topics=None).assign([topic], within()),
        lambda: Producer(wrong).send(topic, b""),
    ):
        with pytest.raises(SettingsError, match=r"no\.such\.option"):
            use()


def test_close_leaves_no_thread_and_is_idempotent(broker: Broker, topic: str) -> None:
    ours, native = set(threading.enumerate()), native_threads()
    topics = Topics(broker.connection)
    reader = TopicReader(broker.connection, lambda record: None, topics=topics)
    writer = Producer(broker.connection)
    reader.assign([topic], within())
    write(writer, topic, b"1")
    assert len(set(threading.enumerate()) - ours) == 2
    for part in (reader, writer, topics, reader, writer, topics):
        part.close()
    assert set(threading.enumerate()) <= ours
    eventually(lambda: native_threads() <= native, what="the library's threads are gone")
    with pytest.raises(KafkaError, match="closed"):
        reader.assign([topic], within())
    assert "closed" in str(writer.send(topic, b"1"))


def test_close_waits_for_what_is_under_way(broker: Broker, topic: str, topics: Topics) -> None:
    writer = Producer(broker.connection)
    deliveries: list[Delivery] = []
    for number in range(100):
        writer.send(topic, b"%d" % number, on_delivery=deliveries.append)
    writer.close()
    assert len(deliveries) == 100 and not [each for each in deliveries if each.error]
    assert topics.watermarks([topic], within()) == {topic: {0: (0, 100)}}


def test_representation_shows_no_secret() -> None:
    options = {"sasl.password": "hush", "ssl.key.password": "hush", "sasl.username": "hush", "linger.ms": 7}
    shown = repr(KafkaConnection("h:1", options))
    assert "hush" not in shown and "linger.ms" in shown and "7" in shown
    with pytest.raises(SettingsError, match="HOST:PORT"):
        KafkaConnection(" ")
