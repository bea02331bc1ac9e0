"""An environment as a declaration: knobs, measures, conditions and bounds, on a machine in memory."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Iterator

import numpy as np
import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.badger_app.environment import ControlEnvironment
from badger_k2eg.errors import ConditionNotMet, ReadTimeout, SettingsError, ValidationFailed
from badger_k2eg.tuning import Condition, Expression, Knob, Observable
from interfaces.epics_pva import Interface
from tests.rig.pace import pace


class Linac(ControlEnvironment):
    """Two magnets and a screen."""

    name = "linac"
    knobs = {
        "q1": Knob("{p}:Q1:SET", readback="{p}:Q1:READ", tolerance=0.01),
        "q2": Knob("{p}:Q2:SET", bounds=(-1.0, 1.0)),
    }
    measures = {
        "size": Observable("{p}:SIZE", samples=3),
        "shape": Observable("{p}:WAVE", reduce="none"),
        "ratio": Expression("a / b", a="{p}:SIZE", b=Observable("{p}:Q2:SET", fresh=False)),
        "charge": "{p}:CHARGE",
    }
    conditions = (Condition("{p}:PERMIT", equals="OK", timeout=0.5, reason="beam permit"),)

    p: str | None = "L"


@pytest.fixture
def machine(memory_context: MemoryBackend) -> MemoryBackend:
    memory_context.add("L:Q1:SET", 1.0, limits=(-5.0, 5.0), units="kG")
    memory_context.add("L:Q1:READ", 1.0)
    memory_context.add("L:Q2:SET", 0.5)
    memory_context.add("L:SIZE", 2.0)
    memory_context.add("L:WAVE", [3.0, 4.0])
    memory_context.add("L:CHARGE", 1.0)
    memory_context.add("L:PERMIT", 1, choices=("TRIP", "OK"))
    memory_context.follow("L:Q1:SET", "L:Q1:READ", after=0.1)
    for name in ("L:SIZE", "L:WAVE", "L:CHARGE"):
        memory_context.beat(name, every=0.02)
    return memory_context


@pytest.fixture
def linac(machine: MemoryBackend) -> Iterator[Linac]:
    environment = Linac(interface=Interface(context=machine, timeout=0.5))
    yield environment
    assert environment.interface is not None
    environment.interface.reset_interface()


def test_badger_sees_the_names_and_the_bounds_known_offline() -> None:
    assert Linac.variables == {"q1": [], "q2": [-1.0, 1.0]}
    assert Linac.observables == ["size", "shape", "ratio", "charge"]
    # As Badger builds it while it lists plugins: no machine answers, and none is asked.
    began = time.monotonic()
    listed = Linac(interface=Interface(), params={})
    bounds = listed.get_bounds(["q1", "q2"])
    assert time.monotonic() - began < 1.0 * pace()
    assert bounds["q2"] == [-1.0, 1.0]
    assert bounds["q1"][0] < -1e6


def test_bounds_come_from_the_machine_or_the_declaration(linac: Linac) -> None:
    assert linac.get_bounds(["q1", "q2"]) == {"q1": [-5.0, 5.0], "q2": [-1.0, 1.0]}
    # Hard limits that Badger patches in come first.
    Linac.variables["q1"] = [0.0, 2.0]
    try:
        assert linac.get_bounds(["q1"]) == {"q1": [0.0, 2.0]}
    finally:
        Linac.variables["q1"] = []
    # A PV that a user adds by hand in Badger's window.
    assert linac.get_bounds(["L:Q1:SET"]) == {"L:Q1:SET": [-5.0, 5.0]}
    with pytest.raises(SettingsError, match="L:SIZE has no drive limits; give the knob L:SIZE bounds"):
        linac.get_bounds(["L:SIZE"])


def test_a_record_that_does_not_answer_has_no_bounds(linac: Linac, machine: MemoryBackend) -> None:
    machine.fault("L:Q1:SET", "missing")
    for ask in (lambda: linac.get_bounds(["q2", "q1"]), lambda: linac.set_variables({"q1": 2.0})):
        with pytest.raises(ReadTimeout, match="^L:Q1:SET: .*; the bounds of its knob are to come from its record$"):
            ask()
    assert machine.puts == []


def test_knobs_are_waited_for_and_measures_are_fresh(linac: Linac, machine: MemoryBackend) -> None:
    linac.set_variables({"q1": 2.0, "q2": 1.0})
    assert machine.value("L:Q1:READ") == 2.0
    assert linac.get_variables(["q1", "q2"]) == {"q1": 2.0, "q2": 1.0}
    values = linac.get_observables(["size", "shape", "ratio", "charge"])
    assert (values["size"], values["ratio"], values["charge"]) == (2.0, 2.0, 1.0)
    np.testing.assert_array_equal(values["shape"], [3.0, 4.0])
    assert len(linac.last_samples["size"].readings) == 3


def test_what_was_measured_before_the_move_does_not_count(machine: MemoryBackend) -> None:
    machine.add("OLD:SIZE", 2.0)
    machine.add("OLD:SET", 0.0)

    class Old(ControlEnvironment):
        name = "old"
        knobs = {"x": Knob("OLD:SET", bounds=(-1.0, 1.0))}
        measures = {"size": "OLD:SIZE"}

    environment = Old(interface=Interface(context=machine, timeout=0.4))
    # The beam answers late: its new size arrives after the move, and is what counts.
    machine.follow("OLD:SET", "OLD:SIZE", after=0.2)
    environment.set_variables({"x": 0.75})
    assert environment.get_observables(["size"]) == {"size": 0.75}
    machine.post("OLD:SIZE", 9.0)
    environment.set_variables({"x": 0.75})
    assert environment.get_observables(["size"]) == {"size": 0.75}
    with pytest.raises(ReadTimeout, match="no update came since the move"):
        machine.add("OLD:SET", 0.0)
        environment.set_variables({"x": 0.25})
        environment.get_observables(["size"])


def test_formulas_and_recording_work(linac: Linac) -> None:
    linac.set_variables({"q1": 2.0})
    assert linac.get_observables(["2 * `size` + `charge`"]) == {"2 * `size` + `charge`": 5.0}
    assert linac.interface is not None
    actions = [record["action"] for record in linac.interface._logs]
    assert actions == ["set_values", "get_values"]


def test_a_condition_is_waited_for_before_measuring(linac: Linac, machine: MemoryBackend) -> None:
    machine.post("L:PERMIT", 0)
    machine.later(0.2, lambda: machine.post("L:PERMIT", 1))
    began = time.monotonic()
    linac.get_observables(["size"])
    assert time.monotonic() - began >= 0.2
    machine.post("L:PERMIT", 0)
    with pytest.raises(ConditionNotMet, match="beam permit"):
        linac.get_observables(["size"])


def test_a_knob_that_does_not_arrive_and_one_that_is_missing(linac: Linac, machine: MemoryBackend) -> None:
    machine._pvs["L:Q1:SET"].on_put.clear()
    with pytest.raises(ValidationFailed, match="L:Q1:READ wanted 3"):
        linac.set_variables({"q1": 3.0})
    machine.fault("L:Q1:READ", "missing")
    puts = len(machine.puts)
    with pytest.raises(ValueError, match="its readback L:Q1:READ does not answer"):
        linac.set_variables({"q1": 2.0, "q2": 0.0})
    assert len(machine.puts) == puts


def test_read_only_measures_from_after_the_call(machine: MemoryBackend) -> None:
    environment = Linac(interface=Interface(context=machine, timeout=0.5), read_only="yes")
    environment.set_variables({"q1": 2.0})
    assert machine.puts == []
    assert environment.get_observables(["size"]) == {"size": 2.0}


def test_parameters_name_the_pvs(machine: MemoryBackend, linac: Linac) -> None:
    linac.p = "ELSEWHERE"
    with pytest.raises(ReadTimeout, match="ELSEWHERE:Q1:SET"):
        linac.get_variables(["q1"])

    class Slip(ControlEnvironment):
        name = "slip"
        knobs = {"x": "{prefix}:X"}
        measures = {}

    with pytest.raises(SettingsError, match="environment slip: x: .*cannot be filled in"):
        Slip(interface=Interface(context=machine)).get_variables(["x"])


def test_the_interface_is_chosen_by_name(machine: MemoryBackend) -> None:
    with pytest.raises(SettingsError, match="there is no interface 'epics_pav'; did you mean 'epics_pva'?"):
        Linac(interface_name="epics_pav")
    chosen = Linac(interface_name="epics_pva", read_only="yes")
    assert chosen.interface is not None
    assert (chosen.interface.name, chosen.interface.settings.read_only) == ("epics_pva", True)
    given = Interface(context=machine)
    assert Linac(interface=given, interface_name="epics_pva").interface is given


def test_a_copy_and_a_pickle_begin_with_parts_of_their_own(linac: Linac) -> None:
    linac.get_observables(["size"])
    twin = copy.deepcopy(linac)
    assert twin._machine is not linac._machine
    assert twin.get_observables(["size"]) == {"size": 2.0}
    assert pickle.loads(pickle.dumps(Linac())).p == "L"  # noqa: S301


def test_nan_in_place_of_what_cannot_be_measured(machine: MemoryBackend) -> None:
    environment = Linac(interface=Interface(context=machine, timeout=0.4, on_read_error="nan"))
    machine.fault("L:CHARGE", "missing")
    values = environment.get_observables(["size", "charge"])
    assert values["size"] == 2.0
    assert np.isnan(values["charge"])
