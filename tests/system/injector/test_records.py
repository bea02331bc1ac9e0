"""The PVs of the virtual injector: names, units, limits and alarms, and that they show the physics."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from examples.virtual_injector.lattice import BEST_SOLENOID, START, propagate
from tests.rig.waiting import eventually

from .machine import PATIENCE, Machine

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "virtual_injector"


def documented() -> list[tuple[str, str, str]]:
    """Name, kind and unit of every PV in the README's table."""
    found = []
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            for pattern in re.findall(r"`([^`]+)`", cells[0]):
                numbers = re.search(r"\[(\d)-(\d)\]", pattern)
                each = range(int(numbers[1]), int(numbers[2]) + 1) if numbers else [0]
                found += [(re.sub(r"\[.*\]", str(n), pattern), cells[1], cells[2]) for n in each]
    return found


def test_every_pv_of_the_readme_is_served_with_its_unit(machine: Machine) -> None:
    table = documented()
    assert len(table) > 70
    values = machine.context.get([machine.injector.pv(name) for name, _, _ in table], timeout=PATIENCE)
    for (name, kind, unit), value in zip(table, values, strict=True):
        if kind in ("ai", "ao", "waveform") or name.endswith("CHARGE"):
            assert value.display.units == unit, name
            assert value.display.description, name
        if kind == "ao":
            assert value.control.limitLow < value.control.limitHigh, name
        if kind == "ai" and name != "BEAM:RATE_ACT":
            alarm = value.valueAlarm
            assert np.isfinite([alarm.highAlarmLimit, alarm.lowAlarmLimit]).any(), name
        assert value.alarm.severity == 0, name


def test_units_limits_and_alarms_are_where_a_client_looks(machine: Machine) -> None:
    setpoint, readback = machine.whole("QUAD:3:BCTRL"), machine.whole("QUAD:3:BACT")
    assert (setpoint.control.limitLow, setpoint.control.limitHigh) == (-0.7, -0.1)
    assert (setpoint.display.units, setpoint.display.precision) == ("kG", 4)
    assert (readback.valueAlarm.lowWarningLimit, readback.valueAlarm.highAlarmLimit) == pytest.approx((-0.706, -0.07))
    size = machine.whole("OTRS:1:XRMS")
    assert (size.valueAlarm.highWarningLimit, size.valueAlarm.highAlarmLimit) == (2000, 4000)
    assert list(machine.whole("BEAM:RATE").value.choices)[-1] == "120 Hz"
    assert list(machine.whole("QUAD:1:STATMSG").value.choices) == ["Ready", "Ramping", "Fault"]


def test_an_alarm_limit_alarms(machine: Machine) -> None:
    assert machine.severity("BPMS:1:X") == 0
    machine.set("XCOR:1", 0.002)  # 6 mrad
    value = eventually(lambda: machine.whole("BPMS:2:X"), good=lambda value: value.value > 3.0)
    assert value.alarm.severity > 0
    value = eventually(lambda: machine.whole("TORO:2:CHARGE"), good=lambda value: value.value < 200.0)
    assert value.alarm.severity == 1


def test_the_screen_follows_the_physics(machine: Machine) -> None:
    assert {name: machine.get(f"{name}:BCTRL") for name in START} == START
    machine.put("SIM:NOISE", 0.0)
    assert (machine.fresh("OTRS:1:XRMS") * machine.fresh("OTRS:1:YRMS")) ** 0.5 == pytest.approx(792, abs=1)
    machine.set("SOL1", BEST_SOLENOID)
    machine.set("QUAD:2", 0.45)
    beam = propagate({**START, "SOL1": BEST_SOLENOID, "QUAD:2": 0.45})
    assert machine.fresh("OTRS:1:XRMS") == pytest.approx(1e6 * beam.sizes[0], rel=1e-6)
    assert machine.get("OTRS:1:EMITN") == pytest.approx(1e6 * beam.emittance, rel=1e-6)
    assert machine.get("BEAM:TRANSMISSION") == pytest.approx(beam.transmission)
    assert machine.get("BPMS:3:Y") == pytest.approx(1e3 * beam.bpms[2][1])
    image = machine.whole("OTRS:1:IMAGE")
    assert [each.size for each in image.dimension] == [100, 100] and image.value.max() > 50
