"""``ControlEnvironment`` and ``pv_template``: PV names and options in the Parameters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.badger_app.environment import AS_CONFIGURED, ControlEnvironment
from badger_k2eg.errors import SetpointBlocked, SettingsError
from environments.pv_template import Environment
from interfaces.epics_pva import Interface


@pytest.fixture
def machine(memory_context: MemoryBackend) -> MemoryBackend:
    memory_context.add("A", 0.5, units="mm", limits=(-5.0, 5.0))
    memory_context.add("B", 0.5)
    memory_context.add("SIZE", 1.25)
    memory_context.add("EXTRA", 7.0)
    # A diagnostic that never updates would be measured in vain: nothing of it is from after a move.
    memory_context.beat("SIZE")
    return memory_context


def make(machine: MemoryBackend, **parameters: Any) -> Environment:
    return Environment(interface=Interface(context=machine), x0="A", x1="B", f="SIZE", **parameters)


def test_names_stand_for_the_pvs_in_the_parameters(machine: MemoryBackend) -> None:
    environment = make(machine)
    assert environment.get_variables(["x1", "x0"]) == {"x1": 0.5, "x0": 0.5}
    assert environment.get_observables(["f"]) == {"f": 1.25}
    environment.set_variables({"x0": 1.0, "x1": -1.0})
    assert machine.puts == [("A", 1.0), ("B", -1.0)]
    info = environment.get_info(["x0"])["vars"]["x0"]
    assert (info["pv"], info["units"], info["limits"]) == ("A", "mm", "-5 to 5")
    environment.x0 = "B"
    environment.set_variables({"x0": 0.25})
    assert machine.value("B") == 0.25


def test_a_name_without_a_parameter_is_a_pv(machine: MemoryBackend) -> None:
    environment = make(machine)
    assert environment.get_observables(["f", "EXTRA"]) == {"f": 1.25, "EXTRA": 7.0}
    # A parameter that is neither variable nor observable is not taken for one.
    with pytest.raises(TimeoutError, match="timeout: "):
        make(machine, timeout=0.2).get_variables(["timeout"])


def test_formulas_of_observables_work(machine: MemoryBackend) -> None:
    assert make(machine).get_observables(["2 * `f`"]) == {"2 * `f`": 2.5}


def test_badgers_bounds_and_our_guard_both_hold(machine: MemoryBackend) -> None:
    from badger.errors import BadgerEnvVarError

    environment = make(machine)
    with pytest.raises(BadgerEnvVarError, match="outside"):
        environment.set_variables({"x0": 3.0})
    with pytest.raises(SetpointBlocked, match="nan"):  # Badger's check lets it pass
        environment.set_variables({"x0": 1.0, "x1": float("nan")})
    assert machine.puts == []


def test_an_empty_or_doubled_pv_is_named(machine: MemoryBackend) -> None:
    environment = make(machine)
    environment.x0 = None  # what Badger's window makes of an emptied field
    with pytest.raises(SettingsError, match="parameter x0 is empty; it must name a PV"):
        environment.get_variables(["x0"])
    environment.x0 = "B"
    with pytest.raises(SettingsError, match="two variables of this step are the PV B"):
        environment.set_variables({"x0": 1.0, "x1": 1.5})
    assert machine.puts == []


@pytest.mark.parametrize(("said", "read_only"), [("yes", True), ("Yes ", True), (True, True), ("no", False),
                                                 (AS_CONFIGURED, False), (None, False), ("", False)])  # fmt: skip
def test_read_only_has_three_values(machine: MemoryBackend, said: Any, read_only: bool) -> None:
    environment = make(machine, read_only=said)
    environment.set_variables({"x0": 1.0})
    assert environment.interface.settings.read_only is read_only
    assert (machine.puts == []) is read_only


def test_no_lifts_nothing(machine: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    careful = Interface(context=machine, read_only=True)
    assert Environment(interface=careful, read_only="no").interface.settings.read_only
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "yes")
    assert make(machine, read_only="no").interface.settings.read_only
    monkeypatch.setenv("BADGER_K2EG_PARALLEL", "yes")
    assert make(machine).interface.settings.parallel
    assert not make(machine, parallel="no").interface.settings.parallel


def test_a_changed_parameter_counts_at_once_in_both_directions(machine: MemoryBackend) -> None:
    environment = make(machine)
    environment.read_only = "yes"
    environment.set_variables({"x0": 1.0})
    assert machine.puts == []
    environment.read_only = AS_CONFIGURED
    environment.timeout = 1.5
    environment.set_variables({"x0": 1.0})
    assert machine.puts == [("A", 1.0)]
    assert environment.interface.settings.timeout == 1.5


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"readonly": "yes"}, "environment pv_template: there is no parameter 'readonly'; did you mean 'read_only'?"),
        ({"read_only": "maybe"}, "environment pv_template: read_only: must be yes, no or as configured, not 'maybe'"),
        ({"timeout": "soon"}, "environment pv_template: timeout: must be a number of seconds or as configured"),
        ({"timeout": -5}, "environment pv_template: option timeout = -5.0: "),
    ],
)
def test_a_wrong_parameter_is_one_clear_line(machine: MemoryBackend, parameters: Any, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make(machine, **parameters)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
    name, value = next(iter(parameters.items()))
    if name != "readonly":
        with pytest.raises(SettingsError, match=name):
            setattr(make(machine), name, value)


def test_what_badger_makes_its_widgets_from(badger_config: Any, plugin_root: Path) -> None:
    """Only texts: None cannot be edited, and a list makes the environment unselectable."""
    from badger.factory import load_plugin

    # Not get_env: a routine that was loaded before leaves its parameters there.
    _, configs = load_plugin(str(plugin_root), "pv_template", "environment")
    assert configs["params"] == {
        "read_only": AS_CONFIGURED,
        "interface_name": AS_CONFIGURED,
        "parallel": AS_CONFIGURED,
        "timeout": AS_CONFIGURED,
        "after_stop": AS_CONFIGURED,
        "after_failure": AS_CONFIGURED,
        "replay_run": AS_CONFIGURED,
        "replay_matching": AS_CONFIGURED,
        "x0": "FIRST:COR:1:SP",
        "x1": "FIRST:COR:2:SP",
        "f": "FIRST:BEAM:SIZE",
    }
    assert configs["variables"] == [{"x0": [-2.0, 2.0]}, {"x1": [-2.0, 2.0]}]


def test_without_an_interface_badgers_own_error_comes() -> None:
    from badger.errors import BadgerNoInterfaceError

    with pytest.raises(BadgerNoInterfaceError):
        Environment().get_variables(["x0"])


def test_a_copy_works_on_the_same_machine(machine: MemoryBackend) -> None:
    twin = copy.deepcopy(make(machine, read_only="yes"))
    assert twin.get_variables(["x0"]) == {"x0": 0.5}
    assert twin.interface.settings.read_only
    assert isinstance(twin, ControlEnvironment)
