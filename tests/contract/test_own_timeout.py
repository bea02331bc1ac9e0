"""F12: a set that ends by its own ``timeout`` is a TimeoutError that tells that time, and a longer one is waited."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest

from badger_k2eg.control.validators import wait_for_readback, within
from badger_k2eg.core.model import Outcome
from badger_k2eg.errors import PutTimeout, PutUnknown, SetpointBlocked, ValidationFailed

from .machine import Machine

#: The interface's own time: no message of a call that was given less may speak of it.
INTERFACE = 30.0


def ended(machine: Machine, seconds: float, values: dict[str, Any], validators: dict[str, Any] | None = None) -> Any:
    """Set with a time of the call's own, which ends it; gives the error."""
    with pytest.raises(PutTimeout) as caught:
        machine.control(timeout=INTERFACE).set(values, validators or {}, timeout=seconds)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert f"the call's {seconds:g} s are over" in str(error)
    told = [float(number) for number in re.findall(r"(?:within|waited) ([\d.]+) s", str(error))]
    assert told and all(number <= seconds for number in told), str(error)
    return error


def test_a_pv_that_nobody_serves(machine: Machine) -> None:
    good, gone = machine.pvs("SP:000", "NOBODY")
    error = ended(machine, 0.3, {good: 1.0, gone: 1.0})
    assert str(error).startswith("nothing was set")
    assert {result.outcome for result in error.report.results} == {Outcome.NOT_SENT}
    assert {result.attempts for result in error.report.results} == {0}
    assert machine.look("SP:000") == 0.0


def test_a_readback_that_nobody_serves(machine: Machine) -> None:
    good, pv, gone = machine.pvs("SP:000", "SP:001", "NOBODY")
    error = ended(machine, 0.5, {good: 1.0, pv: 1.0}, {pv: within(gone, tolerance=0.1)})
    assert str(error).startswith("nothing was set") and gone in str(error)
    assert (machine.look("SP:000"), machine.look("SP:001")) == (0.0, 0.0)


def test_what_is_known_to_be_bad_is_blocked_though_the_time_is_over(machine: Machine) -> None:
    pv, gone = machine.pvs("FREE", "NOBODY")
    with pytest.raises(SetpointBlocked, match="nan") as caught:
        machine.control(timeout=INTERFACE).set({pv: float("nan"), gone: 1.0}, timeout=0.5)
    assert f"{INTERFACE:g} s" not in str(caught.value)


def test_without_a_time_of_its_own_it_is_blocked_as_before(machine: Machine) -> None:
    with pytest.raises(SetpointBlocked, match=r"no answer within 0\.3 s"):
        machine.control(timeout=0.3).set({machine.pv("NOBODY"): 1.0}, timeout=INTERFACE)


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "foreign"])
def test_a_machine_that_does_not_arrive(machine: Machine, foreign: bool) -> None:
    pv, readback = machine.pvs("STICK:SP", "STICK:RB")
    ours = within(readback, tolerance=0.25)
    error = ended(machine, 1.0, {pv: 2.0}, {pv: (lambda **call: ours(**call)) if foreign else ours})
    assert not isinstance(error, ValidationFailed)
    assert error.report[pv].outcome is Outcome.APPLIED and "not arrived" in error.report[pv].message
    assert machine.look("STICK:SP") == 2.0


@pytest.mark.needs("faults")
def test_a_put_that_is_not_answered(machine: Machine) -> None:
    error = ended(machine, 0.4, {machine.pv("LOST"): 2.0})
    assert isinstance(error, PutUnknown)


@pytest.mark.needs("completion")
def test_a_record_that_is_busy_for_longer(machine: Machine) -> None:
    pv = machine.pv("SLOW")
    with pytest.raises(PutUnknown) as caught:
        machine.control(timeout=INTERFACE).set_wait(pv, 3.0, timeout=0.5)
    assert "the call's 0.5 s are over" in str(caught.value) and f"{INTERFACE:g} s" not in str(caught.value)


@pytest.mark.needs("completion")
def test_a_record_that_is_busy_for_longer_than_the_interface_waits(machine: Machine) -> None:
    pv = machine.pv("SLOW")
    report = machine.control(timeout=0.4).set_wait(pv, 4.0, timeout=INTERFACE)
    assert (report[pv].outcome, report[pv].attempts) == (Outcome.APPLIED, 1)


def _by_partial(readback: str) -> Any:
    """Its count is for the whole wait; ``timeout=``, which it is called with, is for a read."""
    return partial(wait_for_readback, readback_pv=readback, tolerance=0.1, count_down=20.0)


def _foreign(readback: str) -> Any:
    ours = within(readback, tolerance=0.1)
    return lambda **call: ours(**call)


@pytest.mark.parametrize("call", ["set", "set_wait"])
@pytest.mark.parametrize(
    "make", [partial(within, tolerance=0.1), _by_partial, _foreign], ids=["ours", "old", "foreign"]
)
def test_a_longer_time_reaches_the_validators(machine: Machine, call: str, make: Any) -> None:
    pv, readback = machine.pvs("SP:000", "RB:000")
    machine.move("SETTLE", 1.5)
    control = machine.control(timeout=1.0)
    report = getattr(control, call)({pv: 2.5}, validators={pv: make(readback)}, timeout=20)
    assert report[pv].arrived == 2.5
    with pytest.raises(ValidationFailed, match=r"waited 1 s"):
        control.set({pv: 0.0}, {pv: within(readback, tolerance=0.1)})


def test_a_validators_own_time_is_its_own(machine: Machine) -> None:
    pv, readback = machine.pvs("STICK:SP", "STICK:RB")
    with pytest.raises(ValidationFailed, match=r"waited 0\.2 s"):
        machine.control().set({pv: 2.0}, {pv: within(readback, tolerance=0.25, timeout=0.2)}, timeout=INTERFACE)
