"""K7: iterations are put together from messages, of both revisions, whatever is lost, doubled or begun anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.k2eg.codec import Message, SnapshotData, SnapshotHeader, SnapshotTail
from badger_k2eg.k2eg.snapshots import Assembler, Iteration, SnapshotProperties

PVS = ("A", "B")


def iteration(number: int, *, revision: str = "B", batches: bool = False, at: int | None = None) -> list[Message]:
    """Lay out one iteration: a header, two values of each PV, a tail."""
    seq = iter(range(1, 100))

    def numbers(batch: int) -> dict[str, Any]:
        if revision == "A":
            return {}
        return {"msg_seq": next(seq)} | ({"submission_seq": batch} if batches else {})

    stamp = number * 1000
    messages: list[Message] = [SnapshotHeader(snapshot_name="s", iter_index=number, timestamp=stamp, **numbers(1))]
    for batch in (1, 2):
        for pv in PVS:
            tree = {"value": number + batch / 10, "timeStamp": {"secondsPastEpoch": at or number}}
            messages.append(
                SnapshotData(pv=pv, tree=tree, iter_index=number, timestamp=stamp + batch, **numbers(batch))
            )
    last = numbers(2)
    total = {"total_messages": last["msg_seq"]} if last else {}
    messages.append(SnapshotTail(snapshot_name="s", iter_index=number, timestamp=stamp + 9, **last, **total))
    return messages


def assembled(messages: list[Message]) -> list[Iteration]:
    assembler = Assembler()
    return [done for message in messages for done in assembler.take(message)] + assembler.flush()


def values(done: Iteration) -> dict[str, list[float]]:
    return {pv: [tree["value"] for tree in trees] for pv, trees in done.values.items()}


@pytest.mark.parametrize("revision", ["A", "B"])
@pytest.mark.parametrize("batches", [False, True])
def test_whole_iterations(revision: str, batches: bool) -> None:
    first, second = assembled([m for i in (1, 2) for m in iteration(i, revision=revision, batches=batches)])
    assert (first.iteration, first.header_timestamp, first.timestamp, first.partial) == (1, 1000, 1009, False)
    assert values(first) == {"A": [1.1, 1.2], "B": [1.1, 1.2]}
    assert (second.iteration, second.partial, second.stale) == (2, False, frozenset())


def test_joining_in_the_middle_waits_for_a_header() -> None:
    (only,) = assembled(iteration(6)[2:] + iteration(7))
    assert (only.iteration, only.partial) == (7, False)


@pytest.mark.parametrize("lost", range(6))
def test_one_lost_message_marks_its_iteration_and_no_other(lost: int) -> None:
    second = iteration(2)
    del second[lost]
    done = assembled(iteration(1) + second + iteration(3))
    assert [(each.iteration, each.partial) for each in done] == [(1, False), (2, True), (3, False)]
    assert sum(map(len, values(done[1]).values())) == (3 if 1 <= lost <= 4 else 4)


@pytest.mark.parametrize("lost", [0, 5])
def test_without_numbers_a_lost_header_or_tail_is_noticed(lost: int) -> None:
    second = iteration(2, revision="A")
    del second[lost]
    done = assembled(iteration(1, revision="A") + second + iteration(3, revision="A"))
    assert [(each.iteration, each.partial) for each in done] == [(1, False), (2, True), (3, False)]


def test_a_lost_stretch_across_iterations() -> None:
    messages = iteration(1) + iteration(2) + iteration(3)
    done = assembled(messages[:4] + messages[15:])
    assert [(each.iteration, each.partial) for each in done] == [(1, True), (3, True)]


def test_doubled_and_reordered_data_come_out_once_and_in_order() -> None:
    head, *data, tail = iteration(1)
    (done,) = assembled([head, *reversed(data), *data, tail])
    assert values(done) == {"A": [1.1, 1.2], "B": [1.1, 1.2]} and not done.partial


def test_a_restarted_gateway_begins_at_one_again() -> None:
    done = assembled(iteration(41) + iteration(42)[:3] + iteration(1) + iteration(2))
    assert [(each.iteration, each.partial) for each in done] == [(41, False), (42, True), (1, False), (2, False)]


def test_an_empty_iteration_is_one() -> None:
    head = SnapshotHeader(snapshot_name="s", iter_index=1, timestamp=5, msg_seq=1)
    tail = SnapshotTail(snapshot_name="s", iter_index=1, timestamp=6, msg_seq=2, total_messages=2)
    (done,) = assembled([head, tail])
    assert not done.values and not done.partial


def test_what_is_repeated_with_the_same_time_is_stale() -> None:
    first, second, third = assembled(iteration(1, at=7) + iteration(2, at=7) + iteration(3, at=8))
    assert (first.stale, second.stale, third.stale) == (frozenset(), frozenset(PVS), frozenset())


def test_what_was_dropped_before_it_came_here_marks_the_iteration() -> None:
    assembler = Assembler()
    done = [each for message in iteration(1, revision="A")[:3] for each in assembler.take(message)]
    done += assembler.lose()
    done += [each for message in iteration(1, revision="A")[3:] for each in assembler.take(message)]
    assert [each.partial for each in done] == [True]


@given(st.lists(st.integers(0, 29), max_size=60), st.sampled_from(["A", "B"]))
def test_any_messages_in_any_order_never_stall_it(picked: list[int], revision: str) -> None:
    pool = [m for i in range(1, 6) for m in iteration(i, revision=revision)]
    assembler = Assembler()
    for index in picked:
        assembler.take(pool[index])
    done = [each for message in iteration(9, revision=revision) for each in assembler.take(message)]
    assert (done[-1].iteration, values(done[-1])) == (9, {"A": [9.1, 9.2], "B": [9.1, 9.2]})
    assert not done[-1].partial and not assembler.open


@pytest.mark.parametrize(
    "words",
    [
        {"snapshot_name": ""},
        {"time_window": 0},
        {"time_window": -1},
        {"repeat_delay": -1},
        {"sub_push_delay_msec": 1.5},
        {"type": "bogus"},
        {"pv_field_filter_list": ["alarm.severity"]},
    ],
)
def test_properties_that_a_gateway_would_misunderstand(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SnapshotProperties(**{"snapshot_name": "s", "pv_uri_list": ["pva://A"], **words}).check()
