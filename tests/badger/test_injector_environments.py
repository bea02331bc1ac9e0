"""``virtual_injector`` and ``fel_linac`` on the virtual machine: a real IOC with a beam in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from badger_k2eg.testing.plugin import SessionPorts
from environments.fel_linac import Environment as FelLinac
from environments.virtual_injector import Environment as Injector
from examples.virtual_injector.part import VirtualInjector
from interfaces.epics_pva import Interface
from tests.rig.waiting import eventually


@pytest.fixture(scope="module")
def machine(epics_environment: SessionPorts) -> Iterator[VirtualInjector]:
    # On ports that the clients of this session know already: theirs is open by now.
    ports = epics_environment.factory.pop()
    try:
        with VirtualInjector(seed=1, ports=ports) as machine:
            yield machine
    finally:
        epics_environment.factory.append(ports)


@pytest.fixture
def interface() -> Iterator[Callable[..., Interface]]:
    made: list[Interface] = []

    def make(**options: object) -> Interface:
        made.append(Interface(**options))
        return made[-1]

    yield make
    for one in made:
        one.reset_interface()


def test_the_injector_is_tuned_by_its_declaration(
    machine: VirtualInjector, interface: Callable[..., Interface]
) -> None:
    injector = Injector(interface=interface(parallel=True), prefix=machine.prefix)
    assert len(injector.variables) == 10
    start = {"SOL1": 1.04, "QUAD1": 0.1, "QUAD2": 0.35, "QUAD3": -0.4}
    injector.set_variables(start)
    before = injector.get_observables(["spot", "sigma_x", "sigma_y", "transmission", "emittance"])
    injector.set_variables({"SOL1": 0.899, "QUAD1": -0.055, "QUAD2": 0.477, "QUAD3": -0.489})
    after = injector.get_observables(["spot", "transmission"])
    # 792 um and 123 um without noise: a reading from before the move would be far off.
    assert before["spot"] == pytest.approx(792.0, rel=0.1)
    assert after["spot"] == pytest.approx(123.0, rel=0.1)
    assert before["spot"] == pytest.approx((before["sigma_x"] * before["sigma_y"]) ** 0.5, rel=0.1)
    assert 0.9 < after["transmission"] <= 1.05
    injector.set_variables(start)


def test_facility_patterns_on_the_linac(machine: VirtualInjector, interface: Callable[..., Interface]) -> None:
    linac = FelLinac(interface=interface(), linac=machine.prefix)
    # The record's drive limits, and own bounds.
    assert linac.get_bounds(["matching_1", "solenoid"]) == {"matching_1": [-0.3, 0.3], "solenoid": [0.85, 1.1]}
    linac.set_variables({"matching_1": 0.0})
    report = linac.interface.last_report
    assert report is not None
    assert report[machine.pv("QUAD:1:BCTRL")].arrived == pytest.approx(0.0, abs=0.002)
    # It came from 0.1, so it went below first.
    assert report[machine.pv("QUAD:1:BCTRL")].before.value == pytest.approx(-0.03)
    values = linac.get_observables(["pulse_energy", "pulse_energy_mean", "charge", "jitter", "orbit"])
    assert values["pulse_energy"] > values["pulse_energy_mean"] > 0.0
    assert 0.0 < values["jitter"] < 1.0
    assert 0.0 < values["charge"] < 400.0
    linac.set_variables({"matching_1": 0.1})


def test_nothing_is_measured_without_permit(machine: VirtualInjector, interface: Callable[..., Interface]) -> None:
    from badger_k2eg.errors import ConditionNotMet
    from badger_k2eg.tuning import wait_for

    injector = Injector(interface=interface(), prefix=machine.prefix)
    control, permit = injector.interface.control, machine.pv("BEAM:PERMIT")
    control.set({machine.pv("SIM:TRIP"): "trip"})
    try:
        eventually(lambda: control.get([permit])[permit], 1)
        short = [c.__class__(c.pv.format(prefix=machine.prefix), equals=c.equals, timeout=1.0, reason=c.reason)
                 for c in Injector.conditions[:1]]  # fmt: skip
        with pytest.raises(ConditionNotMet, match="permit of the machine protection"):
            wait_for(control.reader, short)
    finally:
        control.set({machine.pv("SIM:TRIP"): "no"})
    assert injector.get_observables(["transmission"])["transmission"] > 0.5
    assert os.environ["EPICS_PVA_AUTO_ADDR_LIST"] == "NO"
