"""An environment that goes past its interface with a client of its own: noticed, told, on record; never "not set"."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.core.records import Level, RecordKind
from badger_k2eg.errors import SetpointBlocked
from badger_k2eg.journal import Journal, RecordedRun
from interfaces.epics_pva import Interface

from .routines import POINTS, SETPOINTS, START, command, headless, written
from .test_child import run_in_child

pytestmark = [
    pytest.mark.usefixtures("badger_config", "quiet"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

#: As facilities write them: the interface is there, and what moves is another client.
OWN_CLIENT = """
from badger.environment import Environment as Base
from p4p.client.thread import Context

PVS = {"x0": "FIRST:COR:1:SP", "x1": "FIRST:COR:2:SP", "f": "FIRST:BEAM:SIZE"}
CLIENT = []


def client():
    if not CLIENT:
        CLIENT.append(Context("pva"))
    return CLIENT[0]


class Environment(Base):
    name = "own_client"
    variables = {"x0": [-2, 2], "x1": [-2, 2]}
    observables = ["f"]

    def get_variables(self, variable_names):
        return {name: float(client().get(PVS[name])) for name in variable_names}

    def set_variables(self, variable_inputs):
        for name, value in variable_inputs.items():
            client().put(PVS[name], value)

    def get_observables(self, observable_names):
        return {name: float(client().get(PVS[name])) for name in observable_names}
"""

#: No PV at all: what it sets, it keeps.
SPHERE = """
from badger.environment import Environment as Base

HERE = {"x0": 0.5, "x1": 0.5}


class Environment(Base):
    name = "ball"
    variables = {"x0": [-2, 2], "x1": [-2, 2]}
    observables = ["f"]

    def get_variables(self, variable_names):
        return {name: HERE[name] for name in variable_names}

    def set_variables(self, variable_inputs):
        HERE.update(variable_inputs)

    def get_observables(self, observable_names):
        return {"f": sum(value**2 for value in HERE.values())}
"""

SEEN = "environment own_client set nothing through its interface epics_pva"
LINE = f"unguarded: {SEEN}: its setpoints bypass the interface, without baseline, guard, lock and restore"


@pytest.fixture(scope="session")
def roots(plugin_root: Path) -> Path:
    for name, text in (("own_client", OWN_CLIENT), ("ball", SPHERE)):
        folder = plugin_root / "environments" / name
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text(text)
        (folder / "configs.yaml").write_text(f"name: {name}\nversion: '1'\ninterface: [epics_pva]\n")
    return plugin_root


@pytest.fixture
def ball(roots: Path, badger_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Badger's factory, which has looked at the root before, know the environment in this process too."""
    from badger.factory import BADGER_FACTORY

    monkeypatch.setitem(BADGER_FACTORY["environment"], "ball", None)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    return Journal.open()


def marks(run: RecordedRun) -> tuple[list[str], str]:
    """What its record says of it: while it went on, and at its end."""
    events = [r for r in run.records() if r.kind is RecordKind.EVENT and r.name == "unguarded"]
    assert all(event.own_level is Level.WARNING for event in events)
    (end,) = [r for r in run.records() if r.kind is RecordKind.RUN_END]
    return [event.message or "" for event in events], (end.data or {}).get("unguarded", "")


@pytest.mark.slow
def test_read_only_begins_no_second_evaluation(
    machine: Interface, roots: Path, journal: Journal, tmp_path: Path
) -> None:
    file = written(tmp_path, environment={"name": "own_client"})
    done = command("run", file, "--read-only", "--json", "--plugin-root", roots, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    told = f"{LINE}, and read-only does not hold"
    assert done.stderr.splitlines().count(told) == 1
    last = done.stderr.splitlines()[-1]
    assert last == f"badger-k2eg run: evaluation 2 was not begun: read-only does not hold: {SEEN}"
    assert re.search(r"^ 1/20  x0 -0.6 .*$", done.stderr, re.MULTILINE)
    assert "not set" not in done.stderr and "nothing was set on the machine" not in done.stderr
    # It did move, once.
    assert machine.get_values(SETPOINTS) == dict(zip(SETPOINTS, POINTS[0].values(), strict=True))
    outcome = json.loads(done.stdout)
    assert [(each["number"], each["was_set"]) for each in outcome["evaluations"]] == [(1, None)]
    assert (outcome["best"], outcome["exit_code"], f"unguarded: {outcome['unguarded']}") == (None, 3, told)
    assert outcome["machine"] == "read-only: nothing was set through the interface"
    run = journal.run("last")
    assert (run.id, run.reason, run.manifest["environment"]["name"]) == (outcome["run"], "failed", "own_client")
    assert marks(run) == ([outcome["unguarded"]], outcome["unguarded"])


@pytest.mark.extended
@pytest.mark.slow
def test_without_read_only_it_is_marked(machine: Interface, roots: Path, journal: Journal, tmp_path: Path) -> None:
    file = written(tmp_path, environment={"name": "own_client"})
    done = command("run", file, "--quiet", "--no-plot", "--evaluations", "4", "--plugin-root", roots, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{LINE}\n")
    run = journal.run("last")
    assert (run.reason, run.evaluation_count, run.manifest["interface"]) == ("success", 4, "epics_pva")
    assert marks(run) == ([LINE.removeprefix("unguarded: ")], LINE.removeprefix("unguarded: "))
    assert [set(each.readings) for each in run.evaluations()] == [{"f"}] * 4
    shown = command("runs", "show", "last", folder=tmp_path)
    assert f"unguarded    {SEEN}" in shown.stdout
    drawn = command("runs", "plot", "last", folder=tmp_path)
    assert (drawn.returncode, drawn.stderr) == (0, "")
    restored = command("runs", "restore", "last", "--yes", folder=tmp_path)
    assert restored.returncode == 2 and SEEN in restored.stderr


@pytest.mark.usefixtures("ball")
def test_a_function_moves_nothing_either(tmp_path: Path, memory_context: MemoryBackend) -> None:
    run = headless(memory_context, tmp_path, {"environment": {"name": "ball"}}, evaluations=3)
    assert len(run.run()) == 3
    assert run.unguarded is not None and run.unguarded.startswith("environment ball set nothing through its interface")
    assert run.title == "by hand (unguarded)"


def test_an_own_environment_that_goes_through_the_interface_is_guarded(
    tmp_path: Path, memory_context: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*SETPOINTS, "FIRST:COR:1:RB", "FIRST:COR:2:RB", "FIRST:BEAM:SIZE"):
        memory_context.add(name, START.get(name, 0.5))
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "yes")
    ranges = {name: [-2, 2] for name in SETPOINTS}
    routine = {
        "environment": {"name": "handwritten_environment"},
        "vocs": {"variables": ranges, "objectives": {"FIRST:BEAM:SIZE": "MINIMIZE"}},
        "initial_points": [dict(zip(SETPOINTS, point.values(), strict=True)) for point in POINTS],
    }
    run = headless(memory_context, tmp_path, routine, evaluations=3)
    assert [each.was_set for each in run.run()] == [False] * 3
    assert (run.unguarded, run.title, memory_context.puts) == (None, "by hand (read-only: nothing was set)", [])


def test_a_set_that_comes_later_takes_the_mark_off(
    tmp_path: Path, memory_context: MemoryBackend, journal: Journal
) -> None:
    for name in (*SETPOINTS, "FIRST:BEAM:SIZE"):
        memory_context.add(name, 0.5)
    run = headless(memory_context, tmp_path, evaluations=3)
    environment = run.routine.environment
    set_variables, points = type(environment).set_variables, []

    def lazily(self: Any, variable_inputs: Any) -> None:
        points.append(variable_inputs)
        if len(points) > 1:
            set_variables(self, variable_inputs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(environment), "set_variables", lazily)
        seen: list[str | None] = []
        run.run(lambda evaluation: seen.append(run.unguarded))
    assert seen[0] is not None and seen[1:] == [None, None]
    said, at_end = marks(journal.run("last"))
    assert (len(said), at_end) == (1, "")


@pytest.mark.usefixtures("ball")
def test_from_python(memory_context: MemoryBackend) -> None:
    from badger_k2eg.badger_app import session

    options = {"context": memory_context, "read_only": True}
    environment = session.load_environment("ball", interface_options=options)
    routine = session.make_routine(environment, {"f": "MINIMIZE"}, generator="random")
    with pytest.raises(SetpointBlocked, match="read-only does not hold: environment ball set nothing"):
        session.run(routine, 3)
    assert len(routine.data) == 1


@pytest.mark.usefixtures("ball")
def test_in_the_windows_child(journal: Journal, badger_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from badger.routine import Routine

    from badger_k2eg.badger_app.session import load_environment, make_routine
    from badger_k2eg.badger_app.witness import witness_evaluations

    monkeypatch.setattr(Routine, "evaluate_data", Routine.evaluate_data)
    witness_evaluations(Routine)
    routine = make_routine(load_environment("ball"), {"f": "MINIMIZE"}, generator="random")
    data, wrong, code = run_in_child(routine, badger_config)
    assert (wrong, code, len(data[-1])) == (None, 0, 4)
    run = journal.run("last")
    assert (run.reason, run.evaluation_count, run.manifest["environment"]["name"]) == ("success", 4, "ball")
    said, at_end = marks(run)
    assert said == [at_end] and at_end.startswith("environment ball set nothing through its interface epics_pva")
