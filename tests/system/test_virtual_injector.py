"""examples/virtual_injector as a real IOC: its PVs, its supplies, its protection, and readings that come late.

The client is p4p itself. Nothing here is timed but by the time stamps of the server, or by a bound from one side.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from badger_k2eg.testing.processes import ChildFailed, ChildProcess, clean_environment
from examples.virtual_injector.lattice import BEST_SOLENOID, MAGNETS, START, propagate
from examples.virtual_injector.part import VirtualInjector

if TYPE_CHECKING:
    from p4p.client.thread import Context

pytest.importorskip("softioc", reason="pip install badger-k2eg[test]")
pytest.importorskip("p4p")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "virtual_injector"
PATIENCE = 15.0
"""Seconds for what takes a fraction of one on an idle machine."""


@pytest.fixture(scope="module")
def injector() -> Iterator[VirtualInjector]:
    with VirtualInjector() as running:
        yield running


@pytest.fixture(scope="module")
def context(injector: VirtualInjector) -> Iterator[Context]:
    from p4p.client.thread import Context

    with Context("pva", nt=False, conf=injector.client_environment, useenv=False) as made:
        yield made


@pytest.fixture
def machine(injector: VirtualInjector, context: Context) -> Iterator[Machine]:
    """The machine as just switched on, but with readings that come at once."""
    made = Machine(context, injector)
    made.reset()
    made.put("SIM:LATENCY", 0.0)
    yield made
    assert "Traceback" not in injector.output, injector.output


def eventually(ask: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """Ask until the answer is good, and give it."""
    end = time.monotonic() + PATIENCE
    while not good(answer := ask()):
        assert time.monotonic() < end, f"still {answer!r}"
        time.sleep(0.01)
    return answer


class Updates:
    """What a monitor got, with the time of its arrival."""

    def __init__(self, context: Context, name: str) -> None:
        self.all: list[tuple[float, Any]] = []
        self._subscription = context.monitor(name, lambda value: self.all.append((time.time(), value)))

    def __enter__(self) -> Updates:
        return self

    def __exit__(self, *_: object) -> None:
        self._subscription.close()

    def values(self, least: int) -> list[Any]:
        """All so far, after so many at least."""
        return [value for _, value in eventually(lambda: list(self.all), lambda got: len(got) >= least)]


class Machine:
    """A short way to write a get and a put."""

    def __init__(self, context: Context, injector: VirtualInjector) -> None:
        self.context, self.injector = context, injector

    def whole(self, name: str) -> Any:
        return self.context.get(self.injector.pv(name), timeout=PATIENCE)

    def get(self, name: str) -> Any:
        return plain(self.whole(name))

    def severity(self, name: str) -> int:
        return int(self.whole(name).alarm.severity)

    def put(self, name: str, value: Any) -> None:
        enum = name.startswith(("SIM:RESET", "SIM:TRIP", "SIM:HYST", "BEAM:RATE")) or name.endswith(("STICK", "FAULT"))
        self.context.put(self.injector.pv(name), {"value.index" if enum else "value": value}, timeout=PATIENCE)

    def updates(self, name: str) -> Updates:
        return Updates(self.context, self.injector.pv(name))

    def until(self, name: str, wanted: Any) -> None:
        eventually(lambda: self.get(name), lambda value: value == wanted)

    def arrive(self, name: str, value: float) -> None:
        """Wait until the magnet is there."""
        self.until(f"{name}:BACT", pytest.approx(value, abs=1e-3 * MAGNETS[name].span))
        self.until(f"{name}:STATMSG", "Ready")

    def set(self, name: str, value: float) -> None:
        """Put a field, wait until the magnet is there; the rate is as high as it goes."""
        self.put(f"{name}:RATE", 100 * MAGNETS[name].rate)
        self.put(f"{name}:BCTRL", value)
        self.arrive(name, value)

    def reset(self) -> None:
        self.put("SIM:RESET", 1)
        self.until("SIM:RESET", "done")

    def fresh(self, name: str) -> float:
        """The second update from now: it was taken after now. Only without latency."""
        with self.updates(name) as updates:
            return float(updates.values(3)[-1].value)


def plain(value: Any) -> Any:
    """The value of a structure; the text of an enum."""
    inner = value.value
    return inner.choices[inner.index] if hasattr(inner, "choices") else inner


def stamp(value: Any) -> float:
    return float(value.timeStamp.secondsPastEpoch + 1e-9 * value.timeStamp.nanoseconds)


# ---- the program -----------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        pytest.skip("the CPU time of another process is read from /proc here")
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_is_ready_within_two_seconds(injector: VirtualInjector) -> None:
    if injector.ready_after >= 2:
        injector.restart()
    # On a busy machine what it needed itself is what counts: 0.5 s.
    assert injector.ready_after < 2 or cpu_seconds(injector.pid) < 1.2


def test_two_of_them_have_names_and_ports_of_their_own(injector: VirtualInjector) -> None:
    from p4p.client.thread import Context

    with VirtualInjector(seed=2) as other:
        assert other.prefix != injector.prefix
        ours, theirs = ({ports.pva_tcp, ports.pva_udp, ports.ca} for ports in (injector.ports, other.ports))
        assert not ours & theirs
        with Context("pva", conf=other.client_environment, useenv=False) as context:
            assert float(context.get(other.pv("QUAD:1:BCTRL"), timeout=PATIENCE)) == START["QUAD:1"]
            assert float(context.get(other.pv("TORO:1:CHARGE"), timeout=PATIENCE)) == pytest.approx(250, rel=0.1)
            with pytest.raises(TimeoutError):
                context.get(injector.pv("QUAD:1:BCTRL"), timeout=0.3)


def test_it_runs_by_its_path(injector: VirtualInjector) -> None:
    bad = subprocess.run([sys.executable, str(FOLDER / "ioc.py"), "with blank"], capture_output=True, text=True)
    assert bad.returncode == 2 and "no prefix" in bad.stderr
    # The ports of the running one are taken: this shows that it started, and that it does not serve just anywhere.
    ports = injector._server_environment()
    with pytest.raises(ChildFailed, match="port taken"):
        ChildProcess([str(FOLDER / "ioc.py"), "--prefix", "BYPATH"], environment=clean_environment(ports))


def test_it_costs_less_than_a_tenth_of_a_core(machine: Machine) -> None:
    began, used = time.monotonic(), cpu_seconds(machine.injector.pid)
    machine.put("QUAD:6:BCTRL", -0.1)  # ramping is the most work
    time.sleep(1.5)
    assert cpu_seconds(machine.injector.pid) - used < 0.1 * (time.monotonic() - began)


# ---- the PVs ---------------------------------------------------------------------------------------------------------


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
    value = eventually(lambda: machine.whole("BPMS:2:X"), lambda value: value.value > 3.0)
    assert value.alarm.severity > 0
    value = eventually(lambda: machine.whole("TORO:2:CHARGE"), lambda value: value.value < 200.0)
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


# ---- magnets ---------------------------------------------------------------------------------------------------------


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


# ---- the beam --------------------------------------------------------------------------------------------------------


def test_a_trip_takes_the_permit_and_every_reading(machine: Machine) -> None:
    machine.put("SIM:TRIP", 1)
    machine.until("BEAM:PERMIT", "TRIP")
    machine.until("BEAM:RATE_ACT", 0.0)
    assert machine.severity("BEAM:PERMIT") == 2
    for name in ("OTRS:1:XRMS", "BPMS:1:X", "GDET:1:ENRC", "TORO:1:CHARGE"):
        value = eventually(lambda name=name: machine.whole(name), lambda value: value.alarm.severity == 3)
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
            lambda got: got and got[-1][1].value != pytest.approx(before, rel=1e-6),
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
    eventually(lambda: machine.severity("OTRS:1:XRMS"), lambda severity: severity == 3)
    assert machine.severity("BPMS:1:X") < 3
