"""P8, P9: one setpoint that can be known to be bad, and nothing at all is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from badger_k2eg.control.validators import wait_for_readback, within
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Fields, Outcome, PvAddress
from badger_k2eg.errors import PutMismatch, PutRefused, ReadError, SetError, SetpointBlocked

from .machine import Machine, Recorder, Running


@dataclass(frozen=True)
class Bad:
    """A setpoint that must be blocked, and a word of the reason."""

    id: str
    pv: str
    value: Any
    reason: str
    needs: tuple[str, ...] = ()


BAD = [
    Bad("nan", "FREE", math.nan, "nan"),
    Bad("nan of numpy", "FREE", np.float32("nan"), "nan"),
    Bad("infinite", "FREE", -math.inf, "inf"),
    Bad("above the drive limit", "DBL", 5.0001, "drive limits"),
    Bad("below the drive limit", "DBL", -99, "drive limits"),
    Bad("integer out of limits", "INT", 101, "drive limits"),
    Bad("text for a number", "FREE", "2.5", "not a number"),
    Bad("number for a text", "STR", 2.5, "not a text"),
    Bad("none", "FREE", None, "None"),
    Bad("complex", "FREE", 1j, "not a number"),
    Bad("mapping for a number", "FREE", {"value": 1.0}, "float"),
    Bad("fields out of limits", "DBL", Fields({"value": 99.0}), "limits"),
    Bad("fields of nan", "FREE", Fields({"value": math.nan}), "nan"),
    Bad("integer too large for a double", "FREE", 2**53 + 1, "exactly"),
    Bad("integer of any size", "FREE", 10**400, "exactly"),
    Bad("fraction to an integer", "INTFREE", 3.7, "whole number"),
    Bad("nan to an integer", "INTFREE", math.nan, "nan"),
    Bad("integer too wide", "INTFREE", 2**31, "int32", ("sizes",)),
    Bad("array for a number", "FREE", [1.0], "array"),
    Bad("0-d array of nan", "FREE", np.array(math.nan), "nan"),
    Bad("number for an array", "WF", 1.0, "array"),
    Bad("text for an array", "WF", "abc", "array"),
    Bad("array of two dimensions", "WF", np.zeros((2, 2)), "one-dimensional"),
    Bad("ragged list", "WF", [[1.0], [2.0, 3.0]], "element 0"),
    Bad("nan in an array", "WF", [1.0, math.nan], "element 1"),
    Bad("infinity in an array of numpy", "WF", np.array([1.0, math.inf]), "infinity"),
    Bad("text in an array", "WF", [1.0, "x"], "element 1"),
    Bad("none in an array", "WF", [None], "element 0"),
    Bad("fraction in an integer array", "IWF", np.array([1.0, 2.5]), "element 1"),
    Bad("too wide for an integer array", "IWF", [2**31], "int32", ("sizes",)),
    Bad("too large for a float32 array", "F32WF", [1e39], "float32", ("sizes",)),
    Bad("too long an array", "WF", [0.0] * 9, "too long", ("sizes",)),
    Bad("too long an array of numpy", "WF", np.zeros(9), "too long", ("sizes",)),
    Bad("too many texts", "SWF", ["x"] * 5, "too long", ("sizes",)),
    Bad("too long a text in an array", "SWF", ["x" * 40], "too long", ("sizes",)),
    Bad("number in a text array", "SWF", ["x", 1], "element 1"),
    Bad("too long a text", "STR", "x" * 40, "too long", ("sizes",)),
    Bad("too long a text in bytes", "STR", "ä" * 20, "too long", ("sizes",)),
    Bad("too long a long text", "LSTR", "x" * 256, "too long", ("long texts", "sizes")),
    Bad("a text with a NUL", "STR", "a\0b", "NUL"),
    Bad("a text that is no text", "STR", "\udce9", "text"),
    Bad("enum index too large", "ENUM", 3, "index"),
    Bad("enum index negative", "ENUM", -1, "index"),
    Bad("enum index with a fraction", "ENUM", 1.5, "index"),
    Bad("enum nan", "ENUM", math.nan, "index"),
    Bad("enum label unknown", "ENUM", "On", "choices"),
    Bad("enum array", "ENUM", [1], "array"),
    Bad("bool record label unknown", "BOOL", "ajar", "choices"),
    Bad("unsigned too large", "U8", 256, "uint8", ("structures", "sizes")),
    Bad("unsigned negative", "U8", -1, "uint8", ("structures", "sizes")),
    Bad("int64 too large", "I64", 2**63, "int64", ("structures",)),
    Bad("float32 too large", "FLOAT32", 1e39, "float32", ("structures", "sizes")),
    Bad("bool of two", "FLAG", 2, "neither", ("structures",)),
    Bad("bool of text", "FLAG", "true", "not a number", ("structures",)),
    Bad("table of a number", "TABLE", 1.0, "table", ("structures",)),
    Bad("table empty", "TABLE", {}, "table", ("structures",)),
    Bad("table with uneven columns", "TABLE", {"a": [1.0], "b": ["x", "y"]}, "lengths", ("structures",)),
    Bad("table with nan", "TABLE", {"a": [1.0, math.nan, 2.0]}, "NaN", ("structures",)),
    Bad("table with a ragged column", "TABLE", {"a": [[1.0], [2.0, 3.0], []]}, "'a'", ("structures",)),
    Bad("ragged list for a number", "FREE", [[1.0], [2.0, 3.0]], "array"),
    Bad("table with a column it has not", "TABLE", {"c": [1.0, 2.0, 3.0]}, "column", ("structures",)),
    Bad("table with texts for numbers", "TABLE", {"a": ["x", "y", "z"]}, "'a'", ("structures",)),
    Bad("table with numbers for texts", "TABLE", {"b": [1.0, 2.0, 3.0]}, "'b'", ("structures",)),
    Bad("table with one column shorter than the rest", "TABLE", {"a": [1.0]}, "lengths", ("structures",)),
    Bad("access denied", "ASG", 2.0, "denied", ("rights",)),
]


def not_touched(machine: Machine, names: tuple[str, ...], call: Callable[[], Any]) -> SetpointBlocked:
    """Make the call; it must be blocked, and every PV must hold what it held before."""
    before = {name: machine.look(name) for name in names}
    with pytest.raises(SetpointBlocked) as caught:
        call()
    assert {name: machine.look(name) for name in names} == before
    error = caught.value
    assert {result.outcome for result in error.report.results} == {Outcome.BLOCKED}
    assert all(result.attempts == 0 for result in error.report.results)
    return error


@pytest.mark.parametrize("bad", [pytest.param(b, id=b.id, marks=pytest.mark.needs(*b.needs)) for b in BAD])
def test_one_bad_setpoint_and_nothing_is_set(machine: Machine, bad: Bad) -> None:
    # The good one first: put one by one, it would be sent before the bad one is come to.
    good = machine.pv("SP:000")
    control = machine.control()
    error = not_touched(machine, ("SP:000", bad.pv), lambda: control.set({good: 1.25, machine.pv(bad.pv): bad.value}))
    text = str(error)
    assert machine.pv(bad.pv) in text and bad.reason in text, text
    assert error.report[good].message.startswith("not sent, because another setpoint")


def test_an_unknown_pv_and_nothing_is_set(machine: Machine) -> None:
    good = machine.pv("SP:000")
    control = machine.control(timeout=0.5)
    nobody = machine.pv("NOBODY")
    error = not_touched(machine, ("SP:000",), lambda: control.set({good: 1.25, nobody: 1.0}))
    assert nobody in str(error) and "0.5 s" in str(error)


@pytest.mark.parametrize(
    "name",
    ["", " ", "A B", "QUAD,1", "$(P)QUAD", "http://X", "PVA://X", "pva://", "pva://pva://X", "X*", "a\nb", 5],
    ids=repr,
)
def test_a_malformed_name_and_nothing_is_sent(machine: Machine, name: Any) -> None:
    good, recorder = machine.pv("SP:000"), Recorder()
    # So long that a test which waited for such a name would fail.
    control = machine.control(sink=recorder, timeout=600.0)
    error = not_touched(machine, ("SP:000",), lambda: control.set({good: 1.25, name: 1.0}))
    assert repr(name)[1:-1].strip() in str(error) or str(name) in str(error)
    assert not recorder.attempts
    with pytest.raises(ReadError) as unread:
        control.get([good, name])
    assert list(unread.value.partial) == [good] and list(unread.value.errors) == [name]


@pytest.mark.parametrize("twice", ["{0}", "pva://{0}", "{0}.VAL", "ca://{0}.VAL"])
def test_the_same_pv_by_two_names_and_nothing_is_set(machine: Machine, twice: str) -> None:
    good, other = machine.pv("FREE"), twice.format(machine.pv("DBL"))
    if twice == "{0}":
        other = "pva://" + machine.pv("DBL")
    control = machine.control()
    values = {good: 1.25, machine.pv("DBL"): 1.0, other: 2.0}
    error = not_touched(machine, ("FREE", "DBL"), lambda: control.set(values))
    assert "the same PV" in str(error) and other in str(error)


@pytest.mark.parametrize(
    "validator",
    [
        within("{gone}", tolerance=0.1),
        partial(within, "{gone}", tolerance=0.1),
        partial(wait_for_readback, readback_pv="{gone}", tolerance=0.1, count_down=5.0),
    ],
    ids=["within", "partial of within", "wait_for_readback"],
)
def test_a_readback_that_nobody_serves_and_nothing_is_set(machine: Machine, validator: Any) -> None:
    good, pv, gone = machine.pv("SP:000"), machine.pv("SP:001"), machine.pv("NOBODY")
    if isinstance(validator, partial):
        named = {k: gone if v == "{gone}" else v for k, v in validator.keywords.items()}
        validator = partial(validator.func, *[gone for _ in validator.args], **named)
    else:
        validator = replace(validator, readback_pv=gone)
    control = machine.control(timeout=0.3)
    error = not_touched(machine, ("SP:000", "SP:001"), lambda: control.set({good: 1.0, pv: 1.0}, {pv: validator}))
    assert gone in str(error) and pv in str(error) and "readback" in str(error)


@pytest.mark.parametrize(
    ("validator", "reason"),
    [
        (lambda set_pv, set_value, timeout: None, "context"),
        (lambda: None, "set_pv"),
        (lambda set_pv, set_value, context, timeout, more: None, "more"),
        (partial(wait_for_readback, readback_pv="RB", tolerance=0.1), "count_down"),
        (partial(wait_for_readback, readback_pv="RB", count_down=1), "tolerance"),
        (partial(wait_for_readback, readback_pv="RB", tolerance=0.1, count_down=1, tolerence=3), "tolerence"),
        (partial(wait_for_readback, readback_pv="RB", tolerance=-1.0, count_down=1), "tolerance"),
        (partial(wait_for_readback, readback_pv="RB", tolerance=math.nan, count_down=1), "tolerance"),
        (partial(wait_for_readback, readback_pv="RB", tolerance=0.1, count_down=0), "timeout"),
        (partial(wait_for_readback, readback_pv="R B", tolerance=0.1, count_down=1), "malformed"),
        (partial(wait_for_readback, readback_pv=5, tolerance=0.1, count_down=1), "5"),
        (5, "validator"),
        ("RB", "validator"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_validator_that_cannot_be_called_and_nothing_is_set(machine: Machine, validator: Any, reason: str) -> None:
    good, pv = machine.pvs("SP:000", "SP:001")
    control = machine.control()
    error = not_touched(machine, ("SP:000", "SP:001"), lambda: control.set({good: 1.0, pv: 1.0}, {pv: validator}))
    assert pv in str(error) and reason in str(error)


def test_a_tolerance_needs_a_number_and_nothing_is_set(machine: Machine) -> None:
    good, pv, readback = machine.pvs("SP:000", "STR", "RB:000")
    control = machine.control()
    validator = within(readback, tolerance=0.1)
    error = not_touched(machine, ("SP:000", "STR"), lambda: control.set({good: 1.0, pv: "on"}, {pv: validator}))
    assert pv in str(error) and "number" in str(error)


def test_every_bad_one_is_named(machine: Machine) -> None:
    pvs = machine.pvs("DBL", "FREE", "INTFREE", "ENUM", "STR")
    control = machine.control()
    values = dict(zip(pvs, [99.0, 2.0, 3.7, "On", 5], strict=True))
    error = not_touched(machine, ("DBL", "FREE", "INTFREE", "ENUM", "STR"), lambda: control.set(values))
    bad = [pv for pv in pvs if pv != pvs[1]]
    assert [line.split(" = ")[0] for line in str(error).splitlines()[1:]] == bad


class Closed:
    """A gate that keeps one PV."""

    def __init__(self, *kept: str) -> None:
        self.kept, self.held = kept, 0

    @contextmanager
    def writing(self, addresses: Sequence[PvAddress]) -> Iterator[dict[PvAddress, str]]:
        self.held += 1
        try:
            yield {address: "locked by somebody" for address in addresses if address.text in self.kept}
        finally:
            self.held -= 1


def test_a_lock_held_by_others_and_nothing_is_set(machine: Machine) -> None:
    good, kept = machine.pvs("SP:000", "SP:001")
    gate = Closed(kept)
    control = machine.control(gate=gate)
    error = not_touched(machine, ("SP:000", "SP:001"), lambda: control.set({good: 1.0, kept: 1.0}))
    assert "locked by somebody" in str(error) and kept in str(error)
    assert gate.held == 0
    assert control.set({good: 1.0}).ok


@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
@pytest.mark.parametrize("name", ["DISP", "VALID"])
def test_what_the_server_refuses_afterwards_is_reported_with_what_was_written(
    machine: Machine, name: str, parallel: bool
) -> None:
    first, refused, last = machine.pvs("SP:000", name, "SP:001")
    control = machine.control(parallel=parallel)
    with pytest.raises(PutRefused) as caught:
        control.set({first: 1.25, refused: 3.0, last: 2.5})
    outcomes = {result.pv: result.outcome for result in caught.value.report.results}
    after = Outcome.APPLIED if parallel else Outcome.NOT_SENT
    assert outcomes == {first: Outcome.APPLIED, refused: Outcome.REFUSED, last: after}
    assert all(pv in str(caught.value) for pv in (first, refused, last))
    assert (machine.look("SP:000"), machine.look(name)) == (1.25, 1.0)
    assert machine.look("SP:001") == (2.5 if parallel else 0.0)


@pytest.mark.needs("completion")
def test_a_put_refused_under_put_completion_is_not_called_applied(machine: Machine) -> None:
    pv, readback = machine.pvs("VALID", "STATIC")
    # With put completion the IOC itself reports success. A validator that looks elsewhere makes it no truer.
    ways = ({}, {pv: within(readback, tolerance=100.0)}, {pv: lambda **words: None})
    calls = [Running(partial(machine.control(wait=[pv]).set, {pv: 3.0}, validators)) for validators in ways]
    for call in calls:
        with pytest.raises(SetError) as caught:
            call.result()
        assert caught.value.report[pv].outcome in (Outcome.REFUSED, Outcome.UNKNOWN)
    assert machine.look("VALID") == 1.0


@pytest.mark.needs("silent clip")
def test_a_silent_clip_is_never_a_success_validated_or_not(machine: Machine) -> None:
    pv, elsewhere = machine.pv("CLAMP"), machine.pv("STATIC")
    control = machine.control()
    ways = ({}, {pv: within(elsewhere, tolerance=1000.0)})
    for call in [Running(partial(control.set, {pv: 99.0}, validators)) for validators in ways]:
        with pytest.raises(PutMismatch, match=r"it reads 5\.0") as caught:
            call.result()
        assert not caught.value.report.ok and caught.value.report[pv].outcome is Outcome.UNKNOWN
    assert all(control.set({pv: 4.0}, validators).ok for validators in ways)


def test_a_retry_of_a_call_that_was_blocked_is_blocked_again(machine: Machine) -> None:
    """The same vector once more, with values that do not compare as one truth value."""
    good, pv = machine.pvs("SP:000", "WF")
    control = machine.control()
    for _ in range(2):
        values = {good: 1.0, pv: [np.array([1.0, 2.0]), np.array([3.0, 4.0])]}
        not_touched(machine, ("SP:000", "WF"), partial(control.set, values))


def test_a_call_without_any_time_left_sends_nothing(machine: Machine) -> None:
    good, pv = machine.pvs("SP:000", "FREE")
    control = machine.control()
    before = machine.look("FREE")
    with pytest.raises(SetError) as caught:
        control.set({good: 1.0, pv: 2.5}, deadline=Deadline(0.0))
    assert all(result.outcome in (Outcome.BLOCKED, Outcome.NOT_SENT) for result in caught.value.report.results)
    assert (machine.look("SP:000"), machine.look("FREE")) == (0.0, before)
