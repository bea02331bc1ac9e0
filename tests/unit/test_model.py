"""Addresses, readings, outcomes and reports: plain values, and what they say of themselves."""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.core import errors
from badger_k2eg.core.model import (
    Fields,
    Kind,
    Limits,
    Outcome,
    PutResult,
    PvAddress,
    PvType,
    Reading,
    SetReport,
    plain,
)
from badger_k2eg.core.owner import Owner
from badger_k2eg.errors import PvError, PvNameError

# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "scheme", "name"),
    [
        ("QUAD:LI21:221:BCTRL", None, "QUAD:LI21:221:BCTRL"),
        ("pva://QUAD:1", "pva", "QUAD:1"),
        ("ca://QUAD:1.VAL", "ca", "QUAD:1.VAL"),
        ("LONG:TEXT.VAL$", None, "LONG:TEXT.VAL$"),
        ("a_b-c.d/e;f<g>[h]{i}", None, "a_b-c.d/e;f<g>[h]{i}"),
        ("SR-DI:BPM{1-Pt:X}Pos#2", None, "SR-DI:BPM{1-Pt:X}Pos#2"),
        ("X", None, "X"),
    ],
)
def test_names_of_real_sites_are_read(text: str, scheme: str | None, name: str) -> None:
    address = PvAddress.parse(text)
    assert (address.text, address.scheme, address.name, str(address)) == (text, scheme, name, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("pva://", "empty"),
        ("A B", "' '"),
        (" A", "' '"),
        ("A\n", "malformed"),
        ("A,B", "','"),
        ("A*", "malformed"),
        ("A'", "malformed"),
        ("\N{MICRO SIGN}A", "malformed"),
        ("$(P)A", "macro"),
        ("${P}A", "macro"),
        ("PVA://A", "lower case"),
        ("http://A", "unknown scheme 'http'"),
        ("pva://ca://A", "malformed"),
        ("A$B", "malformed"),
        (5, "not int"),
        (None, "not NoneType"),
        (b"A", "not bytes"),
    ],
    ids=repr,
)
def test_what_cannot_be_a_name_says_why(text: Any, words: str) -> None:
    with pytest.raises(PvNameError, match=words) as caught:
        PvAddress.parse(text)
    assert caught.value.pv == str(text) and isinstance(caught.value, ValueError)


@given(st.text(max_size=30))
def test_any_text_is_a_name_or_a_name_error(text: str) -> None:
    try:
        address = PvAddress.parse(text)
    except PvNameError:
        return
    assert address.text == text and text.endswith(address.name) and address.name
    assert not set(address.name) & set(" \t\n\"',*?$()\\") - set("()$")
    assert PvAddress.parse(address.text) == address


def test_the_value_of_a_record_is_the_record() -> None:
    assert PvAddress.parse("ca://A.VAL").own_name == "A" == PvAddress.parse("A").own_name
    assert PvAddress.parse("A.DRVH").own_name == "A.DRVH"


# -- limits -----------------------------------------------------------------------------------------------------------

ends = st.none() | st.floats(-1e6, 1e6)


@given(ends, ends, ends, ends, st.floats(-2e6, 2e6))
def test_tightened_allows_what_both_allow(a: Any, b: Any, c: Any, d: Any, value: float) -> None:
    first, second = Limits(a, b), Limits(c, d)
    assert (value in first.tightened(second)) == (value in first and value in second)


def test_limits_say_what_they_are() -> None:
    assert not Limits() and Limits(0.0) and Limits(None, 0.0)
    assert str(Limits(-1.5, None)) == "-1.5 to inf" and str(Limits(None, 2.0)) == "-inf to 2"
    assert math.nan not in Limits(0.0, 1.0) and math.inf in Limits(0.0) and 5.0 in Limits()


# -- readings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.array(3), 3),
        (np.array([1, 2], "u1"), [1, 2]),
        (np.array([["a"]]), [["a"]]),
        ({"a": np.arange(2), "b": {"c": np.bool_(True)}}, {"a": [0, 1], "b": {"c": True}}),
        ("text", "text"),
        (None, None),
        (2**60 + 1, 2**60 + 1),
    ],
)
def test_plain_values_are_builtin(value: Any, expected: Any) -> None:
    got = plain(value)
    assert got == expected and type(got) is type(expected)
    if isinstance(got, list) and got:
        assert type(got[0]) in (int, str, list)


def test_a_label_belongs_to_a_choice() -> None:
    enum = PvType(Kind.ENUM, 32)
    assert Reading(1, enum, choices=("off", "on")).label == "on"
    assert Reading(7, enum, choices=("off", "on")).label is None
    assert Reading(-1, enum, choices=("off", "on")).label is None
    assert Reading(1, PvType(Kind.INT)).label is None
    assert Reading(1, enum, choices=("off", "on")).equals("on") and Reading(1, enum, choices=("off", "on")).equals(1)
    assert not Reading(1, enum, choices=("off", "on")).equals("off")


def test_a_reading_has_a_time_and_a_tree() -> None:
    reading = Reading(1.5, timestamp_ns=1_500_000_000)
    assert reading.timestamp == 1.5 and reading.tree == {"value": 1.5}
    assert Reading(1.5).timestamp is None


@pytest.mark.parametrize(
    ("of_type", "text", "dtype"),
    [
        (PvType(Kind.FLOAT, 32), "float32", "f4"),
        (PvType(Kind.INT, 16, signed=False, array=True), "uint16 array", "u2"),
        (PvType(Kind.BOOL), "bool", "?"),
    ],
)
def test_a_type_says_what_it_is(of_type: PvType, text: str, dtype: str) -> None:
    assert str(of_type) == text and of_type.dtype == np.dtype(dtype)


def test_a_text_has_no_number_type() -> None:
    with pytest.raises(TypeError, match="string"):
        _ = PvType(Kind.STRING).dtype


# -- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_is_a_mapping_in_the_callers_order() -> None:
    report = SetReport(
        (
            PutResult("B", 1.0, Outcome.APPLIED, attempts=2, message="at last"),
            PutResult("A", 2.0, Outcome.UNKNOWN, error=ValueError("x")),
            PutResult("C", 3.0, Outcome.SKIPPED),
        )
    )
    assert list(report) == ["B", "A", "C"] and len(report) == 3 and "A" in report
    assert not report.ok and [result.pv for result in report.failed] == ["A"]
    assert str(report) == "B = 1.0: APPLIED after 2 attempts, at last\nA = 2.0: UNKNOWN\nC = 3.0: SKIPPED"
    with pytest.raises(KeyError):
        _ = report["D"]
    assert SetReport().ok


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_applied_and_skipped_are_well(outcome: Outcome) -> None:
    assert PutResult("A", 1, outcome).ok == (outcome in (Outcome.APPLIED, Outcome.SKIPPED))
    assert not PutResult("A", 1, outcome, error=ValueError()).ok


def test_fields_are_a_dict_of_their_own() -> None:
    assert Fields({"value": 1}) == {"value": 1} and isinstance(Fields(), dict)


# -- errors (they cross process borders, and show as what they are) ----------------------------------------------

REPORT = SetReport((PutResult("A", 1.0, Outcome.UNKNOWN),))
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ControlError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_survives_a_pickle_with_its_words(kind: type[Exception]) -> None:
    made: tuple[Any, ...] = ("words",)
    if issubclass(kind, PvError):
        made = ("X:PV", "words")
    elif issubclass(kind, errors.ReadError):
        made = ("words", {"A": 1.0}, {"B": PvError("B", "gone")})
    elif issubclass(kind, errors.SetError | errors.CallCancelled):
        made = ("words", REPORT)
    elif issubclass(kind, errors.LockRefused):
        made = ("words", "X:PV")
    elif issubclass(kind, errors.MissingExtra):
        made = ("a feature of words", "ca")
    error = kind(*made)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind and str(copy) == str(error) and "words" in str(error)
    if hasattr(error, "report"):
        assert str(copy.report) == str(error.report)
    if isinstance(error, errors.ReadError):
        assert copy.partial == error.partial and str(copy.errors["B"]) == "B: gone"
    if isinstance(error, PvError):
        assert str(error) == "X:PV: words"
    if isinstance(error, PvError | errors.LockRefused):
        assert copy.pv == "X:PV"


def test_an_owner_tells_what_is_known_of_it() -> None:
    assert re.fullmatch(r"ada@desk \(process 7, run R, since [\d-]+ [\d:]+\)", str(Owner("ada", "desk", 7, "R", 1.0)))
    assert re.fullmatch(r"unknown user \(since [\d-]+ [\d:]+\)", str(Owner(since=1.0)))
