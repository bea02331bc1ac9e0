"""What is read of a record over Channel Access."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from badger_k2eg.control.put_rules import not_a_reading
from badger_k2eg.core.backend import Update
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Kind, Limits, Outcome, PvAddress, PvType, Reading, Severity
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import PvNotConnected
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .parts import AT_ONCE, PATIENCE, Pvs, Timer, values


@pytest.mark.parametrize(
    ("name", "value", "of_type"),
    [
        ("DBL", 1.5, PvType(Kind.FLOAT, 64)),
        ("INT", 42, PvType(Kind.INT, 32)),
        ("DBL.PREC", 3, PvType(Kind.INT, 16)),
        ("STR", "hello", PvType(Kind.STRING, max_length=39)),
        ("ENUM", 1, PvType(Kind.ENUM, 32)),
        ("BOOL", 1, PvType(Kind.ENUM, 32)),
        ("DBL.DISP", 0, PvType(Kind.INT, 8, signed=False)),
        ("DBL.EGU$", "mm", PvType(Kind.STRING, max_length=15)),
    ],
)
def test_a_scalar_has_the_value_and_type_of_the_channel(pvs: Pvs, name: str, value: Any, of_type: PvType) -> None:
    reading = pvs.get(name)
    assert (reading.value, reading.type) == (value, of_type)
    assert type(reading.value) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "of_type"),
    [
        ("WF", np.array([1.0, 2.5, -3.25]), PvType(Kind.FLOAT, 64, array=True, max_length=8)),
        ("IWF", np.array([1, 2, 3], "i4"), PvType(Kind.INT, 32, array=True, max_length=8)),
        ("F32", np.array([0.5, 1.5], "f4"), PvType(Kind.FLOAT, 32, array=True, max_length=4)),
        (
            "LSTR",
            np.frombuffer(b"a long string " * 5 + b"\0", "u1"),
            PvType(Kind.INT, 8, signed=False, array=True, max_length=256),
        ),
    ],
)
def test_an_array_is_the_readers_own_and_as_long_as_it_is_now(pvs: Pvs, name: str, value: Any, of_type: PvType) -> None:
    reading = pvs.get(name)
    assert reading.type == of_type
    assert np.array_equal(reading.value, value)
    assert (reading.value.dtype, reading.value.dtype.isnative, reading.value.flags.writeable) == (
        value.dtype,
        True,
        True,
    )


def test_texts_come_as_a_list(pvs: Pvs) -> None:
    reading = pvs.get("SWF")
    assert reading.value == ["one", "two", "three"]
    assert reading.type == PvType(Kind.STRING, array=True, max_length=4)


def test_what_comes_with_a_value(pvs: Pvs) -> None:
    dbl, whole, free, enum = pvs.gets("DBL", "INT", "FREE", "ENUM").values()
    assert isinstance(dbl, Reading) and isinstance(whole, Reading)
    assert isinstance(free, Reading) and isinstance(enum, Reading)
    assert (dbl.units, dbl.precision, dbl.limits) == ("mm", 3, Limits(-5.0, 5.0))
    assert (whole.units, whole.limits) == ("cnt", Limits(-100, 100))
    assert not free.limits
    assert (enum.choices, enum.label) == (("off", "on", "auto"), "on")
    assert dbl.tree["display"]["units"] == "mm"
    assert dbl.received is not None and abs(time.monotonic() - dbl.received) < PATIENCE


def test_limits_are_those_of_now(pvs: Pvs) -> None:
    assert pvs.get("SP_001").limits == Limits(-100, 100)
    assert pvs.put("SP_001.DRVH", 50.0)[0] is Outcome.APPLIED
    assert pvs.get("SP_001").limits == Limits(-100, 50)
    pvs.put("SP_001.DRVH", 100.0)


def test_the_time_is_that_of_the_record(pvs: Pvs) -> None:
    assert pvs.put("FREE", 1.25, wait=True)[0] is Outcome.APPLIED
    first = pvs.get("FREE").timestamp
    assert first is not None and abs(time.time() - first) < PATIENCE
    assert pvs.get("FREE").timestamp == first
    pvs.put("FREE", 1.0, wait=True)
    later = pvs.get("FREE").timestamp
    assert later is not None and later > first


def test_a_record_never_processed_is_not_a_reading(pvs: Pvs) -> None:
    reading = pvs.get("UDF")
    assert (reading.severity, reading.status, reading.message) == (Severity.INVALID, 17, "UDF")
    refused = not_a_reading(reading, resolve([parse({"reject_severity": "none"}, lambda name: name)]))
    assert refused is not None and "never processed" in refused


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("MAJOR", Severity.MAJOR, "HIHI"), ("MINOR", Severity.MINOR, "HIGH"), ("INVALID", Severity.INVALID, "READ"),
        ("DBL", Severity.NO_ALARM, ""),
    ],
)  # fmt: skip
def test_alarms_by_their_own_names(pvs: Pvs, name: str, severity: Severity, message: str) -> None:
    reading = pvs.get(name)
    assert (reading.severity, reading.message) == (severity, message)


def test_nan_is_read_as_it_is(pvs: Pvs) -> None:
    assert math.isnan(pvs.get("NAN").value)


def test_access_rights_are_known_before_a_put(pvs: Pvs) -> None:
    assert (pvs.get("ASG").writable, pvs.get("DBL").writable) == (False, True)


def test_two_hundred_at_once(pvs: Pvs) -> None:
    names = [f"{kind}_{i:03d}" for kind in ("SP", "RB") for i in range(100)]
    pvs.gets(*names)
    with Timer() as timer:
        answers = pvs.gets(*names)
    assert all(isinstance(answer, Reading) for answer in answers.values())
    assert timer.seconds < AT_ONCE * pace()


def test_one_dead_pv_costs_the_same_as_fifty(pvs: Pvs) -> None:
    for count in (1, 50):
        dead = [f"NOBODY{i}" for i in range(count)]
        with Timer() as timer:
            answers = pvs.gets("DBL", *dead, "INT", timeout=0.7)
        assert 0.69 < timer.seconds < 0.7 + AT_ONCE * pace()
        assert isinstance(answers["DBL"], Reading) and isinstance(answers["INT"], Reading)
        assert all(type(answers[name]) is PvNotConnected for name in dead)


def test_the_same_pv_under_two_names_answers_to_both(pvs: Pvs) -> None:
    plain, schemed = PvAddress.parse(pvs.ioc.pv("DBL")), pvs.at("DBL")
    answers = pvs.backend.get_many([plain, schemed], Deadline(3))
    assert {address: getattr(answer, "value", answer) for address, answer in answers.items()} == {
        plain: 1.5,
        schemed: 1.5,
    }


def test_a_name_that_cannot_be_asked_for_is_an_answer(pvs: Pvs) -> None:
    long = "X:" + "Y" * 80
    answer = pvs.gets(long)[long]
    assert type(answer) is PvNotConnected and "limit" in answer.message
    assert pvs.put(long, 1.0)[0] is Outcome.NOT_SENT
    got: list[Update] = []
    pvs.monitor(long, got)
    eventually(lambda: values(got) == [PvNotConnected])
