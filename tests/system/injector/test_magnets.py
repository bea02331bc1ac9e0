"""The magnets of the virtual injector: supplies that ramp, clip, are slow, stick and trip."""

from __future__ import annotations

import time

import pytest

from examples.virtual_injector.lattice import START

from .machine import Machine, plain, stamp


def test_a_magnet_ramps_and_says_so(machine: Machine) -> None:
    machine.put("QUAD:1:RATE", 0.4)
    with machine.updates("QUAD:1:STATMSG") as status, machine.updates("QUAD:1:BACT") as readback:
        machine.put("QUAD:1:BCTRL", -0.2)
        machine.arrive("QUAD:1", -0.2)
        said, fields = status.values(3), [value.value for value in readback.values(1)]
    assert [plain(value) for value in said[-3:]] == ["Ready", "Ramping", "Ready"]
    assert stamp(said[-1]) - stamp(said[-2]) > 0.6  # of 0.75 s
    between = [field for field in fields if -0.19 < field < 0.09]
    assert len(between) >= 2 and between == sorted(between, reverse=True)


def test_one_supply_clips_and_only_the_readback_tells(machine: Machine) -> None:
    from p4p.client.thread import RemoteError

    machine.put("QUAD:5:BCTRL", 0.9)
    machine.arrive("QUAD:5", 0.3)
    assert machine.get("QUAD:5:BCTRL") == 0.4  # the record's own limit
    with pytest.raises(RemoteError, match="not permitted"):
        machine.put("QUAD:5:BCTRL", float("nan"))
    assert machine.get("QUAD:5:BCTRL") == 0.4


def test_one_supply_is_slow(machine: Machine) -> None:
    took = {}
    for name in ("QUAD:4", "QUAD:6"):
        with machine.updates(f"{name}:STATMSG") as updates:
            machine.put(f"{name}:BCTRL", START[name] + 0.06)
            said = updates.values(3)
        assert [plain(value) for value in said] == ["Ready", "Ramping", "Ready"]
        took[name] = stamp(said[2]) - stamp(said[1])
    assert took["QUAD:6"] > 1.0 > took["QUAD:4"]


def test_a_stuck_supply_says_ramping_for_ever(machine: Machine) -> None:
    machine.put("QUAD:3:STICK", 1)
    machine.put("QUAD:3:BCTRL", -0.2)
    machine.until("QUAD:3:STATMSG", "Ramping")
    time.sleep(0.5)  # the way takes 0.2 s
    assert machine.get("QUAD:3:STATMSG") == "Ramping"
    assert machine.get("QUAD:3:BACT") == pytest.approx(START["QUAD:3"], abs=1e-3)
    machine.put("QUAD:3:STICK", 0)
    machine.arrive("QUAD:3", -0.2)


def test_a_tripped_supply_says_fault_and_comes_back(machine: Machine) -> None:
    machine.put("QUAD:4:FAULT", 1)
    machine.until("QUAD:4:STATMSG", "Fault")
    assert machine.severity("QUAD:4:STATMSG") == 2
    machine.until("QUAD:4:BACT", pytest.approx(0.0, abs=1e-3))
    machine.put("QUAD:4:FAULT", 0)
    machine.arrive("QUAD:4", START["QUAD:4"])


def test_hysteresis_makes_the_side_matter(machine: Machine) -> None:
    machine.put("SIM:NOISE", 0.0)
    machine.put("SIM:HYST", 1)
    sizes = []
    for side in (0.2, 0.6, 0.2):
        machine.set("QUAD:2", side)
        machine.set("QUAD:2", 0.4)
        sizes.append(machine.fresh("OTRS:1:XRMS"))
    assert sizes[0] == pytest.approx(sizes[2], rel=1e-6)
    assert abs(sizes[1] / sizes[0] - 1) > 0.01
