"""The text of a line: nothing is lost on the way to disk and back, and what was changed since is seen."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.core.model import Outcome, Severity
from badger_k2eg.core.records import (
    SCHEMA,
    BadLine,
    Level,
    NewerSchema,
    Record,
    RecordKind,
    decode,
    encode,
    from_line,
    to_line,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@given(values)
def test_every_value_comes_back_through_strict_json(value: Any) -> None:
    text = json.dumps(encode(value), allow_nan=False)
    assert same(decode(json.loads(text)), value)


@given(value=values, pv=st.text(max_size=20), line=st.integers(1, 10**15), evaluation=st.none() | st.integers(1, 10**6))
def test_a_record_is_one_line_and_comes_back_whole(value: Any, pv: str, line: int, evaluation: int | None) -> None:
    record = Record(kind=RecordKind.PUT, line=line, time_ns=1, pv=pv, asked=value, evaluation=evaluation)
    text = to_line(record)
    assert text.count(b"\n") == 1 and text.endswith(b"}\n")
    back = from_line(text)
    assert back.intact and same(back.asked, value)
    assert (back.line, back.evaluation, back.pv) == (line, evaluation, pv)


def test_every_field_comes_back() -> None:
    record = Record(
        kind=RecordKind.SETPOINT, line=7, time_ns=8, level=Level.ERROR, run="r", evaluation=3, begin=4, pv="Q", asked=1,
        value=2.5, unit="kG", severity=int(Severity.MAJOR), stamp_ns=9, outcome=Outcome.NOT_SENT, attempt=2,
        duration=0.5, name="n", message="m", data={"a": [1, math.inf]}, host="h", user="u", process=5,
    )  # fmt: skip
    assert from_line(to_line(record)) == record


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.array([1.0, np.nan, -np.inf]),
        np.array([], dtype=np.int16),
        np.array([True, False]),
        np.arange(10)[::2],
        np.array([1 + 2j]),
    ],
    ids=str,
)
def test_an_array_keeps_its_numbers_and_shape(array: np.ndarray[Any, Any]) -> None:
    back = decode(json.loads(json.dumps(encode(array), allow_nan=False)))
    assert back.dtype == array.dtype.newbyteorder("<") and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    back[:] = 0  # its own, and writable


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(2.5), 2.5),
        (np.str_("on"), "on"),
        (np.array(["a", "b"]), ["a", "b"]),
        (Severity.MAJOR, 2),
        (Outcome.APPLIED, "applied"),
        ((1, 2), [1, 2]),
        ({1: 2}, {"1": 2}),
    ],
    ids=str,
)
def test_scalars_of_other_libraries_become_plain(value: Any, plain: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert back == plain and type(back) is type(plain)


class Stubborn:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_what_no_json_can_say_is_kept_as_its_text() -> None:
    assert encode(1 + 2j) == "(1+2j)"
    assert encode([Stubborn()])[0].startswith("<tests.unit.journal.test_records.Stubborn object at")


def test_a_level_follows_from_kind_and_outcome() -> None:
    levels = {
        RecordKind.SAMPLE: Level.DEBUG,
        RecordKind.READ: Level.DEBUG,
        RecordKind.PUT: Level.INFO,
        RecordKind.TORN: Level.WARNING,
    }
    for kind, level in levels.items():
        assert from_line(to_line(Record(kind=kind))).own_level is level
    assert Record(kind=RecordKind.PUT, outcome=Outcome.UNKNOWN).own_level is Level.WARNING
    assert Record(kind=RecordKind.PUT, outcome=Outcome.SKIPPED).own_level is Level.INFO


@given(st.binary(max_size=200))
def test_what_is_no_line_is_told_apart(text: bytes) -> None:
    with pytest.raises(BadLine):
        from_line(text)


@given(st.data())
def test_a_changed_line_is_never_taken_for_whole(data: st.DataObject) -> None:
    text = bytearray(to_line(Record(kind=RecordKind.PUT, line=17, pv="QUAD:1", asked=1.25)).rstrip(b"\n"))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[at]))
    try:
        assert not from_line(bytes(text)).intact
    except (BadLine, NewerSchema):
        pass


def test_a_line_of_a_newer_schema_is_not_guessed_at() -> None:
    text = to_line(Record(kind=RecordKind.PUT, line=1)).replace(b'"v":1', b'"v":%d' % (SCHEMA + 1))
    with pytest.raises(NewerSchema, match="schema 2, and this version knows 1"):
        from_line(text)
