"""Our gateway, of revision A, answers every recorded command as the real one did, but for the list of deviations."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from tests.rig.pace import pace

from .bench import Bench
from .recorded import SCENARIOS, Scenario

# What the real gateway corrupts, loses, or leaves without an answer. Scenario -> (error, message) of our reply; each
# has a test of its own in tests/gateway.
DEVIATIONS: dict[str, tuple[int, str | None]] = {
    # Without an answer.
    "cmd_command_not_string": (-1, None),
    "cmd_truncated_json": (-1, None),
    "put_bad_truncated_msgpack": (-1, None),
    # A conversion without loss.
    "put_double_integral_to_int": (0, "Successfull operation"),
    # "Success", and another value than was asked for.
    "put_enum_nested_index_out_of_range": (-2, "9 is not the index of a choice (0 'off', 1 'on', 2 'auto')"),
    "put_field_suffix": (-2, "fields cannot be written: .HIHI is not put to TST:DBL"),
    "put_long_string": (-2, "the text is too long: 60 bytes, and it holds 39"),
    "put_nan": (-2, "nan is not a value that can be set"),
    "put_out_of_range": (-2, "99 is outside its drive limits, -5 to 5 mm"),
    "put_scalar_to_array": (-2, "it is an array, and 1.5 is a single value"),
    "put_two_fields": (-2, "of this PV value alone can be written, not alarm: nothing was written"),
    # The same refusal in words that say why.
    "put_wrong_type": (-2, "it is a float64, and 'abc' is not a number"),
    "put_wrong_type_ca": (-2, "it is a float64, and 'abc' is not a number"),
    "put_wrong_type_list": (-2, "it is a single float64, not an array (shape (2,))"),
}
#: The same reply, and what was asked for is done, where the real one wrote index 0.
RIGHT_READBACK = {
    "put_ca_enum": 2,
    "put_enum_ca_flat_index": 2,
    "put_enum_flat_index": 2,
    "put_enum_index_flat": 2,
    "put_enum_label": 2,
    "put_enum_p4p_flat_index": 2,
}
#: More values than the real one sends: a malformed name costs nobody else's, a monitored PV is in the snapshot.
MORE_VALUES = {"snapshot_oneshot_bad_uri", "snapshot_oneshot_monitored"}

#: What goes on from another: its command comes first.
FOLLOWS = dict.fromkeys(("monitor_second_destination", "monitor_single_again"), "monitor_single_pva")
#: With an IOC that is killed: tests/gateway/test_faults.py has its own.
KILLED = "get_put_monitored_pv_while_ioc_dead"
SLOW = {"get_missing_ca", "get_missing_pva", "put_missing_pv"}
PLAIN = [s for s in SCENARIOS if s.name.split("_")[0] in ("cmd", "get", "put") and not s.timing_only]
ANSWERED = [s for s in PLAIN if s.name not in SLOW | {KILLED, "get_put_monitored", "put_under_monitor"}]
STREAMS = [s for s in SCENARIOS if not s.timing_only and s not in ANSWERED and s.name not in SLOW | {KILLED}]


#: From how slow a machine on it may have been the machine.
BUSY = 1.5


@pytest.mark.kafka
@pytest.mark.parametrize("scenario", ANSWERED, ids=lambda scenario: scenario.name)
def test_commands_are_answered_alike(shared_bench: Bench, scenario: Scenario):
    check(shared_bench, scenario)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.name in SLOW], ids=lambda scenario: scenario.name)
def test_what_nobody_serves_times_out_alike(shared_bench: Bench, scenario: Scenario):
    began = time.monotonic()
    check(shared_bench, scenario)
    assert 9.5 < time.monotonic() - began < 15.0 * pace()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", STREAMS, ids=lambda scenario: scenario.name)
def test_monitors_and_snapshots_are_published_alike(bench: Bench, scenario: Scenario):
    try:
        check(bench, scenario)
    except AssertionError:
        # What was recorded has its own times, which a busy machine may miss once.
        if pace() < BUSY:
            raise
        check(bench, scenario)


def test_every_scenario_is_used():
    checked = {s.name for s in ANSWERED + STREAMS} | SLOW | {KILLED}
    assert {s.name for s in SCENARIOS if not s.timing_only} == checked
    assert checked >= set(DEVIATIONS) | set(RIGHT_READBACK) | MORE_VALUES


# -- replaying and comparing ---------------------------------------------------------------------------------------


def check(bench: Bench, scenario: Scenario) -> None:
    readbacks = replay(bench, scenario)
    ours = [
        (bench.recorded(r.topic), bench.recorded((r.key or b"").decode()), r.headers, bench.recorded_body(r))
        for _, r in bench.wire.records
    ]
    theirs = [(m.topic, m.key, m.headers, m.body) for m in scenario.messages]
    if scenario.name in DEVIATIONS:
        error, message = DEVIATIONS[scenario.name]
        (reply,) = [body for *_, body in ours]
        assert (reply["error"], reply.get("message")) == (error, message)
        assert f'"{reply["reply_id"]}"' in scenario.commands[0][1].decode()
        if error:
            return
    elif scenario.name in MORE_VALUES:
        assert kinds(ours) >= kinds(theirs)
        assert replies(ours) == replies(theirs)
    else:
        assert kinds(ours) == kinds(theirs)
        assert replies(ours) == replies(theirs)
    if scenario.name in RIGHT_READBACK:
        assert readbacks[-1]["index"] == RIGHT_READBACK[scenario.name]
    elif scenario.name.startswith("put") and replies(theirs) and scenario.name not in DEVIATIONS:
        recorded = [a["value"] for a in scenario.actions if a["action"] == "epics_readback"]
        if recorded and replies(theirs).most_common(1)[0][0][3] == 0:
            expected = recorded[-1]["value"] if "value" in recorded[-1] else recorded[-1]
            assert without_choices(readbacks[-1]) == without_choices(expected)


def replay(bench: Bench, scenario: Scenario) -> list[Any]:
    """Do what was done, at the same times; gives the read-backs."""
    wire = bench.wire
    topics = {bench.ours(message.topic) for message in scenario.messages} | {"app-reply"}
    wire.listen(*topics)
    if scenario.name in FOLLOWS:
        first = next(each for each in SCENARIOS if each.name == FOLLOWS[scenario.name])
        wire.send(bench.ours(first.commands[0][1].decode()).encode())
        wire.wait_count(2, 5.0)
    wire.clear()
    readbacks: list[Any] = []
    asked = False
    began = time.monotonic()
    for action in scenario.actions:
        time.sleep(max(0.0, began + action["t"] - time.monotonic()))
        if action["action"] == "send_command":
            wire.send(bench.ours(action["raw"]).encode())
            asked = True
        elif action["action"] == "epics_put_by_p4p_client":
            bench.epics.put(bench.ours(action["pv"]), action["value"], timeout=5.0)
        elif action["action"] == "epics_readback" and action.get("pv"):
            if asked and len(scenario.messages) == 1:
                wire.wait_count(1, 5.0)
            value = bench.epics.get(bench.ours(action["pv"]), timeout=5.0).todict(None, dict)["value"]
            readbacks.append(value.tolist() if hasattr(value, "tolist") else value)
            if not readbacks[1:] and "index" in str(action["value"]) and action["t"] < 0.1:
                # As it was before the put.
                bench.epics.put(bench.ours(action["pv"]), {"value.index": action["value"]["index"]}, timeout=5.0)
    expected = len(scenario.messages)
    if scenario in STREAMS:
        wire.wait_count(expected + 2 * (scenario.name in MORE_VALUES), 3.0)
        time.sleep(0.5)
    elif expected or scenario.name in DEVIATIONS:
        wire.wait_count(max(1, expected), 15.0)
        time.sleep(0.05)
    else:
        time.sleep(0.5)
    wire.ignore(topics)
    return readbacks


def replies(messages: list[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """Count what answers commands: everything but the values."""
    return Counter(
        (topic, key, headers, body["error"], body.get("message"), body.get("publishing_topic"), frozenset(body))
        for topic, key, headers, body in messages
        if "error" in body and "reply_id" in body and not any(isinstance(item, dict) for item in body.values())
    )


def kinds(messages: list[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """Give the forms of messages: where to, key, header, keys and types."""
    return {
        (topic, key, headers, repr(shape(body, is_json=headers[0][1] == b"Json")))
        for topic, key, headers, body in messages
    }


def shape(value: Any, *, is_json: bool) -> Any:
    if isinstance(value, dict):
        return sorted((key, shape(item, is_json=is_json)) for key, item in value.items())
    if isinstance(value, list):
        return sorted({repr(shape(item, is_json=is_json)) for item in value})
    if value in ("__nan__", "NaN"):
        return "float"
    if is_json and isinstance(value, bool):
        # The real one writes 0 and 1, ours false and true: test_right.py.
        return "int"
    return type(value).__name__


def without_choices(value: Any) -> Any:
    return value["index"] if isinstance(value, dict) and "index" in value else value
