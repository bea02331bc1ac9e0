"""The shipped procedures on a machine in memory, and the fit of an emittance on sizes that a beam really has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.futures import background
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import ConditionNotMet, ReadError, SetpointBlocked
from badger_k2eg.procedures import Step, degauss, fit_emittance, quadrupole_scan, reported_to, scan, wait_for_beam
from badger_k2eg.tuning import Condition, Knob, Observable
from examples.virtual_injector import optics

LENGTH, DRIFT, MOMENTUM = 0.1, 1.0, 10.0


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    made = MemoryBackend({"FREE": 1.0, "SIZE": 1.0})
    for name, start in (("A", 0.5), ("B", -0.5)):
        made.add(f"{name}:SET", start, units="kG", limits=(-1.0, 1.0))
        made.add(f"{name}:READ", start, units="kG")
        made.follow(f"{name}:SET", f"{name}:READ", after=0.01)
        made.on_put(f"{name}:SET", lambda value: made.post("SIZE", value * value))
    made.beat("SIZE", 0.02)
    made.add("PERMIT", 0, choices=("TRIP", "OK"))
    made.add("RATE", 0.0)
    yield made
    made.close()


@pytest.fixture
def control(memory: MemoryBackend) -> Iterator[Control]:
    made = Control(memory, Settings(timeout=2.0))
    yield made
    made.close()


A = Knob("A:SET", readback="A:READ", tolerance=0.001)
B = Knob("B:SET", readback="B:READ", tolerance=0.001)


def set_to(memory: MemoryBackend, name: str) -> list[float]:
    return [value for pv, value in memory.puts if pv == name]


def test_a_scan_of_one_knob(control: Control, memory: MemoryBackend, tmp_path: Path) -> None:
    steps: list[Step] = []
    with reported_to(steps.append):
        result = scan(control, {"a": A}, {"a": [-1.0, 0.0, 1.0]}, {"size": "SIZE"})
    assert result.column("a").tolist() == [-1.0, 0.0, 1.0] and result.column("size").tolist() == [1.0, 0.0, 1.0]
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)] and "a = -1" in steps[0].text
    assert memory.value("A:SET") == 0.5, "put back"
    assert result.rows[1] == {"a": 0.0, "size": 0.0}
    pytest.importorskip("matplotlib", reason="pip install 'badger-k2eg[demo]'")
    assert result.plot(tmp_path / "scan.png").stat().st_size > 5000


def test_a_scan_of_two_goes_to_and_fro(control: Control, memory: MemoryBackend, tmp_path: Path) -> None:
    grid = {"a": [0.0, 0.1], "b": [0.2, 0.3, 0.4]}
    result = scan(control, {"a": A, "b": B}, grid, {"size": "SIZE"}, restore=False)
    assert [point["b"] for point in result.points] == [0.2, 0.3, 0.4, 0.4, 0.3, 0.2]
    assert (memory.value("A:SET"), memory.value("B:SET")) == (0.1, 0.2), "left where it was"
    pytest.importorskip("matplotlib", reason="pip install 'badger-k2eg[demo]'")
    assert result.plot(tmp_path / "map.png").stat().st_size > 5000


def test_a_point_out_of_bounds_moves_nothing(control: Control, memory: MemoryBackend) -> None:
    for grid in ([0.0, 1.5], [-1.1, 0.0]):
        with pytest.raises(SetpointBlocked, match="outside the bounds of A:SET"):
            scan(control, {"a": A}, {"a": grid}, {"size": "SIZE"})
    for wrong in ({"b": [0.0]}, {"a": []}):
        with pytest.raises(ValueError, match="values for each knob"):
            scan(control, {"a": A}, wrong, {"size": "SIZE"})
    assert memory.puts == []


def test_after_a_failure_it_is_put_back_after_a_cancel_nothing_more_is_sent(
    control: Control, memory: MemoryBackend
) -> None:
    with pytest.raises(ReadError):
        scan(control, {"a": A}, {"a": [0.1]}, {"free": Observable("FREE", timeout=0.2)})
    assert set_to(memory, "A:SET") == [0.1, 0.5]
    future = background(scan, control, {"a": A}, {"a": [0.2]}, {"free": Observable("FREE", timeout=60.0)})
    while memory.value("A:READ") != 0.2:
        clock.sleep(0.005)
    future.cancel()
    assert future.wait(20.0).cancelled() and set_to(memory, "A:SET") == [0.1, 0.5, 0.2]


def test_degauss_swings_less_each_time_and_goes_back(control: Control, memory: MemoryBackend) -> None:
    values = degauss(control, A, cycles=2)
    assert values == set_to(memory, "A:SET") == [1.0, -1.0, 0.5, -0.5, 0.0, 0.5]
    assert degauss(control, "B:SET", amplitude=0.2, cycles=1, centre=0.1, final=0.1) == pytest.approx([0.3, -0.1, 0.1])


@pytest.mark.parametrize(
    ("words", "says"),
    [({"amplitude": 1.5}, "outside the bounds"), ({"centre": 2.0}, "cannot swing"), ({"final": 7.0}, "outside")],
)
def test_degauss_stays_within_the_bounds(
    control: Control, memory: MemoryBackend, words: dict[str, Any], says: str
) -> None:
    with pytest.raises(SetpointBlocked, match=says):
        degauss(control, A, **words)
    with pytest.raises(SetpointBlocked, match="no drive limits"):
        degauss(control, "FREE")
    with pytest.raises(ValueError, match="cycles"):
        degauss(control, A, cycles=0)
    assert memory.puts == []


CONDITIONS = (Condition("PERMIT", equals="OK"), Condition("RATE", at_least=1.0))


def test_wait_for_beam(control: Control, memory: MemoryBackend) -> None:
    with pytest.raises(ConditionNotMet, match="RATE reads 0.0"):
        wait_for_beam(control, CONDITIONS, timeout=0.2)
    future = background(wait_for_beam, control, CONDITIONS, timeout=-1, stable=0.3)
    clock.sleep(0.1)
    memory.post("PERMIT", 1)
    memory.post("RATE", 10.0)
    clock.sleep(0.1)
    memory.post("PERMIT", 0)  # gone again: the hold begins anew
    clock.sleep(0.3)
    assert not future.done()
    began = clock.monotonic()
    memory.post("PERMIT", 1)
    assert future.result(20.0)["RATE"].value == 10.0 and clock.monotonic() - began >= 0.3
    assert wait_for_beam(control, CONDITIONS, timeout=1.0)["PERMIT"].label == "OK"
    with pytest.raises(ConditionNotMet):
        wait_for_beam(control, CONDITIONS, timeout=0.2, stable=5.0)


# -- the emittance ----------------------------------------------------------------------------------------------------


def sizes_of(fields: list[float], beta: float, alpha: float, geometric: float, plane: int) -> list[float]:
    """The rms sizes on the screen, by the transport of the virtual injector."""
    rigidity = float(optics.magnetic_rigidity(MOMENTUM))
    beam = optics.beam_matrix((beta, alpha, geometric), (beta, alpha, geometric))
    sizes = []
    for field in fields:
        matrix = optics.drift(DRIFT) @ optics.quadrupole(LENGTH, 0.1 * field / LENGTH / rigidity)
        sigma = np.asarray(optics.transport(matrix, beam))
        sizes.append(float(np.sqrt(sigma[2 * plane, 2 * plane])))
    return sizes


@pytest.mark.parametrize("plane", [0, 1], ids="xy")
@pytest.mark.parametrize(("beta", "alpha"), [(1.0, 0.0), (3.0, 1.5), (0.6, -0.8)])
def test_the_fit_finds_the_beam(plane: int, beta: float, alpha: float) -> None:
    geometric = 1e-6 / optics.beta_gamma(MOMENTUM)
    fields = np.linspace(-0.4, 0.4, 9).tolist()
    found = fit_emittance(
        fields,
        sizes_of(fields, beta, alpha, geometric, plane),
        LENGTH,
        DRIFT,
        MOMENTUM,
        "xy"[plane],  # type: ignore[arg-type]
    )
    assert found.normalized == pytest.approx(1e-6, rel=1e-2)
    assert (found.beta, found.alpha) == (pytest.approx(beta, rel=1e-2), pytest.approx(alpha, rel=1e-2, abs=1e-3))
    assert "normalized emittance 1.0" in str(found)


@pytest.mark.parametrize("sizes", [[1e-4, 2e-4], [0.0, 1e-4, 1e-4], [3e-4, 1e-4, 9e-4, 1e-5]])
def test_sizes_that_no_beam_has(sizes: list[float]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        fit_emittance([0.1 * n for n in range(len(sizes))], sizes, LENGTH, DRIFT, MOMENTUM)


def test_the_scan_takes_the_unit_of_the_size(control: Control, memory: MemoryBackend) -> None:
    geometric = 1e-6 / optics.beta_gamma(MOMENTUM)
    memory.add("SIGMA", 1.0, units="um")
    memory.on_put("A:SET", lambda v: memory.post("SIGMA", 1e6 * sizes_of([v], 1.0, 0.0, geometric, 0)[0]))
    memory.beat("SIGMA", 0.02)
    found = quadrupole_scan(
        control, A, np.linspace(-0.3, 0.3, 5).tolist(), "SIGMA", length=LENGTH, drift=DRIFT, momentum=MOMENTUM
    )
    assert found.normalized == pytest.approx(1e-6, rel=1e-2) and found.scan is not None
    assert memory.value("A:SET") == 0.5 and threading.active_count() < 20
