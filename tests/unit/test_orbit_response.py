"""The worked example of a procedure: what it measures, with its unit and time; and where it leaves the machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.futures import background
from badger_k2eg.core.settings import Settings
from badger_k2eg.core.units import unit
from badger_k2eg.procedures import reported_to
from badger_k2eg.testing.virtual_clock import VirtualClock
from examples.orbit_response import measure


@pytest.fixture
def machine() -> Iterator[MemoryBackend]:
    made = MemoryBackend()
    made.add("COR:SET", 0.5, units="A", limits=(-2.0, 2.0))
    made.add("BPM:X", 0.1, units="mm")
    made.add("BEAM:CURRENT", 0.0, units="mA")
    made.on_put("COR:SET", lambda amperes: made.post("BPM:X", 0.1 + 3.0 * (amperes - 0.5)))
    made.beat("BPM:X", 0.02)
    yield made
    made.close()


@pytest.fixture
def control(machine: MemoryBackend) -> Iterator[Control]:
    made = Control(machine, Settings(timeout=2.0))
    yield made
    made.close()


def test_it_waits_for_the_beam_and_gives_the_response(
    control: Control, machine: MemoryBackend, virtual_clock: VirtualClock
) -> None:
    steps: list[str] = []
    timer = virtual_clock.later(0.2, lambda: machine.post("BEAM:CURRENT", 50.0))
    began = clock.time_ns()
    with reported_to(lambda step: steps.append(step.text)):
        response = measure(control)
    timer.join()
    assert response.quantity.to(unit("mm/A")).magnitude == pytest.approx(3.0)
    assert response.timestamp_ns is not None and response.timestamp_ns > began
    assert len(steps) == 4 and steps[0] == "COR:SET = 0.600 ampere"
    assert machine.value("COR:SET") == 0.5


def test_stopped_in_its_middle_it_puts_the_corrector_back(control: Control, machine: MemoryBackend) -> None:
    machine.post("BEAM:CURRENT", 50.0)
    future = background(measure, control, points=1000, step=1.0)
    while len(machine.puts) < 2:
        clock.sleep(0.005)
    future.cancel()
    with pytest.raises(CancelledError):
        future.result(20)
    assert machine.value("COR:SET") == 0.5 and len(machine.puts) < 20
