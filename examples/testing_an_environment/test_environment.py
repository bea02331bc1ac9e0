"""Tests of an environment without a machine: with a simulated one, and with a mocked context."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock, patch

import pytest

from badger_k2eg import MemoryBackend
from badger_k2eg.errors import PutRefused, SetpointBlocked, ValidationFailed
from interfaces.epics_pva import Interface

# Yours is in a plugin root: `from environments.NAME import Environment`.
sys.path.append(str(Path(__file__).parents[1]))
from handwritten_environment import Environment  # noqa: E402

CORRECTORS = ("FIRST:COR:1", "FIRST:COR:2")


# -- a simulated machine ----------------------------------------------------------------------------------------------


@pytest.fixture
def machine(memory_context: MemoryBackend) -> MemoryBackend:
    """Two correctors whose readbacks follow a little later, and a beam size that depends on them."""

    def beam(_: float) -> None:
        a, b = (memory_context.value(f"{corrector}:SP") for corrector in CORRECTORS)
        memory_context.post("FIRST:BEAM:SIZE", (a - 1.2) ** 2 + (b + 0.7) ** 2)

    memory_context.add("FIRST:BEAM:SIZE", 1.0, units="mm")
    for corrector in CORRECTORS:
        memory_context.add(f"{corrector}:SP", 0.5, units="A", limits=(-1.5, 1.5))
        memory_context.add(f"{corrector}:RB", 0.5, units="A")
        memory_context.follow(f"{corrector}:SP", f"{corrector}:RB", after=0.05)
        memory_context.on_put(f"{corrector}:SP", beam)
    return memory_context


@pytest.fixture
def environment(machine: MemoryBackend) -> Environment:
    """The environment on that machine."""
    return Environment(interface=Interface(context=machine, timeout=1.0))


def test_a_setting_arrives_before_the_beam_is_measured(environment: Environment, machine: MemoryBackend) -> None:
    environment.set_variables({"FIRST:COR:1:SP": 1.2, "FIRST:COR:2:SP": -0.7})
    assert machine.value("FIRST:COR:1:RB") == 1.2
    assert environment.get_observables(["FIRST:BEAM:SIZE"])["FIRST:BEAM:SIZE"] == pytest.approx(0.0)


def test_a_corrector_that_does_not_follow_is_noticed(machine: MemoryBackend) -> None:
    machine.add("FIRST:COR:1:RB", 0.5)
    machine.add("FIRST:COR:1:SP", 0.5)  # anew, and nothing follows it
    quick = {pv: partial(config, count_down=0.2) for pv, config in Environment._configs.items()}
    with (
        patch.object(Environment, "_configs", quick),
        pytest.raises(ValidationFailed, match=r"wanted 1\b.*last seen 0.5"),
    ):
        Environment(interface=Interface(context=machine)).set_variables({"FIRST:COR:1:SP": 1.0})


def test_nothing_moves_when_one_setpoint_is_out_of_range(environment: Environment, machine: MemoryBackend) -> None:
    with pytest.raises(SetpointBlocked, match="drive limits"):
        environment.set_variables({"FIRST:COR:1:SP": 1.0, "FIRST:COR:2:SP": 1.9})
    assert machine.puts == []


def test_a_refused_setpoint_is_an_error(environment: Environment, machine: MemoryBackend) -> None:
    machine.fault("FIRST:COR:2:SP", "refused")
    with pytest.raises(PutRefused) as caught:
        environment.set_variables({"FIRST:COR:1:SP": 1.0, "FIRST:COR:2:SP": 1.0})
    assert [result.outcome for result in caught.value.report.values()] == ["applied", "refused"]


def test_read_only_sets_nothing(machine: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "yes")
    Environment(interface=Interface(context=machine)).set_variables({"FIRST:COR:1:SP": 1.0, "FIRST:COR:2:SP": 1.0})
    assert machine.puts == []


# -- a mocked context -------------------------------------------------------------------------------------------------


def mock_context(values: dict[str, float]) -> MagicMock:
    """A context whose puts can be read back, as from p4p: ``get(name)`` gives a number."""
    context = MagicMock()
    context.get.side_effect = lambda name, timeout=None, **_: values[name]
    context.put.side_effect = lambda name, value, timeout=None, **_: values.update(
        {name: value, name.replace(":SP", ":RB"): value}
    )
    return context


VALUES = {f"{corrector}:{kind}": 0.5 for corrector in CORRECTORS for kind in ("SP", "RB")}


def test_what_is_put() -> None:
    context = mock_context(dict(VALUES))
    environment = Environment(interface=Interface(context=context))
    environment.set_variables({"FIRST:COR:1:SP": 1.0, "FIRST:COR:2:SP": -1.0})
    assert [call.args for call in context.put.call_args_list] == [("FIRST:COR:1:SP", 1.0), ("FIRST:COR:2:SP", -1.0)]


def test_a_put_that_times_out_is_tried_twice() -> None:
    context = mock_context(dict(VALUES))
    context.put.side_effect = TimeoutError
    environment = Environment(interface=Interface(context=context))
    with patch("badger_k2eg.core.futures.sleep") as sleep, pytest.raises(TimeoutError, match="FIRST:COR:1:SP"):
        environment.set_variables({"FIRST:COR:1:SP": 1.0})
    assert context.put.call_count == 2
    assert sleep.call_args_list[0].args[0] == 1.0


def test_every_interface_gets_the_mock() -> None:
    context = mock_context(dict(VALUES))
    with patch("badger_k2eg.backends.pva.Context", return_value=context):
        assert Interface().get_value("FIRST:COR:1:RB") == 0.5
