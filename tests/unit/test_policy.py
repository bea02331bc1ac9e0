"""The decisions of the write path, each as a pure function: convert, guard, ramp, compare, send again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from badger_k2eg.control.put_rules import (
    Refusal,
    after_silence,
    can_prove,
    check_setpoint,
    convert,
    not_a_reading,
    path_to,
    same,
)
from badger_k2eg.core.model import Fields, Kind, Limits, Outcome, PvAddress, PvType, Reading, Severity
from badger_k2eg.core.settings import Settings, parse, resolve

FLOAT, FLOAT32, INT = PvType(Kind.FLOAT), PvType(Kind.FLOAT, 32), PvType(Kind.INT, 32)
NUMBERS = [FLOAT, FLOAT32, PvType(Kind.BOOL)] + [
    PvType(Kind.INT, bits, signed) for bits in (8, 16, 32, 64) for signed in (True, False)
]


def settings(**options: Any) -> Settings:
    return resolve([parse(options, lambda name: f"option {name}")])


def refused(value: Any, to: PvType, choices: tuple[str, ...] = ()) -> str | None:
    try:
        convert(value, to, choices)
    except Refusal as refusal:
        return str(refusal)
    return None


# -- convert: without loss, or not at all ------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.floats(width=32).map(np.float32)
    | st.integers(-(2**63), 2**63 - 1).map(np.int64)
    | st.integers(0, 255).map(np.uint8)
    | st.complex_numbers()
    | st.text(max_size=50)
    | st.binary(max_size=5)
)
numbers_in_arrays = arrays.arrays(
    st.sampled_from(["f8", "f4", "i8", "u8", "i1", "?", ">f8", "<i2"]),
    arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4),
)
lists = st.lists(scalars | st.lists(scalars, max_size=2), max_size=4)
anything = scalars | lists | lists.map(tuple) | numbers_in_arrays | st.dictionaries(st.text(max_size=3), scalars)


@given(value=anything, to=st.sampled_from(NUMBERS))
@example(value=10**400, to=FLOAT)
@example(value=2**53 + 1, to=FLOAT)
@example(value=2**1024 - 2**970, to=FLOAT)
@example(value=True, to=INT)
def test_a_number_is_itself_or_refused(value: Any, to: PvType) -> None:
    try:
        got = convert(value, to)
    except Refusal:
        return
    assert type(got) in (bool, int, float)
    asked = value.item() if isinstance(value, np.ndarray | np.generic) else value
    assert got == asked and math.isfinite(got)
    if to.kind is not Kind.FLOAT:
        assert int(to.dtype.type(got)) == got, "and it fits into the PV's own type"
    else:
        assert np.isfinite(to.dtype.type(got))


@given(value=anything, to=st.sampled_from(NUMBERS), longest=st.none() | st.integers(0, 4))
@example(value=np.array([1.5, 2.5], ">f8"), to=FLOAT, longest=None)
@example(value=[2**53 + 1], to=FLOAT, longest=None)
def test_an_array_is_itself_element_by_element_or_refused(value: Any, to: PvType, longest: int | None) -> None:
    array = PvType(to.kind, to.bits, to.signed, array=True, max_length=longest)
    try:
        got = convert(value, array)
    except Refusal:
        return
    assert isinstance(got, np.ndarray) and got.dtype == to.dtype and got.ndim == 1
    assert longest is None or len(got) <= longest
    asked = (
        value.tolist()
        if isinstance(value, np.ndarray)
        else [getattr(item, "item", lambda i=item: i)() for item in value]
    )
    # Of a float32 array the nearest float32 is what can be meant.
    assert got.tolist() == [to.dtype.type(item).item() for item in asked]
    if to.kind is not Kind.FLOAT:
        assert got.tolist() == asked


@given(value=anything, longest=st.none() | st.integers(0, 60))
@example(value="\udce9", longest=None)
@example(value="a\0b", longest=None)
def test_a_text_is_itself_or_refused(value: Any, longest: int | None) -> None:
    try:
        got = convert(value, PvType(Kind.STRING, max_length=longest))
    except Refusal:
        return
    asked = value.item() if isinstance(value, np.ndarray | np.generic) else value
    assert type(got) is str and got == asked and "\0" not in got
    assert longest is None or len(got.encode()) <= longest


@given(value=anything | st.sampled_from(["off", "on", "2"]), choices=st.lists(st.text(max_size=4), max_size=5))
@example(value="2", choices=["0", "2", "1"])
def test_an_enum_is_the_index_of_one_of_its_choices_or_refused(value: Any, choices: list[str]) -> None:
    try:
        got = convert(value, PvType(Kind.ENUM, 32), tuple(choices))
    except Refusal:
        return
    asked = value.item() if isinstance(value, np.ndarray | np.generic) else value
    assert type(got) is int and 0 <= got < len(choices)
    assert choices[got] == asked if isinstance(asked, str) else got == asked


@given(value=anything)
def test_without_a_type_nothing_is_changed(value: Any) -> None:
    try:
        got = convert(value, PvType())
    except Refusal:
        return
    asked = (
        value.item() if isinstance(value, np.generic) or isinstance(value, np.ndarray) and value.ndim == 0 else value
    )
    assert got is asked or got == asked


@pytest.mark.parametrize("to", [FLOAT, INT, PvType(Kind.ENUM, 32), PvType(Kind.STRING), PvType(Kind.FLOAT, array=True)])
def test_naming_the_field_value_changes_nothing_and_other_fields_are_refused(to: PvType) -> None:
    good = {Kind.STRING: "on", Kind.ENUM: "on"}.get(to.kind, [1.0] if to.array else 1)
    direct, by_field = (convert(each, to, ("off", "on")) for each in (good, Fields({"value": good})))
    assert np.array_equal(direct, by_field)
    assert "only value" in str(refused(Fields({"display.limitHigh": 1.0}), to))
    assert "only value" in str(refused(Fields({"value": good, "alarm.severity": 0}), to))
    assert refused(Fields({"value": math.nan}), to)


def test_a_structure_takes_fields_and_nothing_else() -> None:
    fields = Fields({"a": 1})
    assert convert(fields, PvType(Kind.OTHER)) is fields
    assert "Fields" in str(refused(1.0, PvType(Kind.OTHER)))
    assert "None" in str(refused(None, PvType()))


# -- the guard --------------------------------------------------------------------------------------------------------


def guard(value: Any, before: Reading, pv: str = "A:PV", **options: Any) -> Any:
    return check_setpoint(PvAddress.parse(pv), value, before, settings(**options))


@given(st.floats(allow_nan=False), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_nothing_outside_any_limits_passes(value: float, low: float, width: float, own: float, wide: float) -> None:
    before = Reading(0.0, FLOAT, limits=Limits(low, low + width))
    try:
        got = guard(value, before, limits={"A:*": (own, own + wide)})
    except Refusal:
        assert not (low <= value <= low + width and own <= value <= own + wide)
    else:
        assert low <= got <= low + width and own <= got <= own + wide


@given(value=anything, to=st.sampled_from([FLOAT, PvType(), PvType(Kind.FLOAT, array=True)]))
@example(value=10**400, to=PvType())
def test_whatever_is_asked_the_guard_passes_or_refuses_it(value: Any, to: PvType) -> None:
    before = Reading(np.zeros(2) if to.array else 0.0, to)
    try:
        got = guard(value, before, limits="-1..1", max_step=0.5)
    except Refusal:
        return
    if not isinstance(got, str | bytes | dict):
        assert np.size(got) == 0 or (-0.5 <= np.min(got) and np.max(got) <= 0.5)


@pytest.mark.parametrize("kind", [Kind.FLOAT, Kind.INT])
def test_limits_hold_for_every_element_of_an_array(kind: Kind) -> None:
    before = Reading(np.zeros(3), PvType(kind, 64, array=True), limits=Limits(-2.0, 2.0))
    assert guard([1, -2, 2], before).tolist() == [1, -2, 2]
    for value in ([1, 3, 0], [0, 0, -3]):
        with pytest.raises(Refusal, match="drive limits"):
            guard(value, before)


def test_access_that_is_known_to_be_denied_is_refused_and_unknown_is_tried() -> None:
    with pytest.raises(Refusal, match="denied"):
        guard(1.0, Reading(0.0, FLOAT, writable=False))
    assert guard(1.0, Reading(0.0, FLOAT, writable=None)) == guard(1.0, Reading(0.0, FLOAT, writable=True)) == 1.0


# -- steps and ramps --------------------------------------------------------------------------------------------------


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(0.5, 1e3))
def test_a_ramp_keeps_its_steps_and_its_direction(start: float, target: float, step: float) -> None:
    path = path_to(target, Reading(start, FLOAT), step)
    assert path[-1] == target and len(path) <= abs(target - start) / step + 2
    ways = [after - before for before, after in zip([start, *path], path, strict=False)]
    assert all(abs(way) <= step * (1 + 1e-6) for way in ways)
    assert all(way * (target - start) >= 0 for way in ways), "never back"


@given(st.integers(-200, 200), st.integers(-200, 200), st.floats(0.1, 50.0))
@example(start=0, target=3, step=1.5)
@example(start=7, target=0, step=2.5)
def test_a_ramp_of_an_integer_goes_in_whole_numbers(start: int, target: int, step: float) -> None:
    try:
        path = path_to(target, Reading(start, INT), step)
    except Refusal:
        assert step < 1.0 and abs(target - start) > step
        return
    assert path[-1] == target and all(type(value) is int for value in path)
    assert all(abs(after - before) <= step for before, after in zip([start, *path], path, strict=False))


def test_a_ramp_that_would_take_for_ever_is_refused() -> None:
    for start, target, step in ((0.0, 1e9, 1e-6), (-1.7e308, 1.7e308, 1.0)):
        with pytest.raises(Refusal, match="step"):
            path_to(target, Reading(start, FLOAT), step)


def test_without_a_step_the_way_is_the_target() -> None:
    assert path_to(9.0, Reading(0.0, FLOAT), None) == [9.0] == path_to(9.0, Reading(8.9, FLOAT), 0.5)


@pytest.mark.parametrize("present", [math.nan, math.inf])
def test_a_step_from_what_is_no_number_is_refused(present: float) -> None:
    with pytest.raises(Refusal, match="max_step"):
        guard(1.0, Reading(present, FLOAT), max_step=0.5)


# -- the same? --------------------------------------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(0.0)
@example(1.7e308)
def test_a_value_is_the_same_as_itself_and_not_as_its_opposite(value: float) -> None:
    assert same(Reading(value, FLOAT), value)
    assert same(Reading(-value, FLOAT), value) == (abs(value) < 1e-322), "no warning either"


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(1e-6, 0.1))
def test_a_float32_is_compared_as_one(value: float, distance: float) -> None:
    assert same(Reading(float(np.float32(value)), FLOAT32), value)
    other = value * (1 + distance)
    if abs(value) > 1e-30 and abs(other) < 3e38:
        assert not same(Reading(float(np.float32(other)), FLOAT32), value)


@pytest.mark.parametrize(
    ("held", "of_type", "value", "equal"),
    [
        (math.nan, FLOAT, 1.0, False),
        (math.inf, FLOAT, 1.0, False),
        (2**53 + 1, PvType(Kind.INT, 64), 2**53 + 1, True),
        (2**53 + 1, PvType(Kind.INT, 64), 2**53, False),
        ("on", PvType(Kind.STRING), "on", True),
        (1, PvType(Kind.ENUM), 1, True),
        (np.array([1.0, 2.0]), PvType(Kind.FLOAT, array=True), np.array([1.0, 2.0]), True),
        (np.array([1.0, 2.0]), PvType(Kind.FLOAT, array=True), np.array([1.0]), False),
        (["a"], PvType(Kind.STRING, array=True), ["a"], True),
        ({"a": np.array([1]), "b": ["x"]}, PvType(Kind.TABLE), Fields({"value": {"a": [1]}}), True),
        ({"a": np.array([1]), "b": ["x"]}, PvType(Kind.TABLE), Fields({"value": {"a": [2]}}), False),
        (None, PvType(Kind.OTHER), Fields({"a": 1}), False),
    ],
)
def test_each_kind_is_compared_in_its_own_type(held: Any, of_type: PvType, value: Any, equal: bool) -> None:
    assert same(Reading(held, of_type), value) is equal


def test_what_was_not_read_is_not_the_same() -> None:
    assert not same(None, 1.0)


# -- after silence ----------------------------------------------------------------------------------------------------

AT = {name: Reading(value, FLOAT) for name, value in {"old": 1.0, "asked": 2.0, "other": 1.5}.items()}


@pytest.mark.parametrize(
    ("before", "readback", "relative", "left", "outcome"),
    [
        ("old", "asked", False, True, Outcome.APPLIED),
        ("old", "asked", False, False, Outcome.APPLIED),
        ("asked", "asked", False, True, Outcome.APPLIED),
        ("old", "old", False, True, Outcome.NOT_SENT),
        ("old", "old", False, False, Outcome.UNKNOWN),
        ("old", "other", False, True, Outcome.UNKNOWN),
        ("old", None, False, True, Outcome.UNKNOWN),
        (None, "old", False, True, Outcome.UNKNOWN),
        ("old", "asked", True, True, Outcome.UNKNOWN),
        ("old", "old", True, True, Outcome.UNKNOWN),
    ],
)
def test_only_what_is_untouched_is_sent_again(
    before: str | None, readback: str | None, relative: bool, left: bool, outcome: Outcome
) -> None:
    got = after_silence(2.0, AT.get(before or ""), AT.get(readback or ""), relative=relative, attempts_left=left)
    assert got is outcome


GROUP = PvType(Kind.OTHER)


@pytest.mark.parametrize(
    ("before", "value", "options", "provable"),
    [
        (Reading(0.0, FLOAT), 1.0, {}, True),
        (Reading(0.0, FLOAT, limits=Limits(-1, 1)), 1.0, {}, True),
        (Reading(0.0, FLOAT, limits=Limits(-1, 1)), 1.0, {"wait": "A:*"}, True),
        (Reading(0.0, FLOAT), 1.0, {"relative": "A:*"}, False),
        (Reading("x", PvType(Kind.STRING)), "y", {}, True),
        (Reading(1, PvType(Kind.ENUM)), 0, {}, True),
        (Reading(np.zeros(1), PvType(Kind.FLOAT, array=True), limits=Limits(-1, 1)), np.ones(1), {}, True),
        (Reading(None, GROUP), Fields({"x": 1}), {}, True),
        (Reading(None, GROUP), None, {}, False),
        (Reading(0.0), 1.0, {}, False),
    ],
)
def test_what_a_read_back_can_prove(before: Reading, value: Any, options: dict[str, Any], provable: bool) -> None:
    assert can_prove(PvAddress.parse("A:PV"), value, before, settings(**options)) is provable


@pytest.mark.parametrize(
    ("held", "kind", "asked", "tolerance", "is_same"),
    [
        (2.99, FLOAT, 3.0, 0.01, True),
        (2.98, FLOAT, 3.0, 0.01, False),
        (-(2**63), PvType(Kind.INT, 64), 2**63 - 1, 1.0, False),
        (2**62 + 1, PvType(Kind.INT, 64), 2**62, 0.5, False),
        (np.array([1.0, 2.0]), PvType(Kind.FLOAT, array=True), np.array([1.1, 2.0]), 0.1, True),
        (np.array([1.0, 2.0]), PvType(Kind.FLOAT, array=True), np.array([1.0, 2.0, 3.0]), 0.1, False),
        ("2.99", PvType(Kind.STRING), "3.0", 0.1, False),
        (1, PvType(Kind.ENUM), 2, 5.0, False),
    ],
)
def test_only_numbers_may_rest_apart_and_only_as_far_as_declared(
    held: Any, kind: PvType, asked: Any, tolerance: float, is_same: bool
) -> None:
    assert same(Reading(held, kind), asked, tolerance) is is_same


@pytest.mark.parametrize(
    ("tree", "fields", "is_same"),
    [
        ({"a": 1, "b": {"c": "x", "d": 2}}, {"b": {"c": "x"}}, True),
        ({"a": 1, "b": {"c": "x"}}, {"b": {"c": "y"}}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": [1, 2]}, {"a": np.array([1, 2])}, True),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, False),
        ({"a": float(np.float32(0.1))}, {"a": 0.1}, True),
        ({"a": 0.1}, {"a": 0.1000001}, False),
        ({"a": float(np.float32(0.1))}, {"a": 0.1000001}, False),
        ({"a": 3}, {"a": 3.0}, True),
    ],
)
def test_a_structure_holds_the_fields_that_were_put(tree: Any, fields: Any, is_same: bool) -> None:
    assert same(Reading(None, GROUP, _tree=lambda: tree), Fields(fields)) is is_same


def test_integer_limits_compare_as_integers() -> None:
    long_ = PvType(Kind.INT, 64)
    edge = 2**53
    for before, options in (
        (Reading(0, long_, limits=Limits(0.0, float(edge))), {}),
        (Reading(0, long_), {"limits": f"A:PV=0..{edge}"}),
        (Reading(0, long_), {"limits": {"A:PV": (0, edge)}}),
    ):
        assert check_setpoint(PvAddress.parse("A:PV"), edge, before, settings(**options)) == edge
        with pytest.raises(Refusal, match=f"{edge + 1} is outside .* 0 to {edge}"):
            check_setpoint(PvAddress.parse("A:PV"), edge + 1, before, settings(**options))


def test_own_integer_limits_are_kept_to_the_last_digit() -> None:
    edge = 2**53 + 1
    with pytest.raises(Refusal, match="outside"):
        check_setpoint(
            PvAddress.parse("A:PV"),
            edge,
            Reading(0, PvType(Kind.INT, 64)),
            settings(limits=f"A:PV={edge + 1}..{edge + 9}"),
        )


@pytest.mark.parametrize("value", [1e-50, -1e-46, 1.3e-45])
def test_a_number_that_a_float32_cannot_hold_is_refused(value: float) -> None:
    small = Reading(0.0, PvType(Kind.FLOAT, 32))
    several = Reading(np.zeros(2, "f4"), PvType(Kind.FLOAT, 32, array=True))
    for before, asked in ((small, value), (several, [1.0, value]), (several, np.array([1.0, value]))):
        with pytest.raises(Refusal, match="too small for a float32"):
            check_setpoint(PvAddress.parse("A:PV"), asked, before, settings())
    for fine in (0.1, 1e-30, 0.0, 16777217.0):
        assert check_setpoint(PvAddress.parse("A:PV"), fine, small, settings()) == fine


# -- is it a reading? -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["none", "minor", "major", "invalid"])
@pytest.mark.parametrize("severity", list(Severity))
def test_the_policy_on_severities(policy: str, severity: Severity) -> None:
    from_which = {"none": 4, "minor": 1, "major": 2, "invalid": 3}[policy]
    reason = not_a_reading(Reading(1.0, severity=severity, message="HIHI"), settings(reject_severity=policy))
    assert (reason is not None) == (severity >= from_which)
    assert reason is None or (severity.name in reason and "HIHI" in reason)


@pytest.mark.parametrize("message", ["UDF", "udf", "UDF_ALARM"])
def test_never_processed_is_never_a_reading(message: str) -> None:
    reading = Reading(0.0, severity=Severity.INVALID, message=message)
    assert "never processed" in str(not_a_reading(reading, settings(reject_severity="none")))
