"""V1, V2: a reading over every transport knows its unit; a quantity is set in the PV's own unit, or refused."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from badger_k2eg.control.validators import within
from badger_k2eg.core.model import Limits, Outcome, Reading, Severity
from badger_k2eg.core.units import Quantity, unit
from badger_k2eg.errors import SetpointBlocked

from .machine import Machine


def test_what_a_reading_knows(machine: Machine) -> None:
    pv, minor = machine.pvs("DBL", "MINOR")
    readings = machine.control(reject_severity="invalid").read([pv, minor])
    reading = readings[pv]
    assert reading.units == "mm" and reading.quantity == 1.5 * unit.millimeter
    assert reading.limits == Limits(-5.0, 5.0) and readings[minor].severity is Severity.MINOR
    assert reading.timestamp_ns is not None and abs(reading.timestamp_ns - time.time_ns()) < 86400 * 365 * 10**9
    assert (2 * reading + 1 * unit.meter).quantity.to("mm").magnitude == pytest.approx(1003.0)
    assert (reading + reading).timestamp_ns == reading.timestamp_ns


@pytest.mark.parametrize(
    ("quantity", "value"),
    [(Quantity(2500, "um"), 2.5), (2 * unit.mm, 2.0), (Quantity(-0.004, "m"), -4.0), (Reading(1.0, units="mm"), 1.0)],
    ids=str,
)
def test_a_quantity_is_set_in_the_pvs_unit(machine: Machine, quantity: Any, value: float) -> None:
    pv = machine.pv("DBL")
    report = machine.control().set({pv: quantity})
    assert report[pv].asked == pytest.approx(value) and type(report[pv].asked) in (int, float)
    assert machine.look("DBL") == pytest.approx(value)


@pytest.mark.parametrize("quantity", [3 * unit.ampere, 3 * unit("kG/m"), Quantity(1.0)], ids=str)
def test_a_wrong_dimension_is_refused_and_nothing_is_sent(machine: Machine, quantity: Any) -> None:
    pv, other = machine.pvs("DBL", "SP:000")
    control = machine.control(parallel=True)
    with pytest.raises(SetpointBlocked, match="its unit is mm") as caught:
        control.set({other: 1.0, pv: quantity})
    assert {result.outcome for result in caught.value.report.results} == {Outcome.BLOCKED}  # type: ignore[union-attr]
    assert "\n" not in str(caught.value).partition("nothing was set:\n")[2]
    assert machine.look("DBL") == 1.5 and machine.look("SP:000") == 0.0


def test_limits_are_judged_in_the_pvs_unit(machine: Machine) -> None:
    pv = machine.pv("DBL")
    with pytest.raises(SetpointBlocked, match="5.001 is outside its drive limits"):
        machine.control().set({pv: Quantity(5001, "um")})


def test_a_pv_without_a_unit_takes_plain_numbers_alone(machine: Machine) -> None:
    setpoint, readback = machine.pvs("SP:000", "RB:000")
    control = machine.control()
    with pytest.raises(SetpointBlocked, match="it has no unit"):
        control.set({setpoint: 3 * unit.ampere})
    arrived = control.set({setpoint: Quantity(3.0)}, {setpoint: within(readback, tolerance=0.01)})
    assert arrived[setpoint].arrived == 3.0


def test_a_validator_judges_in_the_pvs_unit(machine: Machine) -> None:
    """Ours, and anybody's: what they get is the number in the PV's own unit."""
    pv = machine.pv("DBL")
    control = machine.control()
    asked: list[Any] = []
    report = control.set({pv: Quantity(2500, "um")}, {pv: within(pv, tolerance=0.001)})
    assert report[pv].arrived == pytest.approx(2.5)
    control.set({pv: 3000 * unit.um}, {pv: lambda set_value, **_: asked.append(set_value)})
    assert asked == [pytest.approx(3.0)] and type(asked[0]) is float


def test_integers_and_arrays(machine: Machine) -> None:
    count, wave = machine.pvs("INT", "WF")
    control = machine.control()
    assert control.set({count: Quantity(12, "counts"), wave: Quantity(np.array([1.0, 2.0]))}).ok
    assert machine.look("INT") == 12 and machine.look("WF") == [1.0, 2.0]
    with pytest.raises(SetpointBlocked, match="not a whole number"):
        control.set({count: Quantity(1.5, "counts")})
