"""Values that the real gateway corrupts or loses, as ours sends them."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import pytest

from badger_k2eg.k2eg import codec
from badger_k2eg.k2eg.codec import Serialization, ValueReply

from .bench import Bench


def get(bench: Bench, uri: str, serialization: Serialization) -> dict[str, Any]:
    """Give the value's tree as it is on the wire."""
    bench.wire.listen("app-reply")
    bench.wire.clear()
    reply = bench.wire.ask(codec.Get, topic="app-reply", pv_name=bench.ours(uri), serialization=serialization)
    assert isinstance(reply, ValueReply)
    ((_, record),) = bench.wire.records
    value = record.value or b""
    if serialization is Serialization.MSGPACK:
        body = msgpack.unpackb(value)
    else:
        body = json.loads(value, parse_constant=pytest.fail)
    tree: dict[str, Any] = body[reply.pv]
    return tree


@pytest.mark.parametrize("serialization", Serialization)
def test_arrays_of_16_bits(shared_bench: Bench, serialization: Serialization):
    assert get(shared_bench, "pva://P4P:I16ARR", serialization)["value"] == [1, 300, -300]


@pytest.mark.parametrize("serialization", Serialization)
def test_booleans(shared_bench: Bench, serialization: Serialization):
    assert get(shared_bench, "pva://P4P:DBL", serialization)["valueAlarm"]["active"] is False


@pytest.mark.parametrize("serialization", Serialization)
def test_unions_and_arrays_of_structures(shared_bench: Bench, serialization: Serialization):
    image = get(shared_bench, "pva://P4P:IMG", serialization)
    assert image["value"] == {"ubyteValue": [0, 1, 2, 3, 4, 5]}
    assert [dimension["size"] for dimension in image["dimension"]] == [3, 2]
    assert image["attribute"][0]["value"] == {"": 0}
    assert image["codec"]["parameters"] == {"": None}


def test_not_a_number(shared_bench: Bench):
    assert math.isnan(get(shared_bench, "pva://P4P:NAN", Serialization.MSGPACK)["value"])
    # JSON has no such number: the real gateway's text for a scalar.
    assert get(shared_bench, "pva://P4P:NAN", Serialization.JSON)["value"] == "NaN"


def test_integers_of_64_bits(shared_bench: Bench):
    assert get(shared_bench, "pva://P4P:LONG", Serialization.JSON)["value"] == 2**53 + 1


def test_the_whole_structure_of_a_channel_access_record(shared_bench: Bench):
    tree = get(shared_bench, "ca://TST:DBL", Serialization.MSGPACK)
    assert list(tree) == ["value", "timeStamp", "alarm", "display", "control", "valueAlarm"]
    assert tree["display"]["format"] == "F9.3"
    assert (tree["control"]["limitLow"], tree["control"]["limitHigh"]) == (-5.0, 5.0)
    assert (tree["valueAlarm"]["lowAlarmLimit"], tree["valueAlarm"]["highWarningLimit"]) == (-9.0, 8.0)
