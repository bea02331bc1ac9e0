"""Members of a consumer group: who reads what, from where, and what a restart repeats."""

from __future__ import annotations

import threading

import pytest

from badger_k2eg.errors import KafkaError, TopicMissing
from badger_k2eg.kafka import GroupConsumer, KafkaRecord, Producer
from badger_k2eg.testing.broker import Broker
from tests.rig.waiting import eventually

from .kafka_parts import within, write

pytestmark = pytest.mark.kafka


def values(records: list[KafkaRecord]) -> list[bytes | None]:
    return [record.value for record in records]


def test_new_group_begins_at_the_end_and_a_known_one_where_it_was(broker: Broker, writer: Producer, topic: str) -> None:
    group, got = f"g-{topic}", list[KafkaRecord]()
    write(writer, topic, b"before the group")
    first = GroupConsumer(broker.connection, group, [topic], got.append)
    first.start(within())
    write(writer, topic, b"1", b"2")
    eventually(lambda: len(got) == 2, what="read")
    first.close()
    write(writer, topic, b"while nobody was there")
    second = GroupConsumer(broker.connection, group, [topic], got.append)
    second.start(within())
    write(writer, topic, b"3")
    eventually(lambda: len(got) == 4, what="read on")
    assert values(got) == [b"1", b"2", b"while nobody was there", b"3"]
    second.close()
    second.close()


def test_nothing_written_after_start_is_lost(broker: Broker, writer: Producer, topic: str) -> None:
    """The first command often comes right after the gateway has said that it is ready."""
    for attempt in range(5):
        got: list[KafkaRecord] = []
        member = GroupConsumer(broker.connection, f"g{attempt}-{topic}", [topic], got.append)
        member.start(within())
        write(writer, topic, b"%d" % attempt)
        eventually(lambda: bool(got), what="read")  # noqa: B023 (used in this round only)
        assert values(got) == [b"%d" % attempt]
        member.close()


def test_members_share_the_partitions(broker: Broker, writer: Producer, topic: str) -> None:
    wide = f"{topic}-wide"
    broker.create_topic(wide, 4)
    got: tuple[list[KafkaRecord], list[KafkaRecord]] = ([], [])
    members = [GroupConsumer(broker.connection, f"g-{topic}", [wide], each.append) for each in got]
    for member in members:
        member.start(within())
    sent: list[bytes] = []

    def both_have_some() -> bool:
        sent.append(b"%d" % len(sent))
        writer.send(wide, sent[-1], key=sent[-1])
        return all(got)

    def read() -> set[bytes | None]:
        return set(values(got[0]) + values(got[1]))

    # The older member lets go of some partitions only when it has heard of the younger one. Meanwhile some records may
    # come to both; none may be lost.
    eventually(both_have_some, what="both read")
    eventually(lambda: read() == set(sent), what="all read")
    members[0].close()
    late = [b"late %d" % number for number in range(40)]
    for value in late:
        writer.send(wide, value, key=value)
    eventually(lambda: read() == {*sent, *late}, what="the other one has taken over")
    members[1].close()


def test_member_without_a_partition_joins_too(broker: Broker, writer: Producer, topic: str) -> None:
    got: list[KafkaRecord] = []
    members = [GroupConsumer(broker.connection, f"g-{topic}", [topic], got.append) for _ in range(2)]
    for member in members:
        member.start(within())
    write(writer, topic, b"1")
    eventually(lambda: bool(got), what="read by one of them")
    for member in members:
        member.close()
    assert values(got) == [b"1"]


def test_callback_that_raises_does_not_stop_the_member(broker: Broker, writer: Producer, topic: str) -> None:
    got: list[KafkaRecord] = []

    def fragile(record: KafkaRecord) -> None:
        got.append(record)
        raise ZeroDivisionError("on purpose")

    member = GroupConsumer(broker.connection, f"g-{topic}", [topic], fragile)
    member.start(within())
    write(writer, topic, b"1", b"2")
    eventually(lambda: member.callback_errors == 2, what="both read")
    member.close()
    assert values(got) == [b"1", b"2"]


def test_missing_topic(broker: Broker, topic: str) -> None:
    before = set(threading.enumerate())
    member = GroupConsumer(broker.connection, "g", [f"{topic}-missing"], print)
    with pytest.raises(TopicMissing, match=f"{topic}-missing"):
        member.start(within())
    member.close()
    closed = GroupConsumer(broker.connection, "g", [topic], print)
    closed.close()
    with pytest.raises(KafkaError, match="closed"):
        closed.start(within())
    assert set(threading.enumerate()) <= before
