"""Badger without its window: pv_template and the hand-written environment over real IOCs."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.badger_app.evaluation import Evaluation
from badger_k2eg.errors import ControlError, PutRefused, SettingsError
from badger_k2eg.testing.soft_ioc import SoftIoc
from interfaces.epics_pva import Interface

from .routines import SETPOINTS, START

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")

READBACKS = ["FIRST:COR:1:RB", "FIRST:COR:2:RB"]


def test_pv_template_finds_the_smallest_beam(machine: Interface) -> None:
    from badger_k2eg.badger_app import session

    environment = session.load_environment("pv_template")
    before = machine.get_value("FIRST:BEAM:SIZE")
    seen: list[Evaluation] = []
    routine = session.make_routine(
        environment, {"f": "MINIMIZE"}, initial_points=[], generator_options=session.first_simplex(environment, 0.15)
    )
    evaluations = session.run(routine, 20, seen.append)
    assert [evaluation.number for evaluation in evaluations] == list(range(1, 21))
    assert seen == evaluations
    assert evaluations[0].variables == {"x0": -0.5, "x1": 0.75}
    sizes = [evaluation.objectives["f"] for evaluation in evaluations]
    assert sizes[0] == pytest.approx(before, rel=0.05)
    assert min(sizes) < before / 3
    assert [e.best for e in evaluations] == [size == min(sizes[: i + 1]) for i, size in enumerate(sizes)]
    # Each size belongs to its own setpoints, and not to those before.
    for evaluation in evaluations:
        a, b = evaluation.variables["x0"] - 1.2, evaluation.variables["x1"] + 0.7
        size = math.sqrt(0.01 + (0.8 * a + 0.3 * b) ** 2 + (0.9 * b) ** 2)
        assert evaluation.objectives["f"] == pytest.approx(size, abs=0.002)


def handwritten(evaluations: int = 5) -> list[Any]:
    from badger_k2eg.badger_app import session

    environment = session.load_environment("handwritten_environment")
    routine = session.make_routine(environment, {"FIRST:BEAM:SIZE": "MINIMIZE"}, generator="random")
    return session.run(routine, evaluations)


def test_the_handwritten_environment_waits_for_its_readbacks(machine: Interface) -> None:
    *_, last = handwritten()
    arrived = machine.get_values(READBACKS)
    assert list(arrived.values()) == pytest.approx([last.variables[name] for name in SETPOINTS], abs=0.01)
    assert machine.get_values(SETPOINTS) == pytest.approx(last.variables)


def test_options_of_the_handwritten_environment_come_from_variables(
    machine: Interface, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from badger.factory import get_env

    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "yes")
    with caplog.at_level("INFO", "badger_k2eg"):
        evaluations = handwritten(3)
    assert machine.get_values(SETPOINTS) == START
    logged = [record.getMessage() for record in caplog.records if "would have set" in record.getMessage()]
    assert len(logged) == len(evaluations) == 3
    assert all(name in line for name in SETPOINTS for line in logged)
    monkeypatch.setenv("BADGER_K2EG_LIMITS", "FIRST:COR:1:SP=0..0.1")
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "no")
    with pytest.raises(ControlError, match="own limits"):
        handwritten(3)
    assert machine.get_values(SETPOINTS) == START
    assert get_env("handwritten_environment")[0].name == "handwritten_environment"


@pytest.mark.timing
def test_parallel_is_taken_from_a_variable(machine: Interface, monkeypatch: pytest.MonkeyPatch) -> None:
    from badger_k2eg.badger_app import session

    took = {}
    for parallel in ("no", "yes"):
        monkeypatch.setenv("BADGER_K2EG_PARALLEL", parallel)
        environment = session.load_environment("handwritten_environment")
        environment.get_variables(SETPOINTS)
        machine.set_values(START)
        time.sleep(0.3)  # until the readbacks are there too
        began = time.monotonic()
        environment.set_variables({"FIRST:COR:1:SP": 1.0, "FIRST:COR:2:SP": 1.0})
        took[parallel] = time.monotonic() - began
    # Each readback lags a tenth of a second.
    assert took["no"] >= 0.2
    assert took["yes"] < took["no"] - 0.05


def test_an_error_of_the_control_system_comes_out_as_itself(memory_context: MemoryBackend) -> None:
    from badger_k2eg.badger_app import session

    for name in (*SETPOINTS, "FIRST:BEAM:SIZE"):
        memory_context.add(name, 0.5)
    memory_context.fault(SETPOINTS[0], "refused")
    environment = session.load_environment("pv_template", interface_options={"context": memory_context})
    routine = session.make_routine(environment, {"f": "MINIMIZE"})
    with pytest.raises(PutRefused, match=SETPOINTS[0]) as caught:
        session.run(routine, 3)
    assert caught.value.report[SETPOINTS[0]].outcome == "refused"
    memory_context.fault(SETPOINTS[0], None)
    assert len(session.run(routine, 3)) == 3


def test_ctrl_c_in_an_evaluation_comes_out_as_itself(memory_context: MemoryBackend) -> None:
    from badger_k2eg.badger_app import session

    def interrupt(value: float) -> None:
        raise KeyboardInterrupt

    for name in (*SETPOINTS, "FIRST:BEAM:SIZE"):
        memory_context.add(name, 0.5)
    memory_context.on_put(SETPOINTS[0], interrupt)
    environment = session.load_environment("pv_template", interface_options={"context": memory_context})
    with pytest.raises(KeyboardInterrupt):
        session.run(session.make_routine(environment, {"f": "MINIMIZE"}), 3)


def test_a_run_leaves_badgers_archive_readable(soft_ioc: SoftIoc, restored: Callable[[str, Any], str]) -> None:
    from badger.archive import archive_run, load_run

    from badger_k2eg.badger_app import session

    pvs = {"x0": restored("DBL", 0.5), "x1": restored("FREE", 0.5), "f": soft_ioc.pv("STATIC")}
    environment = session.load_environment("pv_template", pvs)
    routine = session.make_routine(environment, {"f": "MAXIMIZE"}, generator="random")
    environment.interface.start_recording()
    session.run(routine, 3)
    archived = archive_run(routine)
    record = Path(archived["path"]) / "record.pickle"
    environment.interface.stop_recording(record)
    with record.open("rb") as file:
        assert len([entry for entry in pickle.load(file) if entry["action"] == "set_values"]) == 3
    loaded = load_run(archived["filename"])
    assert len(loaded.data) == 3
    assert loaded.environment.x0 == pvs["x0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("nowhere",),
            "there is no environment 'nowhere'; environments are fel_linac, handwritten_environment, pv_template,",
        ),
        (("pv_template", {"readonly": "yes"}), "there is no parameter 'readonly'"),
    ],
)
def test_a_wrong_name_is_one_clear_line(arguments: Any, words: str) -> None:
    from badger_k2eg.badger_app import session

    with pytest.raises(SettingsError, match=words):
        session.load_environment(*arguments)
    with pytest.raises(SettingsError, match="there is no interface 'carrier_pigeon'; interfaces are epics_pva"):
        session.load_environment("pv_template", interface="carrier_pigeon")


def test_badger_is_configured_once(tmp_path: Path, plugin_root: Path) -> None:
    from badger_k2eg.badger_app.plugin_files import plugin_names
    from badger_k2eg.badger_app.session import open_badger

    with pytest.raises(ControlError, match="already configured"):
        open_badger(tmp_path)
    assert plugin_names("interfaces", plugin_root) == ["epics_pva", "k2eg", "replay"]
