"""K7: recurring snapshots through the client, on a double, and through the development gateway in all modes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from badger_k2eg.errors import OperationError, OperationTimeout
from badger_k2eg.k2eg.client import K2egClient
from badger_k2eg.k2eg.codec import Message, RepeatingSnapshot, SnapshotData, SnapshotHeader, SnapshotTail, SnapshotType
from badger_k2eg.k2eg.snapshots import Iteration, SnapshotProperties
from tests.rig.waiting import eventually

from .double import Double, tree

pytestmark = pytest.mark.kafka


def properties(double: Double, **words: Any) -> SnapshotProperties:
    about = {"snapshot_name": f"{double.prefix} Snap", "pv_uri_list": [double.uri("A")], "time_window": 300}
    return SnapshotProperties(**{**about, **words})


def iteration(double: Double, number: int, *, lost: str = "") -> None:
    """Publish an iteration of revision A, without one of its messages."""
    topic = f"{double.prefix.lower()}_snap"
    name, value = double.name("A"), tree(float(number), at=number)
    messages: dict[str, Message] = {
        "header": SnapshotHeader(snapshot_name="s", iter_index=number, timestamp=number * 10),
        "data": SnapshotData(pv=name, tree=value, iter_index=number, timestamp=number * 10 + 1),
        "tail": SnapshotTail(snapshot_name="s", iter_index=number, timestamp=number * 10 + 2),
    }
    for what, message in messages.items():
        if what != lost:
            double.send(topic, message, "s")


def test_iterations_reach_the_handler_in_order(double: Double, client: K2egClient) -> None:
    seen: list[Iteration] = []
    recurring = client.snapshot_recurring(properties(double), seen.append)
    assert not recurring.joined and recurring.topic == f"{double.prefix.lower()}_snap"
    for number in range(1, 50):
        iteration(double, number)
    eventually(lambda: len(seen) == 49)
    assert [each.iteration for each in seen] == list(range(1, 50)) and not any(each.partial for each in seen)
    assert (seen[0].header_timestamp, seen[0].timestamp) == (10, 12)
    assert seen[4].values[double.name("A")][0]["value"] == 5.0


def test_the_first_iteration_may_come_before_the_reply(double: Double, client: K2egClient) -> None:
    def start(command: RepeatingSnapshot) -> None:
        double.broker.create_topic(f"{double.prefix.lower()}_snap")
        iteration(double, 1)

    double.instead[RepeatingSnapshot] = start
    seen: list[Iteration] = []
    client.snapshot_recurring(properties(double), seen.append)
    eventually(lambda: [each.iteration for each in seen] == [1])


def test_one_that_runs_already_is_joined(double: Double, client: K2egClient) -> None:
    ours: list[Iteration] = []
    theirs: list[Iteration] = []
    client.snapshot_recurring(properties(double), ours.append)
    with K2egClient(double.environment, f"{double.prefix}-other") as other:
        other_name = properties(double, snapshot_name=f"{double.prefix.lower()}*SNAP")
        assert other.snapshot_recurring(other_name, theirs.append).joined
        iteration(double, 7)
        eventually(lambda: len(ours) == len(theirs) == 1)


@pytest.mark.parametrize("lost", ["header", "tail"])
def test_what_is_lost_marks_an_iteration_and_stalls_nothing(double: Double, client: K2egClient, lost: str) -> None:
    seen: list[Iteration] = []
    client.snapshot_recurring(properties(double), seen.append)
    iteration(double, 1)
    iteration(double, 2, lost=lost)
    iteration(double, 3)
    eventually(lambda: [(each.iteration, each.partial) for each in seen] == [(1, False), (2, True), (3, False)])


def test_an_iteration_whose_tail_never_comes_ends_in_its_time(double: Double, client: K2egClient) -> None:
    seen: list[Iteration] = []
    client.snapshot_recurring(properties(double), seen.append)
    began = time.monotonic()
    iteration(double, 1, lost="tail")
    eventually(lambda: [(each.iteration, each.partial) for each in seen] == [(1, True)])
    assert time.monotonic() - began > 0.3


def test_a_handler_that_raises_gets_the_next_one_too(
    double: Double, client: K2egClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def bad(each: Iteration) -> None:
        seen.append(each.iteration)
        raise RuntimeError("mine")

    client.snapshot_recurring(properties(double), bad)
    iteration(double, 1)
    iteration(double, 2)
    eventually(lambda: seen == [1, 2])
    assert "mine" in caplog.text


def test_after_a_stop_the_closing_iteration_still_comes_and_the_thread_ends(double: Double, client: K2egClient) -> None:
    seen: list[Iteration] = []
    recurring = client.snapshot_recurring(properties(double), seen.append)
    client.stop(recurring.name)
    iteration(double, 9)
    eventually(lambda: [each.iteration for each in seen] == [9])
    eventually(lambda: not [t for t in threading.enumerate() if t.name == f"k2eg snapshot {recurring.topic}"])
    client.stop("never started")


def test_errors_of_the_gateway_are_raised(double: Double, client: K2egClient) -> None:
    with pytest.raises(OperationError, match="has not been found") as caught:
        client.trigger("nope")
    assert caught.value.error == -2
    words = "The pv uri x is not parsable"
    double.instead[RepeatingSnapshot] = lambda command: double.refuse(command, -6, words) or True
    with pytest.raises(OperationError, match="not parsable"):
        client.snapshot_recurring(properties(double), print)
    double.instead[RepeatingSnapshot] = lambda command: True
    with pytest.raises(OperationTimeout):
        client.snapshot_recurring(properties(double), print, 0.3)
    assert not [t for t in threading.enumerate() if t.name.startswith("k2eg snapshot")]


@pytest.mark.parametrize("words", [{"pv_uri_list": []}, {"pv_uri_list": ["X"]}, {"pv_field_filter_list": ["a.b"]}])
def test_what_the_gateway_could_not_bear_is_not_sent(double: Double, client: K2egClient, words: Any) -> None:
    with pytest.raises(ValueError):
        client.snapshot_recurring(properties(double, **words), print)
    assert not double.commands


# -- through the development gateway --------------------------------------------------------------------------------


@pytest.fixture(params=["A", "B"])
def real(request: pytest.FixtureRequest, gateway_factory: Callable[..., Any]) -> Any:
    gateway = gateway_factory("--revision", request.param)
    with K2egClient(gateway.environment_name, "recurring", folder=gateway.folder) as client:
        yield client


MODES: dict[str, dict[str, Any]] = {
    "normal": {},
    "time-buffered": {"type": SnapshotType.TIMED_BUFFERED},
    "sub-push": {"type": SnapshotType.TIMED_BUFFERED, "sub_push_delay_msec": 150},
    "filtered": {"type": SnapshotType.TIMED_BUFFERED, "pv_field_filter_list": ["value"]},
    "triggered": {"triggered": True},
}


def _first_with(pv: str, seen: list[Iteration]) -> int | None:
    return next((index for index, each in enumerate(seen) if pv in each.values), None)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_revision(real: K2egClient, soft_ioc: Any, mode: str) -> None:
    count, static = soft_ioc.pv("COUNT"), soft_ioc.pv("STATIC")
    asked = SnapshotProperties(
        snapshot_name=f"mode {mode}",
        time_window=500,
        pv_uri_list=[f"pva://{count}", f"ca://{static}"],
        **MODES[mode],
    )
    seen: list[Iteration] = []
    recurring = real.snapshot_recurring(asked, seen.append)
    if mode == "triggered":
        time.sleep(0.7)
        assert not seen
        for _ in range(3):
            real.trigger(asked.snapshot_name)
            time.sleep(0.3)

    def two_whole_ones() -> list[Iteration]:
        # Not the first one, which began before its PVs were found.
        return seen[first + 1 : first + 3] if (first := _first_with(count, seen)) is not None else []

    eventually(two_whole_ones, good=lambda found: len(found) == 2)
    real.stop(asked.snapshot_name)
    whole = two_whole_ones()
    assert [each.iteration for each in whole] == [whole[0].iteration, whole[0].iteration + 1]
    assert not any(each.partial for each in whole), whole
    assert all(count in each.values for each in whole)
    if mode == "filtered":
        assert all(list(value) == ["value"] for each in whole for value in each.values[count])
    if mode in ("time-buffered", "sub-push"):
        assert max(len(each.values[count]) for each in whole) > 1
    if mode == "normal":
        assert whole[1].values[static][0]["value"] == 7.0 and static in whole[1].stale
    recurring.close()
