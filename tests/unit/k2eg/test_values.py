"""What a K2EG tree tells of a PV's type, and the fields of a put."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest

from badger_k2eg.core.model import Fields, Kind, PvType
from badger_k2eg.errors import PvValueError
from badger_k2eg.k2eg.pv_types import Known, TypeBook, put_fields

WHOLE_FLOAT = {"control": {"limitLow": 0.0, "limitHigh": 0.0}}
SQUEEZED = {"control": {"limitLow": 0, "limitHigh": 0}}
FLOAT, INT, UNKNOWN = PvType(Kind.FLOAT), PvType(Kind.INT), PvType(Kind.UNKNOWN)
ENUM = {"index": 1, "choices": ["off", "on"]}


def learn(value: Any, about: dict[str, Any] = WHOLE_FLOAT, book: TypeBook | None = None) -> PvType:
    return (book or TypeBook()).learn("X", {"value": value, **about})


@pytest.mark.parametrize(
    ("value", "kind", "array"),
    [
        (1.5, Kind.FLOAT, False),
        (math.nan, Kind.FLOAT, False),
        (3, Kind.INT, False),
        (True, Kind.BOOL, False),
        ("x", Kind.STRING, False),
        (ENUM, Kind.ENUM, False),
        ([1.5], Kind.FLOAT, True),
        ([1, 2], Kind.INT, True),
        ([True], Kind.BOOL, True),
        (["a", ""], Kind.STRING, True),
        ([], Kind.UNKNOWN, True),
        ([{"a": 1}], Kind.OTHER, False),
        ({"a": 1}, Kind.OTHER, False),
        (None, Kind.OTHER, False),
    ],
)
def test_types(value: Any, kind: Kind, array: bool) -> None:
    found = learn(value)
    assert (found.kind, found.array) == (kind, array)


def test_a_table_is_told_by_its_labels() -> None:
    assert learn({"a": [1.0]}, {"labels": ["a"]}).kind is Kind.TABLE


def test_an_int_is_believed_only_from_a_gateway_that_keeps_floats() -> None:
    book = TypeBook()
    assert learn(3, SQUEEZED, book) == UNKNOWN
    book.learn("OTHER", {"value": 1.5, **WHOLE_FLOAT})
    assert learn(3, SQUEEZED, book) == INT


def test_a_float_stays_one_when_it_comes_as_an_int() -> None:
    book = TypeBook()
    assert learn(1.5, SQUEEZED, book) == FLOAT
    assert learn(2, SQUEEZED, book) == FLOAT
    assert learn([1.5, 2], SQUEEZED) == PvType(Kind.FLOAT, array=True)
    book = TypeBook()
    learn([1.5], SQUEEZED, book)
    assert learn([1, 2], SQUEEZED, book) == learn([], SQUEEZED, book) == PvType(Kind.FLOAT, array=True)


@pytest.mark.parametrize("value", [0.1, [0.1], [0.1] * 20, [0.1] * 70_000], ids=["one", "short", "array16", "array32"])
def test_a_float32_is_told_by_its_bytes(value: Any) -> None:
    tree = {"value": value, **WHOLE_FLOAT}
    for single in (True, False):
        raw = msgpack.packb({"X": tree}, use_single_float=single)
        assert TypeBook().learn("X", tree, raw).bits == (32 if single else 64)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (float(np.float32(0.1)), 32),
        (0.1, 64),
        (0.5, 64),
        (1e300, 64),
        (math.nan, 64),
        (math.inf, 64),
        ([0.5, float(np.float32(0.1)), math.nan], 32),
        ([0.1, float(np.float32(0.1))], 64),
    ],
)
def test_a_float32_that_came_as_a_float64_is_told_by_its_decimals(value: Any, bits: int) -> None:
    assert learn(value).bits == bits


def test_lost_signs_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    book = TypeBook()
    for _ in range(2):
        learn([1, 65236], WHOLE_FLOAT, book)
        learn([1, -300], WHOLE_FLOAT, TypeBook())
        learn([1, 70000], WHOLE_FLOAT, TypeBook())
    assert len([r for r in caplog.records if "lost their signs" in r.getMessage()]) == 1


@pytest.mark.parametrize(
    ("value", "known", "fields"),
    [
        (2, Known(FLOAT), {"value": 2.0}),
        (2.0, Known(INT), {"value": 2}),
        (np.float64(2.5), Known(FLOAT), {"value": 2.5}),
        (2.0, Known(UNKNOWN), {"value": 2}),
        (2.5, Known(UNKNOWN), {"value": 2.5}),
        (1, Known(PvType(Kind.ENUM), ("off", "on")), {"value": {"index": 1}}),
        ("on", Known(PvType(Kind.ENUM), ("off", "on")), {"value": {"index": 1}}),
        ((1, 2), Known(PvType(Kind.FLOAT, array=True)), {"value": [1.0, 2.0]}),
        ([], Known(PvType(Kind.FLOAT, array=True)), {"value": []}),
        ([1.0, 2.5], Known(PvType(Kind.UNKNOWN, array=True)), {"value": [1, 2.5]}),
        ({"a": np.array([1.5])}, Known(PvType(Kind.TABLE)), {"value": {"a": [1.5]}}),
        (Fields({"x": {"y": 1}}), Known(PvType(Kind.OTHER)), {"x": {"y": 1}}),
        ("text", Known(PvType(Kind.STRING)), {"value": "text"}),
    ],
)
def test_fields_of_a_put(value: Any, known: Known, fields: dict[str, Any]) -> None:
    laid = put_fields("X", value, known)
    assert laid == fields
    assert repr(laid) == repr(fields), "plain values of the right types"


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (3.7, Known(INT)),
        (2**63, Known(INT)),
        ("1", Known(FLOAT)),
        (math.nan, Known(FLOAT)),
        (math.inf, Known(UNKNOWN)),
        (2, Known(PvType(Kind.ENUM), ("off", "on"))),
        ("auto", Known(PvType(Kind.ENUM), ("off", "on"))),
        (1.5, Known(PvType(Kind.FLOAT, array=True))),
        (1.5, Known(PvType(Kind.UNKNOWN, array=True))),
        ([1.5], Known(FLOAT)),
        (1, Known(PvType(Kind.STRING))),
        (1.0, Known(PvType(Kind.TABLE))),
        (1.0, Known(PvType(Kind.OTHER))),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, known: Known) -> None:
    with pytest.raises(PvValueError, match="^X: ") as caught:
        put_fields("X", value, known)
    assert isinstance(caught.value, ValueError)
