"""P9, P10, P2: every kind of value goes in and comes out as it is, and read-only changes nothing."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from badger_k2eg.control.validators import within
from badger_k2eg.core.model import Kind, Outcome, Severity
from badger_k2eg.errors import SetpointBlocked
from tests.rig.waiting import eventually

from .machine import INITIAL, Machine, Recorder


@dataclass(frozen=True)
class Good:
    """A value to put, and what must come out: value and builtin type."""

    id: str
    pv: str
    value: Any
    read: Any
    needs: tuple[str, ...] = ()


GOOD = [
    Good("float", "DBL", -2.25, -2.25),
    Good("float at the upper limit", "DBL", 5.0, 5.0),
    Good("float at the lower limit", "DBL", -5, -5.0),
    Good("float that no decimal tells", "FREE", 0.1 + 0.2, 0.1 + 0.2),
    Good("tiny", "FREE", 5e-324, 5e-324),
    Good("huge", "FREE", -1.7e308, -1.7e308),
    Good("integer to a float", "FREE", 3, 3.0),
    Good("numpy float64", "FREE", np.float64(2.5), 2.5),
    Good("numpy float32", "FREE", np.float32(0.1), float(np.float32(0.1))),
    Good("numpy int", "FREE", np.int16(7), 7.0),
    Good("0-d array", "FREE", np.array(2.5), 2.5),
    Good("0-d integer array", "INTFREE", np.array(9), 9),
    Good("bool to a float", "FREE", True, 1.0),
    Good("integer", "INT", -7, -7),
    Good("integer from a whole float", "INTFREE", 12345.0, 12345),
    Good("smallest integer", "INTFREE", -(2**31), -(2**31)),
    Good("numpy int64 to int32", "INTFREE", np.int64(-5), -5),
    Good("text", "STR", "bye", "bye"),
    Good("text that just fits", "STR", "y" * 39, "y" * 39),
    Good("text beyond ascii", "STR", "\N{MICRO SIGN}m", "\N{MICRO SIGN}m"),
    Good("long text", "LSTR", "y" * 255, "y" * 255, ("long texts",)),
    Good("empty text", "STR", "", ""),
    Good("numpy text", "STR", np.str_("np"), "np"),
    Good("enum by index", "ENUM", 2, 2),
    Good("enum by label", "ENUM", "auto", 2),
    Good("enum by numpy index", "ENUM", np.int8(0), 0),
    Good("enum by whole float", "ENUM", 2.0, 2),
    Good("two-state record by label", "BOOL", "closed", 0),
    Good("two-state record by bool", "BOOL", False, 0),
    Good("array from a list", "WF", [1.0, 2.0], [1.0, 2.0]),
    Good("array from integers", "WF", [1, 2], [1.0, 2.0]),
    Good("array from a tuple", "WF", (0.5,), [0.5]),
    Good("array as long as it goes", "WF", np.arange(8.0), [float(i) for i in range(8)]),
    Good("array of float32", "WF", np.array([0.1], "f4"), [float(np.float32(0.1))]),
    Good("array of int8", "WF", np.array([1, -1], "i1"), [1.0, -1.0]),
    Good("array that is a view", "WF", np.arange(8.0)[::-2], [7.0, 5.0, 3.0, 1.0]),
    Good("array of another byte order", "WF", np.array([1.5, 2.5], ">f8"), [1.5, 2.5]),
    Good("integer array", "IWF", [5, 6, 7, 8], [5, 6, 7, 8]),
    Good("integer array from whole floats", "IWF", np.array([1.0, -2.0]), [1, -2]),
    Good("float32 array", "F32WF", [0.25, 3.0], [0.25, 3.0]),
    Good("array of texts", "SWF", ["a", "", "c"], ["a", "", "c"]),
    Good("array of numpy texts", "SWF", np.array(["x", "yy"]), ["x", "yy"]),
    Good("bool", "FLAG", True, True, ("structures",)),
    Good("bool from one", "FLAG", 1, True, ("structures",)),
    Good("numpy bool", "FLAG", np.bool_(True), True, ("structures",)),
    Good("int64 beyond a double", "I64", 2**53 + 3, 2**53 + 3, ("structures",)),
    Good("largest int64", "I64", 2**63 - 1, 2**63 - 1, ("structures",)),
    Good("uint8", "U8", 255, 255, ("structures",)),
    Good("float32", "FLOAT32", 0.25, 0.25, ("structures",)),
    Good("long text where nothing limits it", "TEXT", "z" * 500, "z" * 500, ("structures",)),
    Good("array where nothing limits it", "ARR", [0.5] * 100, [0.5] * 100, ("structures",)),
    Good(
        "table",
        "TABLE",
        {"a": [4.0, 5.0], "b": ["four", "five"]},
        {"a": [4.0, 5.0], "b": ["four", "five"]},
        ("structures",),
    ),
    Good(
        "one column of a table",
        "TABLE",
        {"a": np.array([7, 8, 9])},
        {"a": [7.0, 8.0, 9.0], "b": ["one", "two", "three"]},
        ("structures",),
    ),
]


def types_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    return [type(item) for item in value] if type(value) is list else type(value)


@pytest.mark.parametrize("good", [pytest.param(g, id=g.id, marks=pytest.mark.needs(*g.needs)) for g in GOOD])
def test_what_is_put_is_what_is_read(machine: Machine, good: Good) -> None:
    pv = machine.pv(good.pv)
    control = machine.control()
    report = control.set({pv: good.value})
    assert list(report) == [pv] and report[pv].outcome is Outcome.APPLIED
    assert machine.look(good.pv) == good.read
    values = control.get([pv])
    assert values == {pv: good.read}
    assert types_of(values[pv]) == types_of(good.read)


def test_the_key_given_is_the_key_returned(machine: Machine) -> None:
    name = machine.pv("DBL")
    long = f"{'ca' if machine.name == 'ca' else 'pva'}://{name}"
    control = machine.control()
    assert list(control.get([long, name])) == [long, name]
    assert control.get([long, name, long]) == {long: 1.5, name: 1.5}
    assert list(control.set({long: 2.5})) == [long]
    assert list(control.read([name])) == [name]


def test_values_of_all_kinds_in_one_call(machine: Machine) -> None:
    names = ["WF", "DBL", "ENUM", "STR", "INT", "SWF"]
    control = machine.control()
    wanted = dict(zip(machine.pvs(*names), [[9.0], -1.0, 0, "all", 5, ["x"]], strict=True))
    report = control.set(dict(wanted))
    assert list(report) == list(wanted)
    assert control.get(reversed(list(wanted))) == dict(reversed(wanted.items()))


def test_nothing_to_set_and_nothing_to_read(machine: Machine) -> None:
    control = machine.control()
    assert dict(control.set({})) == {} == control.get([])


def test_a_reading_tells_all_of_a_pv(machine: Machine) -> None:
    dbl, enum, integer = machine.pvs("DBL", "ENUM", "INT")
    readings = machine.control().read([dbl, enum, integer])
    assert (readings[dbl].units, readings[dbl].precision) == ("mm", 3)
    assert (readings[dbl].limits.low, readings[dbl].limits.high) == (-5.0, 5.0)
    assert (readings[enum].type.kind, readings[enum].choices) == (Kind.ENUM, ("off", "on", "auto"))
    assert readings[enum].label == "on" and readings[enum].equals("on") and readings[enum].equals(1)
    assert readings[integer].type.kind is Kind.INT
    assert readings[integer].type.bits == 32 or not machine.has("sizes")
    assert all(reading.severity is Severity.NO_ALARM for reading in readings.values())
    assert all(reading.timestamp_ns > 1_000_000_000 * 10**9 for reading in readings.values())


def test_the_arrays_are_the_readers_own(machine: Machine) -> None:
    pv = machine.pv("WF")
    control = machine.control()
    mine = np.array([1.0, 2.0])
    control.set({pv: mine})
    mine[0] = 99.0
    first = control.read([pv])[pv].value
    first[1] = 99.0
    assert control.get([pv]) == {pv: [1.0, 2.0]}
    assert machine.look("WF") == [1.0, 2.0]


# -- P9 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validated", [False, True], ids=["bare", "validated"])
def test_a_record_that_would_clip_is_not_asked_to(machine: Machine, validated: bool) -> None:
    pv, readback = machine.pvs("DBL", "STATIC")
    control = machine.control()
    with pytest.raises(SetpointBlocked, match="99 is outside its drive limits, -5 to 5 mm"):
        control.set({pv: 99.0}, {pv: within(readback, tolerance=1000.0)} if validated else None)
    assert machine.look("DBL") == 1.5


# -- P2 -----------------------------------------------------------------------------------------------------------


def test_read_only_sets_nothing_and_says_what_it_would_have(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    fast, enum, text = machine.pvs("SP:000", "ENUM", "STR")
    recorder, called = Recorder(), []
    control = machine.control(read_only=True, sink=recorder)
    with caplog.at_level(logging.INFO, "badger_k2eg"):
        report = control.set(
            {fast: np.float64(2.5), enum: "auto", text: "bye"}, {fast: lambda **words: called.append(words)}
        )
    (record,) = [each for each in caplog.records if each.levelno == logging.INFO]
    assert record.name == "badger_k2eg"
    assert all(word in record.getMessage() for word in (f"{fast} = 2.5", enum, text, "'bye'"))
    assert [result.outcome for result in report.results] == [Outcome.SKIPPED] * 3
    assert report.ok and not called and not recorder.attempts and len(recorder.reports) == 1
    assert [machine.look(name) for name in ("SP:000", "ENUM", "STR")] == [0.0, 1, "hello"]


def test_read_only_still_guards(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = machine.pvs("SP:000", "DBL")
    control = machine.control(read_only=True)
    with caplog.at_level(logging.INFO, "badger_k2eg"), pytest.raises(SetpointBlocked, match="drive limits"):
        control.set({good: 1.0, bad: 99.0})
    assert not caplog.records
    assert (machine.look("SP:000"), machine.look("DBL")) == (0.0, 1.5)


def test_read_only_reads_live_and_starts_no_validator(machine: Machine) -> None:
    pv, gone = machine.pvs("FREE", "NOBODY")
    control = machine.control(read_only=True, timeout=600.0)
    assert control.get([pv]) == {pv: INITIAL["FREE"]}
    # A readback that nobody serves would take the ten minutes.
    assert control.set({pv: 2.0}, {pv: within(gone, tolerance=0.1)}).ok
    machine.move("FREE", 4.5)
    eventually(lambda: control.get([pv]), {pv: 4.5})


def test_a_context_of_a_read_only_control_writes_nothing(machine: Machine) -> None:
    pv = machine.pv("FREE")
    control = machine.control(read_only=True)
    control.context.put(pv, 2.0)
    assert machine.look("FREE") == INITIAL["FREE"]


def test_nan_is_still_what_a_record_may_hold(machine: Machine) -> None:
    """The guard keeps NaN out; what somebody else wrote is no reading, but can be set away."""
    pv = machine.pv("FREE")
    control = machine.control()
    machine.move("FREE", math.nan)
    assert control.set({pv: 2.0}).ok
    assert machine.look("FREE") == 2.0
