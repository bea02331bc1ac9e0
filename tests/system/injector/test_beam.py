"""The beam of the virtual injector: trips, rate, pulse ids, noise, and readings that come late.

Nothing here is timed but by the time stamps of the server, or by a bound from one side.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from examples.virtual_injector.lattice import START, propagate
from tests.rig.waiting import eventually

from .machine import Machine, stamp


def test_a_trip_takes_the_permit_and_every_reading(machine: Machine) -> None:
    machine.put("SIM:TRIP", 1)
    machine.until("BEAM:PERMIT", "TRIP")
    machine.until("BEAM:RATE_ACT", 0.0)
    assert machine.severity("BEAM:PERMIT") == 2
    for name in ("OTRS:1:XRMS", "BPMS:1:X", "GDET:1:ENRC", "TORO:1:CHARGE"):
        value = eventually(lambda name=name: machine.whole(name), good=lambda value: value.alarm.severity == 3)
        assert value.value != 0
    with machine.updates("OTRS:1:XRMS") as sizes, machine.updates("TORO:1:CHARGE") as charges:
        time.sleep(0.5)
        assert (len(sizes.values(1)), len(charges.values(1))) == (1, 1)  # what a monitor begins with, and no more
        machine.put("SIM:TRIP", 0)
        machine.until("BEAM:PERMIT", "OK")
        assert sizes.values(4)[-1].alarm.severity == charges.values(4)[-1].alarm.severity == 0
    machine.put("SIM:TRIP", 1)
    machine.until("BEAM:PERMIT", "TRIP")
    machine.reset()
    machine.until("BEAM:PERMIT", "OK")
    machine.until("BEAM:RATE_ACT", 120.0)
    assert machine.get("SIM:TRIP") == "no"


def test_a_reset_at_any_moment_leaves_a_running_machine(machine: Machine) -> None:
    for _ in range(60):
        machine.reset()
    with machine.updates("TORO:1:CHARGE") as updates:
        ids = [value.timeStamp.userTag for value in updates.values(3)]
    assert ids == sorted(set(ids))


def test_at_no_rate_readings_are_stale_without_an_alarm(machine: Machine) -> None:
    machine.put("BEAM:RATE", 0)
    machine.until("BEAM:RATE_ACT", 0.0)
    time.sleep(0.3)  # the last shot has been shown
    with machine.updates("OTRS:1:XRMS") as updates:
        time.sleep(0.5)
        (only,) = updates.values(1)
        assert only.alarm.severity == 0
        assert machine.get("BEAM:PERMIT") == "OK"
        machine.put("BEAM:RATE", 5)
        updates.values(4)


def test_pulse_ids_count_the_shots_of_the_beam(machine: Machine) -> None:
    with machine.updates("TORO:1:CHARGE") as gun, machine.updates("TORO:2:CHARGE") as screen:
        first, last = gun.values(12)[1:], screen.values(12)[1:]
    ids = [value.timeStamp.userTag for value in first]
    assert ids == sorted(set(ids))
    rate = (ids[-1] - ids[0]) / (stamp(first[-1]) - stamp(first[0]))
    assert rate == pytest.approx(120, rel=0.2)
    # The same shots: their ratio is a transmission, better than the jitter of either.
    by_id = {value.timeStamp.userTag: value.value for value in last}
    both = [by_id[value.timeStamp.userTag] / value.value for value in first if value.timeStamp.userTag in by_id]
    assert len(both) > 5
    assert both == pytest.approx([propagate(START).transmission] * len(both), abs=0.03)


def test_readings_are_late_by_the_latency(machine: Machine) -> None:
    machine.put("SIM:NOISE", 0.0)
    before = machine.fresh("OTRS:1:XRMS")
    machine.put("SIM:LATENCY", 1.0)
    machine.put("QUAD:2:RATE", 100.0)
    machine.until("SIM:LATENCY", 1.0)
    with machine.updates("OTRS:1:XRMS") as updates:
        updates.values(3)
        began = time.time()
        machine.put("QUAD:2:BCTRL", 0.45)
        got = eventually(
            lambda: [(at, value) for at, value in list(updates.all) if at > began],
            good=lambda got: got and got[-1][1].value != pytest.approx(before, rel=1e-6),
        )
    same = [value.value == pytest.approx(before, rel=1e-6) for _, value in got]
    arrived, changed = got[same.index(False)]
    # Updates do come meanwhile, of the old beam; the first of the new one has the time of its shot.
    assert same.index(False) >= 2
    assert arrived - began > 0.95
    assert began - 0.05 < stamp(changed) < arrived - 0.95


def test_without_noise_the_same_number_is_still_an_update(machine: Machine) -> None:
    machine.put("SIM:NOISE", 0.0)
    machine.fresh("OTRS:1:XRMS")
    with machine.updates("OTRS:1:XRMS") as updates:
        quiet = updates.values(5)
    assert len({value.value for value in quiet}) == 1
    assert len({stamp(value) for value in quiet}) == 5
    machine.put("SIM:NOISE", 1.0)
    machine.fresh("OTRS:1:XRMS")
    with machine.updates("OTRS:1:XRMS") as updates:
        noisy = [value.value for value in updates.values(12)]
    assert 0.005 < np.std(noisy) / np.mean(noisy) < 0.05


def test_the_buffer_runs_at_the_rate_of_the_beam(machine: Machine) -> None:
    machine.put("SIM:NOISE", 0.0)
    expected = machine.fresh("GDET:1:ENRC")
    with machine.updates("GDET:1:ENRCHSTBR") as updates:
        first, *_, last = updates.values(8)
    assert len(first.value) == len(last.value) == 1200
    shots = round(120 * (stamp(last) - stamp(first)))
    assert shots > 50
    assert last.value[-40:] == pytest.approx(np.full(40, expected), rel=1e-9)
    machine.put("BEAM:RATE", 0)
    machine.until("BEAM:RATE_ACT", 0.0)
    held = machine.get("GDET:1:ENRCHSTBR")
    time.sleep(0.3)
    assert np.array_equal(held, machine.get("GDET:1:ENRCHSTBR"), equal_nan=True)


def test_with_no_light_the_screen_is_invalid_and_the_rest_is_not(machine: Machine) -> None:
    for name in ("XCOR:1", "YCOR:1", "XCOR:2", "YCOR:2"):
        machine.put(f"{name}:BCTRL", 0.002)
    eventually(lambda: machine.severity("OTRS:1:XRMS"), good=lambda severity: severity == 3)
    assert machine.severity("BPMS:1:X") < 3
