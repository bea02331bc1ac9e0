"""Gets and puts through a gateway: what was meant is written, or nothing is."""

from __future__ import annotations

import base64
import json
import math
import time
from typing import Any

import numpy as np
import pytest

from badger_k2eg.core.model import Kind, Limits, PvType
from badger_k2eg.k2eg import codec
from badger_k2eg.k2eg.codec import Reply, Serialization, ValueReply
from tests.rig.pace import pace

from .conftest import Serve, Served

DONE = "Successfull operation"


@pytest.fixture
def served(serve: Serve) -> Served:
    served = serve()
    add = served.memory.add
    add("X", 1.0, limits=Limits(-5.0, 5.0), units="mm")
    add("COUNT", 1, type=PvType(Kind.INT, 32))
    add("MODE", 1, choices=("off", "on", "auto"))
    add("WAVE", [1.0, 2.0, 3.0])
    add("TEXT", "hello", type=PvType(Kind.STRING, max_length=39))
    add("FLAG", True)
    return served


def put(served: Served, name: str, payload: Any, scheme: str = "pva") -> tuple[int, str | None]:
    value = payload if isinstance(payload, str) else codec.encode_put_value(payload)
    reply = served.ask(codec.Put, pv_name=f"{scheme}://{name}", value=value)
    assert isinstance(reply, Reply)
    return reply.error, reply.message


@pytest.mark.parametrize(
    ("name", "payload", "expected"),
    [
        ("X", {"value": 2.5}, 2.5),
        ("X", {"value": 2}, 2.0),
        ("X", {"value": 2.5, "nosuch": 1}, 2.5),
        ("COUNT", {"value": -5}, -5),
        # The real gateway: std::bad_cast.
        ("COUNT", {"value": 3.0}, 3),
        # The real gateway: done, and index 0 is written.
        ("MODE", {"value": 2}, 2),
        ("MODE", {"value": "auto"}, 2),
        ("MODE", {"value": {"index": 2}}, 2),
        ("MODE", {"value": {"index": 0, "choices": []}}, 0),
        ("WAVE", {"value": [9.5, 8.5]}, [9.5, 8.5]),
        ("WAVE", {"value": []}, []),
        ("TEXT", {"value": "world"}, "world"),
        ("FLAG", {"value": False}, False),
    ],
)
def test_what_was_meant_is_written(served: Served, name: str, payload: dict[str, Any], expected: Any):
    assert put(served, name, payload) == (0, DONE)
    assert served.memory.value(name) == expected


@pytest.mark.parametrize(
    ("name", "payload", "code", "words"),
    [
        # The real gateway: done, and the array is empty.
        ("WAVE", {"value": 1.5}, -2, "it is an array"),
        # The real gateway: done, and another value is there.
        ("X", {"value": 99.0}, -2, "outside its drive limits"),
        ("X", {"value": math.nan}, -2, "nan is not a value"),
        ("MODE", {"value": {"index": 9}}, -2, "9 is not the index of a choice"),
        ("MODE", {"value": "fast"}, -2, "'fast' is not one of its choices"),
        ("TEXT", {"value": "x" * 60}, -2, "the text is too long"),
        ("X.HIHI", {"value": 4.0}, -2, ".HIHI is not put to X"),
        # The real gateway refuses these too.
        ("X", {"value": "abc"}, -2, "'abc' is not a number"),
        ("X", {"value": [1.0, 2.0]}, -2, "not an array"),
        ("COUNT", {"value": 3.7}, -2, "3.7 is not a whole number"),
        ("COUNT", {"value": 2**31}, -2, "does not fit"),
        ("MODE", {"value": {"choice": "auto"}}, -2, "No fields to update in the provided Msgpack object"),
        ("X", {"nosuch": 1}, -2, "No fields to update in the provided Msgpack object"),
        ("X", "", -1, "Base64 decode error during put command processing"),
        ("X", "3.5", -1, "Base64 decode error during put command processing"),
        ("X", base64.b64encode(b"\xcb\x40").decode(), -1, None),
        ("X", base64.b64encode(b"\x03").decode(), -3, "Msgpack object need to be a map"),
        ("A::B", {"value": 1}, -4, "PV name malformed"),
    ],
)
def test_what_cannot_be_written_as_meant_is_refused(
    served: Served, name: str, payload: Any, code: int, words: str | None
):
    error, message = put(served, name, payload)
    assert error == code
    assert message is None if words is None else words in (message or "")
    assert served.memory.puts == []


def test_a_value_that_cannot_be_decoded_is_told_before_a_malformed_name(served: Served):
    assert put(served, "A::B", "")[0] == -1


def test_a_put_without_a_reply_is_done(served: Served):
    silent = codec.Put(pv_name="pva://X", value=codec.encode_put_value({"value": 4.5}), reply_topic="", reply_id="")
    served.wire.send(silent, key=codec.command_key(silent))
    # The next command with the same key is behind it.
    value = codec.encode_put_value({"value": 5.0})
    answered = codec.Put(pv_name="pva://X", value=value, reply_topic=served.replies, reply_id="p")
    served.wire.send(answered, key=codec.command_key(answered))
    served.wire.until(lambda: served.wire.replies("p"))
    assert served.wire.replies("p") == [Reply("p", 0, DONE)]
    assert served.memory.puts == [("X", 4.5), ("X", 5.0)]


def test_puts_to_one_pv_keep_their_order(served: Served):
    values = [float(v) for v in np.linspace(-4, 4, 60)]
    for index, value in enumerate(values):
        payload = codec.encode_put_value({"value": value})
        command = codec.Put(pv_name="pva://X", value=payload, reply_topic=served.replies, reply_id=f"p{index}")
        served.wire.send(command)
    served.wire.until(lambda: len([m for m in served.wire.messages() if isinstance(m, Reply)]) == len(values))
    # Commands are shared out over the partitions of their topic: without a key there is an order in each alone.
    assert sorted(value for _, value in served.memory.puts) == values


def test_puts_with_the_key_of_their_pv_come_in_the_order_they_were_sent(served: Served):
    values = [float(v) for v in np.linspace(-4, 4, 60)]
    for value in values:
        payload = codec.encode_put_value({"value": value})
        command = codec.Put(pv_name="pva://X", value=payload, reply_topic=served.replies, reply_id=f"{value}")
        served.wire.send(command, key=codec.command_key(command))
    served.wire.until(lambda: len([m for m in served.wire.messages() if isinstance(m, Reply)]) == len(values))
    assert [value for _, value in served.memory.puts] == values


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"read_only": True}, "read-only"),
        ({"allow": "QUAD:*"}, "may not write X"),
        ({"allow": "*", "limits": "X=0..2"}, "outside its own limits"),
    ],
)
def test_what_may_not_be_written_is_refused(serve: Serve, options: dict[str, Any], words: str):
    served = serve(options=options)
    served.memory.add("X", 1.0)
    error, message = put(served, "X", {"value": 3.0})
    assert error == -2
    assert words in (message or "")
    assert served.memory.puts == []


def test_an_allowed_pv_is_written(serve: Serve):
    served = serve(options={"allow": "X*"})
    served.memory.add("X1", 1.0)
    assert put(served, "X1", {"value": 3.0}) == (0, DONE)


def test_a_put_that_the_server_refuses(served: Served):
    served.memory.fault("X", "refused")
    assert put(served, "X", {"value": 2.0})[0] == -2


@pytest.mark.parametrize("serialization", Serialization)
def test_a_get(served: Served, serialization: Serialization):
    reply = served.ask(codec.Get, pv_name="ca://WAVE", serialization=serialization)
    assert isinstance(reply, ValueReply)
    assert (reply.pv, reply.tree) == ("WAVE", {"value": [1.0, 2.0, 3.0]})
    ((_, record),) = served.wire.records
    assert record.key == b"ca://WAVE"


def test_a_get_of_a_field_is_one_of_the_record(served: Served):
    """As the real gateway: the reply's key says what was asked for, its map says what it is."""
    reply = served.ask(codec.Get, pv_name="pva://X.EGU")
    assert (reply.pv, reply.tree["value"]) == ("X", 1.0)


def test_a_get_of_a_malformed_name(served: Served):
    reply = served.ask(codec.Get, pv_name="X")
    assert (reply.error, reply.message) == (-1, "PV name malformed")


def test_a_value_that_is_larger_than_a_message_may_be(served: Served):
    served.memory.add("BIG", np.zeros(200_000))
    reply = served.ask(codec.Get, pv_name="pva://BIG")
    assert isinstance(reply, Reply)
    assert reply.error == -2
    assert served.ask(codec.Get, pv_name="pva://X").tree["value"] == 1.0


@pytest.mark.parametrize(
    "raw",
    [
        {"command": "info", "pv_name": "pva://X"},
        {"command": 5},
        {"command": "GET", "pv_name": "pva://X"},
        {"command": "get"},
        {"command": "multi-monitor", "pv_name_list": []},
    ],
)
def test_what_is_no_command_is_answered(served: Served, raw: dict[str, Any]):
    served.wire.send(json.dumps({**raw, "reply_topic": served.replies, "reply_id": "r1"}).encode())
    ((_, record),) = served.wire.until(lambda: list(served.wire.records))
    assert record.key == b"comand-parse-error-reply"
    assert served.wire.messages() == [Reply("r1", -1)]


def test_rubbish_does_not_end_it(served: Served):
    for raw in (b"", b"\xff\xfe", b"[]", b"{", b"null", b"[" * 100_000, b'{"command": "get"}'):
        served.wire.send(raw)
    assert served.ask(codec.Get, pv_name="pva://X").tree["value"] == 1.0


def test_twenty_dead_pvs_hold_up_nobody(served: Served):
    for number in range(20):
        command = codec.Get(pv_name=f"pva://NO:{number}", reply_topic=served.replies, reply_id=f"no-{number}")
        served.wire.send(command)
    assert isinstance(served.ask(codec.Get, pv_name="pva://X", timeout=5.0), ValueReply)
    assert not served.wire.replies("no-0")


def test_a_put_that_hangs_does_not_hold_up_the_next(serve: Serve):
    served = serve(options={"timeout": 5.0})
    served.memory.add("X", 1.0)
    served.memory.fault("X", "lost", times=1)
    for number, reply_id in enumerate(("lost", "next"), start=2):
        value = codec.encode_put_value({"value": float(number)})
        put = codec.Put(pv_name="pva://X", value=value, reply_topic=served.replies, reply_id=reply_id)
        # With its key the second comes behind the first.
        served.wire.send(put, key=codec.command_key(put))
    served.wire.until(lambda: served.wire.replies("lost"))
    assert served.wire.replies("lost") == [Reply("lost", -3, "Timeout operation")]
    assert [message.reply_id for message in served.wire.messages() if isinstance(message, Reply)] == ["next", "lost"]
    assert served.memory.value("X") == 3.0


@pytest.mark.slow
def test_a_pv_that_has_just_died_costs_the_others_a_moment(served: Served):
    for name in ("X", "COUNT"):
        assert isinstance(served.ask(codec.Get, pv_name=f"pva://{name}"), ValueReply)
    served.memory.fault("X", "missing")
    began = time.monotonic()
    for name in ("X", "COUNT"):
        served.wire.send(codec.Get(pv_name=f"pva://{name}", reply_topic=served.replies, reply_id=name))
    served.wire.until(lambda: served.wire.replies("COUNT"))
    assert time.monotonic() - began < 5.0 * pace()
    served.wire.until(lambda: served.wire.replies("X"))
    assert served.wire.replies("X") == [Reply("X", -3, "Timeout operation")]
    assert time.monotonic() - began > 9.5
