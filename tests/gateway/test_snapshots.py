"""Snapshots of a gateway: one-shot, recurring, triggered, time-buffered; revisions A and B."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from badger_k2eg.gateway import Revision
from badger_k2eg.k2eg import codec
from badger_k2eg.k2eg.codec import (
    Message,
    Reply,
    SnapshotData,
    SnapshotDone,
    SnapshotHeader,
    SnapshotTail,
    SnapshotType,
    ValueReply,
)

from .conftest import Serve, Served

pytestmark = pytest.mark.kafka

PVS = ("pva://A", "pva://B", "pva://NO:SUCH:PV")
Iteration = tuple[SnapshotHeader, list[SnapshotData], SnapshotTail]


@pytest.fixture
def served(serve: Serve) -> Served:
    return with_pvs(serve())


def with_pvs(served: Served) -> Served:
    served.memory.add("A", 1.0)
    served.memory.add("B", 2.0)
    return served


def start(served: Served, name: str = "Snap 1", pvs: Sequence[str] = PVS, **fields: Any) -> str:
    """Start a recurring snapshot; gives its topic."""
    name = f"{served.prefix}:{name}"
    topic = codec.snapshot_topic(name)
    served.listen(topic)
    reply = served.ask(codec.RepeatingSnapshot, snapshot_name=name, pv_name_list=tuple(pvs), **fields)
    assert reply == Reply(reply.reply_id, 0, f"The snapshot '{name}' has been started", topic)
    return topic


def stop(served: Served, name: str = "Snap 1") -> Reply:
    return served.ask(codec.SnapshotStop, snapshot_name=f"{served.prefix}:{name}")


def trigger(served: Served, name: str = "Snap 1") -> Reply:
    return served.ask(codec.SnapshotTrigger, snapshot_name=f"{served.prefix}:{name}")


def iterations(served: Served, topic: str) -> list[Iteration]:
    """Take what came on a topic apart into complete iterations; fails where their order is not the protocol's."""
    done: list[Iteration] = []
    header: SnapshotHeader | None = None
    data: list[SnapshotData] = []
    for message in served.wire.messages(topic):
        if isinstance(message, SnapshotHeader):
            assert header is None
            header, data = message, []
        elif isinstance(message, SnapshotData):
            assert header is not None
            assert message.iter_index == header.iter_index
            data.append(message)
        else:
            assert isinstance(message, SnapshotTail)
            assert header is not None
            assert message.iter_index == header.iter_index == len(done) + 1
            done.append((header, data, message))
            header = None
    return done


def values(iteration: Iteration) -> list[tuple[str, Any]]:
    return [(data.pv, data.tree["value"]) for data in iteration[1]]


# -- one-shot -------------------------------------------------------------------------------------------------------


def test_one_shot_takes_its_whole_window_and_then_says_so(served: Served):
    began = time.monotonic()
    served.wire.send(codec.Snapshot(pv_name_list=PVS, time_window_msec=600, reply_topic=served.replies, reply_id="s"))
    served.wire.until(lambda: SnapshotDone("s") in served.wire.messages())
    assert time.monotonic() - began >= 0.6
    assert served.wire.messages() == [
        ValueReply("s", "A", {"value": 1.0}),
        ValueReply("s", "B", {"value": 2.0}),
        SnapshotDone("s"),
    ]
    assert {record.key for _, record in served.wire.records} == {b"snapshot-dist-key"}


def test_one_malformed_name_costs_nobody_else_its_value(served: Served):
    pvs = ("A", "pva://B", "pva://A")
    served.wire.send(codec.Snapshot(pv_name_list=pvs, time_window_msec=200, reply_topic=served.replies, reply_id="s"))
    served.wire.until(lambda: SnapshotDone("s") in served.wire.messages())
    messages = served.wire.messages()
    assert messages[0] == Reply("s", -1, "PV 'A'name malformed")
    assert {message.pv for message in messages if isinstance(message, ValueReply)} == {"A", "B"}
    assert messages[-1] == SnapshotDone("s")


def test_a_monitored_pv_is_in_the_snapshot_and_its_monitor_loses_nothing(served: Served):
    (topic,) = served.listen(f"{served.prefix}_events")
    served.ask(codec.Monitor, pv_name="pva://A", monitor_dest_topic=topic)
    served.wire.until(lambda: served.wire.events(topic))
    served.wire.send(codec.Snapshot(pv_name_list=PVS, time_window_msec=300, reply_topic=served.replies, reply_id="s"))
    served.memory.post("A", 5.0)
    served.wire.until(lambda: SnapshotDone("s") in served.wire.messages())
    pvs = {message.pv for message in served.wire.messages() if isinstance(message, ValueReply)}
    assert pvs == {"A", "B"}
    assert [event.tree["value"] for event in served.wire.events(topic)] == [1.0, 5.0]


# -- recurring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", Revision)
def test_iterations_and_their_numbers(serve: Serve, revision: Revision):
    served = with_pvs(serve(revision=revision))
    topic = start(served, time_window_msec=200)
    served.wire.until(lambda: len(iterations(served, topic)) >= 3)
    stop(served)
    for header, data, tail in iterations(served, topic):
        assert values((header, data, tail)) == [("A", 1.0), ("B", 2.0)]
        assert (header.snapshot_name, tail.error) == (f"{served.prefix}:Snap 1", 0)
        numbers = [header.msg_seq, *(each.msg_seq for each in data), tail.msg_seq, tail.total_messages]
        assert numbers == ([1, 2, 3, 4, 4] if revision is Revision.B else [None] * 5)
        assert header.submission_seq is tail.submission_seq is None
        assert abs(header.timestamp - time.time() * 1000) < 60_000
    keys = {record.key for _, record in served.wire.records if record.topic == topic}
    assert keys == {f"{served.prefix}:Snap 1".encode()}
    assert len({record.partition for _, record in served.wire.records if record.topic == topic}) == 1


def test_repeat_delay_is_honoured(served: Served):
    topic = start(served, time_window_msec=200, repeat_delay_msec=600)
    served.wire.until(lambda: len(iterations(served, topic)) >= 3)
    stop(served)
    first, *_, last = [header.timestamp for header, *_ in iterations(served, topic)][:3]
    assert last - first >= 1500


def test_a_name_that_gives_the_same_topic_joins(served: Served):
    topic = start(served, time_window_msec=10_000)
    again = served.ask(codec.RepeatingSnapshot, snapshot_name=f"{served.prefix}_SNAP:1".lower(), pv_name_list=PVS)
    name = f"{served.prefix}_SNAP:1".lower()
    assert again == Reply(again.reply_id, 0, f"Snapshot {name} is already running")
    assert stop(served).message == f"Snapshot '{served.prefix}:Snap 1' has been stopped"
    # With one last iteration.
    served.wire.until(lambda: len(iterations(served, topic)) == 1)
    assert stop(served).message == f"Snapshot '{served.prefix}:Snap 1' is already stopped"


def test_started_again_it_counts_from_one(served: Served):
    topic = start(served, time_window_msec=10_000)
    stop(served)
    served.wire.until(lambda: iterations(served, topic))
    served.wire.clear()
    start(served, time_window_msec=10_000)
    stop(served)
    served.wire.until(lambda: iterations(served, topic))
    assert iterations(served, topic)[0][0].iter_index == 1


def test_a_dead_pv_is_marked_invalid(served: Served):
    topic = start(served, time_window_msec=150)
    served.wire.until(lambda: iterations(served, topic))
    served.memory.fault("A", "missing")

    def marked() -> list[SnapshotData]:
        return [d for _, data, _ in iterations(served, topic) for d in data if d.pv == "A" and "alarm" in d.tree]

    served.wire.until(marked)
    assert marked()[0].tree == {"value": 1.0, "alarm": {"severity": 3, "status": 7, "message": "disconnected"}}
    stop(served)


def test_a_triggered_one_publishes_for_a_trigger_and_at_its_stop(served: Served):
    topic = start(served, triggered=True, time_window_msec=100)
    time.sleep(0.4)
    assert iterations(served, topic) == []
    for count in (1, 2):
        served.memory.post("A", float(count))
        assert trigger(served).message == f"Snapshot '{served.prefix}:Snap 1' has been armed"
        served.wire.until(lambda count=count: len(iterations(served, topic)) == count)
        assert values(iterations(served, topic)[-1]) == [("A", float(count)), ("B", 2.0)]
    stop(served)
    served.wire.until(lambda: len(iterations(served, topic)) == 3)


def test_quick_triggers_can_make_one_iteration_together(served: Served):
    topic = start(served, triggered=True)
    name = f"{served.prefix}:Snap 1"
    for number in range(5):
        served.wire.send(codec.SnapshotTrigger(snapshot_name=name, reply_topic=served.replies, reply_id=f"t{number}"))
    served.wire.until(lambda: all(served.wire.replies(f"t{number}") for number in range(5)))
    stop(served)
    served.wire.until(lambda: len(iterations(served, topic)) >= 2)
    assert len(iterations(served, topic)) <= 6


def test_a_trigger_has_no_effect_on_one_that_runs_by_itself(served: Served):
    topic = start(served, time_window_msec=10_000)
    assert trigger(served).error == 0
    time.sleep(0.3)
    assert iterations(served, topic) == []
    stop(served)


def test_time_buffered_has_every_event_and_each_silent_pv_once(served: Served):
    topic = start(served, type=SnapshotType.TIMED_BUFFERED, time_window_msec=800)
    for number in range(10, 15):
        served.memory.post("A", float(number))
    served.wire.until(lambda: len(iterations(served, topic)) >= 2)
    stop(served)
    first, second = iterations(served, topic)[:2]
    assert values(first) == [("A", 1.0), ("B", 2.0), *(("A", float(number)) for number in range(10, 15))]
    assert values(second) == [("A", 14.0), ("B", 2.0)]


def test_sub_push_numbers_its_batches(served: Served):
    served.memory.beat("A", 0.05)
    topic = start(served, type=SnapshotType.TIMED_BUFFERED, time_window_msec=1000, sub_push_delay_msec=250)
    served.wire.until(lambda: len(iterations(served, topic)) >= 2)
    stop(served)
    for header, data, tail in iterations(served, topic)[:2]:
        numbers = [header.msg_seq, *(each.msg_seq for each in data), tail.msg_seq]
        assert numbers == list(range(1, len(data) + 3))
        assert tail.total_messages == len(data) + 2
        batches = [each.submission_seq or 0 for each in data]
        assert batches == sorted(batches)
        assert header.submission_seq == 1
        assert len(set(batches)) >= 3
        assert tail.submission_seq == max(batches)
        # The last of each batch, and no other, says so.
        assert [each.last_submission_data for each in data] == [
            following != own for own, following in zip(batches, [*batches[1:], None], strict=True)
        ]


def test_a_window_longer_than_a_second_is_pushed_every_second(served: Served):
    served.memory.beat("A", 0.2)
    topic = start(served, type=SnapshotType.TIMED_BUFFERED, time_window_msec=2500)
    served.wire.until(lambda: iterations(served, topic))
    stop(served)
    header, data, tail = iterations(served, topic)[0]
    assert tail.timestamp - header.timestamp >= 1400
    assert header.timestamp <= data[0].timestamp < data[-1].timestamp


def test_the_field_filter_of_a_time_buffered_one(served: Served):
    topic = start(served, type=SnapshotType.TIMED_BUFFERED, pv_field_filter_list=("alarm", "nosuch", "a.b"))
    stop(served)
    served.wire.until(lambda: iterations(served, topic))
    assert [data.tree for data in iterations(served, topic)[0][1]] == [{}, {}]


def test_triggered_and_time_buffered_has_the_events_of_the_last_window(served: Served):
    topic = start(served, type=SnapshotType.TIMED_BUFFERED, triggered=True, time_window_msec=400)
    time.sleep(0.6)
    served.memory.post("A", 5.0)
    served.memory.post("A", 6.0)
    trigger(served)
    served.wire.until(lambda: iterations(served, topic))
    assert values(iterations(served, topic)[0]) == [("A", 5.0), ("A", 6.0), ("B", 2.0)]
    stop(served)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"type": "bogus"}, -1, "The snapshot type Unknown is not supported"),
        ({"repeat_delay_msec": -1}, -3, "repeat delay"),
        ({"time_window_msec": -1}, -4, "time window"),
        ({"snapshot_name": ""}, -5, "The snapshot name is not valid "),
        ({"pv_name_list": ("pva://A", "B")}, -6, "The pv uri B is not parsable"),
        ({"snapshot_name": "x" * 300}, -7, "is not valid"),
    ],
)
def test_what_cannot_be_started(served: Served, fields: dict[str, Any], code: int, words: str):
    reply = served.ask(codec.RepeatingSnapshot, **{"snapshot_name": "n", "pv_name_list": PVS, **fields})
    assert reply.error == code
    assert words in reply.message
    assert reply.publishing_topic is None


@pytest.mark.parametrize(
    ("command", "name", "code", "words"),
    [
        (codec.SnapshotTrigger, "", -1, "The snapshot name is empty"),
        (codec.SnapshotTrigger, "nope", -2, "Snapshot 'nope' has not been found"),
        (codec.SnapshotStop, "", -1, "The snapshot name is empty"),
        (codec.SnapshotStop, "nope", 0, "Snapshot 'nope' is already stopped"),
    ],
)
def test_what_does_not_run(served: Served, command: type[codec.Command], name: str, code: int, words: str):
    reply: Message = served.ask(command, snapshot_name=name)
    assert reply == Reply(reply.reply_id, code, words)
