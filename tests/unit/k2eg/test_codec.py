"""The codec, role against role, and against anything that may come."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.errors import PvNameError
from badger_k2eg.k2eg import codec
from badger_k2eg.k2eg.codec import (
    BadCommand,
    BadPutValue,
    BadRecord,
    MonitorEvent,
    Reply,
    Serialization,
    SnapshotData,
    SnapshotDone,
    SnapshotHeader,
    SnapshotTail,
    SnapshotType,
    ValueReply,
)

HEADERS = [("k2eg-ser-type", b"Msgpack")]
TREE = {"value": 1.5, "alarm": {"severity": 0, "status": 0, "message": ""}}

texts = st.text(st.characters(codec="utf-8"), max_size=12)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}(:[A-Z0-9]{1,4})?", fullmatch=True)
both = st.sampled_from(Serialization)
# In JSON these texts are numbers.
no_numbers = texts.filter(lambda x: x not in ("NaN", "Infinity", "-Infinity"))
leaves = st.one_of(st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), no_numbers, st.none())
json_like = st.recursive(
    leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(texts, x, max_size=3), max_leaves=9
)
trees = st.dictionaries(texts, json_like, max_size=4)
counts = st.integers(0, 2**40)
sequences = st.none() | st.integers(0, 2**32)

common = {"reply_topic": texts, "reply_id": texts, "serialization": both}
pv_lists = st.lists(texts, min_size=1, max_size=4, unique=True).map(tuple)
commands = st.one_of(
    st.builds(codec.Get, pv_name=texts, **common),
    st.builds(codec.Put, pv_name=texts, value=texts, **common),
    st.builds(codec.Monitor, pv_name=texts, monitor_dest_topic=texts.filter(bool), **common),
    st.builds(codec.MultiMonitor, pv_name_list=pv_lists, **common),
    st.builds(codec.Snapshot, pv_name_list=pv_lists, time_window_msec=st.integers(-(2**31), 2**31 - 1), **common),
    st.builds(
        codec.RepeatingSnapshot,
        snapshot_name=texts,
        pv_name_list=pv_lists,
        time_window_msec=st.integers(0, 10_000),
        repeat_delay_msec=st.integers(0, 10_000),
        sub_push_delay_msec=st.integers(0, 10_000),
        triggered=st.booleans(),
        type=st.sampled_from(SnapshotType),
        pv_field_filter_list=st.lists(texts, max_size=3, unique=True).map(tuple),
        **common,
    ),
    st.builds(codec.SnapshotTrigger, snapshot_name=texts, tags=st.dictionaries(texts, texts, max_size=2), **common),
    st.builds(codec.SnapshotStop, snapshot_name=texts, **common),
)
iteration = {"iter_index": counts, "timestamp": counts, "msg_seq": sequences, "submission_seq": sequences}
messages = st.one_of(
    st.builds(Reply, texts, st.integers(-128, 0), st.none() | texts, st.none() | texts),
    st.builds(ValueReply, texts, names, trees),
    st.builds(SnapshotDone, texts),
    st.builds(MonitorEvent, names, trees),
    st.builds(SnapshotHeader, snapshot_name=texts, **iteration),
    st.builds(SnapshotData, pv=names, tree=trees, last_submission_data=st.booleans(), **iteration),
    st.builds(
        SnapshotTail,
        snapshot_name=texts,
        error=st.integers(-128, 0),
        error_message=texts,
        total_messages=sequences,
        **iteration,
    ),
)


@given(commands)
def test_the_gateway_reads_what_a_client_writes(command: codec.Command):
    assert codec.decode_command(codec.encode_command(command)) == command


@given(messages, both, texts)
def test_a_client_reads_what_the_gateway_writes(message: codec.Message, serialization: Serialization, key: str):
    record = codec.encode_record(message, key, serialization)
    assert record.key == key.encode()
    assert codec.decode_record(record.value, record.headers) == message


@given(st.binary(), both)
def test_any_bytes_are_a_message_or_a_bad_record(value: bytes, serialization: Serialization):
    result = codec.decode_record(value, [("k2eg-ser-type", serialization.header)])
    assert isinstance(result, BadRecord | codec.Message)


@given(json_like, both)
def test_any_structure_is_a_message_or_a_bad_record(body: object, serialization: Serialization):
    value = msgpack.packb(body) if serialization is Serialization.MSGPACK else json.dumps(body).encode()
    assert isinstance(codec.decode_record(value, [("k2eg-ser-type", serialization.header)]), BadRecord | codec.Message)


@given(
    st.dictionaries(st.sampled_from(["message_type", "iter_index", "timestamp", "reply_id", "error", "X"]), json_like)
)
def test_known_keys_with_any_values_are_a_message_or_a_bad_record(body: dict[str, object]):
    assert isinstance(codec.decode_record(msgpack.packb(body), HEADERS), BadRecord | codec.Message)


@given(st.binary() | json_like.map(lambda body: json.dumps(body).encode()))
def test_any_bytes_are_a_command_or_a_bad_one(value: bytes):
    assert isinstance(codec.decode_command(value), codec.Command | BadCommand)


@given(
    st.sampled_from(["get", "put", "monitor", "multi-monitor", "snapshot", "repeating_snapshot", "info"]),
    st.dictionaries(
        st.sampled_from(
            ["pv_name", "pv_name_list", "reply_topic", "reply_id", "value", "type", "tags", "time_window_msec"]
            + ["serialization", "snapshot_name", "triggered", "monitor_dest_topic", "pv_field_filter_list"]
        ),
        json_like,
    ),
)
def test_any_fields_make_a_command_or_a_bad_one(word: str, fields: dict[str, object]):
    result = codec.decode_command(json.dumps({"command": word, **fields}).encode())
    assert isinstance(result, codec.Command | BadCommand)


@given(st.text() | st.binary().map(lambda raw: raw.hex()))
def test_any_text_is_a_put_value_or_a_bad_one(text: str):
    assert isinstance(codec.decode_put_value(text), dict | BadPutValue)


@given(trees)
def test_a_put_value_travels(fields: dict[str, object]):
    assert codec.decode_put_value(codec.encode_put_value(fields)) == fields


@pytest.mark.parametrize("depth", [10, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_without_end_is_an_error_value(opening: bytes, depth: int):
    headers = [("k2eg-ser-type", b"Json")]
    assert isinstance(codec.decode_record(opening * depth, headers), BadRecord)
    assert isinstance(codec.decode_command(opening * depth), BadCommand)
    assert isinstance(codec.decode_record(b"\x91" * depth, HEADERS), BadRecord)


def test_a_known_put_value():
    assert codec.encode_put_value({"value": 3.5}) == "gaV2YWx1ZctADAAAAAAAAA=="


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"\x80", None, "no header"),
        (b"\x80", [], "no header"),
        (b"\x80", [("k2eg-ser-type", None)], "unknown serialisation"),
        (b"\x80", [("k2eg-ser-type", b"Msgpack-Compact")], "unknown serialisation 'Msgpack-Compact'"),
        (None, HEADERS, "not msgpack"),
        (b"\x93\x01\x02\x03", HEADERS, "of a list"),
        (b"\x80", HEADERS, "neither a reply nor an event"),
        (msgpack.packb({"error": 0}), HEADERS, "neither a reply nor an event: keys error"),
        (msgpack.packb({"error": "0", "reply_id": "a"}), HEADERS, "error is not an integer"),
        (msgpack.packb({"error": True, "reply_id": "a"}), HEADERS, "error is not an integer"),
        (msgpack.packb({"error": 0, "reply_id": 5}), HEADERS, "reply_id is not a text"),
        (msgpack.packb({"message_type": 1, "iter_index": 1, "timestamp": 1}), HEADERS, "message_type 1 with 0 PVs"),
        (msgpack.packb({"message_type": 7, "iter_index": 1, "timestamp": 1, "X": {}}), HEADERS, "message_type 7"),
        (msgpack.packb({"message_type": 0, "iter_index": 1, "timestamp": 1}), HEADERS, "snapshot_name is missing"),
        (msgpack.packb({1: {}}), HEADERS, "not msgpack"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(value: bytes | None, headers: list[tuple[str, bytes | None]], reason: str):
    result = codec.decode_record(value, headers)
    assert isinstance(result, BadRecord)
    assert reason in result.reason


@pytest.mark.parametrize("word", [b"msgpack", b"MSGPACK", "Msgpack"])
def test_the_header_is_read_in_any_letter_case(word: bytes | str):
    event = MonitorEvent("X", TREE)
    record = codec.encode_record(event, "X")
    assert codec.decode_record(record.value, [("other", b"1"), ("k2eg-ser-type", word)]) == event


def test_a_text_that_is_not_utf8_costs_no_more_than_itself():
    packed = b"\x81\xa1X\x81\xa5value\xa3a\xffb"
    assert codec.decode_record(packed, HEADERS) == MonitorEvent("X", {"value": "a\ufffdb"})


def test_pv_names_that_are_words_of_the_protocol():
    for name in ("error", "reply_id", "message", "message_type"):
        record = codec.encode_record(MonitorEvent(name, TREE), name)
        assert codec.decode_record(record.value, record.headers) == MonitorEvent(name, TREE)
    record = codec.encode_record(ValueReply("1", "message", TREE), "k")
    assert codec.decode_record(record.value, record.headers) == ValueReply("1", "message", TREE)


@pytest.mark.parametrize("serialization", Serialization)
def test_arrays_are_plain_lists(serialization: Serialization):
    tree = {
        "value": np.array([-1, 2, -300], dtype="i2"),
        "x": np.float32(0.5),
        "image": np.arange(4, dtype="u1").reshape(2, 2),
        "flags": np.array([True, False]),
    }
    record = codec.encode_record(MonitorEvent("X", tree), "X", serialization)
    expected = {"value": [-1, 2, -300], "x": 0.5, "image": [[0, 1], [2, 3]], "flags": [True, False]}
    assert codec.decode_record(record.value, record.headers) == MonitorEvent("X", expected)


def test_json_has_texts_for_what_it_has_no_number_for():
    tree = {
        "value": np.array([1.0, math.nan, math.inf, -math.inf]),
        "valueAlarm": {"lowAlarmLimit": math.nan},
        "alarm": {"message": "NaN"},
        "display": {"units": "Infinity"},
    }
    record = codec.encode_record(MonitorEvent("X", tree), "X", Serialization.JSON)
    # Valid for strict readers of JSON.
    body = json.loads(record.value, parse_constant=pytest.fail)
    assert body["X"]["value"] == [1.0, "NaN", "Infinity", "-Infinity"]
    event = codec.decode_record(record.value, record.headers)
    assert isinstance(event, MonitorEvent)
    assert repr(event.tree["value"]) == "[1.0, nan, inf, -inf]"
    assert math.isnan(event.tree["valueAlarm"]["lowAlarmLimit"])
    assert (event.tree["alarm"], event.tree["display"]) == ({"message": "NaN"}, {"units": "Infinity"})


def test_texts_beside_a_tree_are_never_numbers():
    reply = Reply("NaN", -2, "Infinity")
    record = codec.encode_record(reply, "k", Serialization.JSON)
    assert codec.decode_record(record.value, record.headers) == reply


@pytest.mark.parametrize("serialization", Serialization)
def test_half_a_character_in_a_command_does_not_stop_its_reply(serialization: Serialization):
    command = codec.decode_command(
        b'{"command": "get", "pv_name": "\\ud800", "reply_topic": "t", "reply_id": "\\ud800"}'
    )
    assert isinstance(command, codec.Get)
    record = codec.encode_record(Reply(command.reply_id, -1), codec.reply_key(command), serialization)
    assert codec.decode_record(record.value, record.headers) == Reply("?", -1)


def test_what_cannot_be_written_is_a_type_error():
    with pytest.raises(TypeError, match="object cannot be sent"):
        codec.encode_record(MonitorEvent("X", {"value": object()}), "X")


def test_a_float_keeps_its_type():
    record = codec.encode_record(MonitorEvent("X", {"value": 5.0}), "X")
    assert struct.pack(">d", 5.0) in record.value


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda **c: codec.Get(pv_name="pva://A:B", **c), b"A:B"),
        (lambda **c: codec.Put(pv_name="ca://A:B", value="", **c), b"A:B"),
        (lambda **c: codec.Monitor(pv_name="pva://A:B", **c), b"monitors-0"),
        (lambda **c: codec.MultiMonitor(pv_name_list=("ca://A:B",), **c), b"monitors-0"),
        (lambda **c: codec.SnapshotStop(snapshot_name="My:Snap 1", **c), b"my_snap_1"),
        (lambda **c: codec.MultiMonitor(pv_name_list=("pva://A:B", "pva://A:C"), **c), None),
    ],
)
def test_commands_for_one_thing_have_one_key(make: Callable[..., codec.Command], key: bytes | None):
    assert codec.command_key(make(reply_topic="t", reply_id="1")) == key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pva://A:B", ("pva", "A:B", None)),
        ("ca://A:B-c_d", ("ca", "A:B-c_d", None)),
        ("pv://A", ("ca", "A", None)),
        ("pva://A.HIHI", ("pva", "A", "HIHI")),
        ("pva://A.B.C", ("pva", "A", "B.C")),
        ("pva://A.B.C-D", None),
        ("pva://A::B", None),
        ("pva://:A", None),
        ("pva://A:", None),
        ("pva://A:.B", None),
        ("PVA://A", None),
        ("A", None),
        ("", None),
        ("pva://", None),
        ("pva://A\n", None),
        ("pva://A{B}", None),
        (5, None),
    ],
)
def test_the_gateways_grammar(text: object, expected: tuple[str, str, str | None] | None):
    uri = codec.parse_uri(text)
    assert (uri and (uri.scheme, uri.name, uri.field)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pv://A", "unknown scheme"),
        ("pva://A.HIHI", "would drop .HIHI and use A"),
        ("pva://A::B", "not a PV name that K2EG accepts"),
        ("A", "not a PV name that K2EG accepts"),
        ("pva://" + "A" * 250, "longer than 249"),
    ],
)
def test_a_client_refuses_what_would_not_be_served_as_meant(text: str, reason: str):
    with pytest.raises(PvNameError, match=reason):
        codec.check_uri(text)
    assert codec.check_uri("pva://A:B").name == "A:B"


@given(st.text())
def test_any_text_is_a_uri_or_none(text: str):
    uri = codec.parse_uri(text)
    assert uri is None or uri.text == text


def test_topics():
    assert codec.monitor_topic("A:B:C-d_e") == "A_B_C-d_e"
    assert codec.snapshot_topic("My:Snap 1") == codec.snapshot_topic("my_snap_1") == "my_snap_1"


def test_field_names():
    assert codec.check_field_names(["value", "timeStamp"]) == ("value", "timeStamp")
    for wrong in ("alarm.severity", "", "1a"):
        with pytest.raises(ValueError, match="top-level"):
            codec.check_field_names([wrong])


def test_a_soft_field_of_a_wrong_type_is_the_default(caplog: pytest.LogCaptureFixture):
    body = {"command": "snapshot", "reply_topic": "t", "reply_id": "1", "pv_name_list": ["pva://A", 5, "pva://A"]}
    command = codec.decode_command(json.dumps({**body, "time_window_msec": "500", "serialization": "xml"}).encode())
    assert command == codec.Snapshot(pv_name_list=("pva://A",), reply_topic="t", reply_id="1")
    assert "time_window_msec" in caplog.text
    assert "'xml'" in caplog.text
    for window in (True, 1.5, 2**31):
        command = codec.decode_command(json.dumps({**body, "time_window_msec": window}).encode())
        assert isinstance(command, codec.Snapshot)
        assert command.time_window_msec == 1000


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda **c: codec.Get(pv_name="pva://A", **c), "pva://A"),
        (lambda **c: codec.Put(pv_name="pva://A", value="", **c), "pva://A"),
        (lambda **c: codec.Monitor(pv_name="pva://A", **c), "monitor-error-key"),
        (lambda **c: codec.MultiMonitor(pv_name_list=("pva://A",), **c), "monitor-error-key"),
        (lambda **c: codec.Snapshot(pv_name_list=("pva://A",), **c), "snapshot-dist-key"),
        (lambda **c: codec.SnapshotStop(snapshot_name="n", **c), "repeating-snapshot-events"),
        (lambda **c: codec.SnapshotTrigger(snapshot_name="n", **c), "repeating-snapshot-events"),
        (
            lambda **c: codec.RepeatingSnapshot(snapshot_name="n", pv_name_list=("pva://A",), **c),
            "repeating-snapshot-events",
        ),
    ],
)
def test_keys_of_replies(make: Callable[..., codec.Command], key: str):
    assert codec.reply_key(make(reply_topic="t", reply_id="1")) == key
