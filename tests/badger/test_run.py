"""``badger-k2eg run`` and ``ioc``: exit codes, what is said and written, and the mistakes that a file may hold."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.errors import ControlError, PutRefused, SettingsError
from badger_k2eg.testing.ports import PartPorts
from badger_k2eg.testing.soft_ioc import Part, client_environment
from interfaces.epics_pva import Interface

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")

CLONE = Path(__file__).resolve().parents[2]
SETPOINTS = ["FIRST:COR:1:SP", "FIRST:COR:2:SP"]
START = dict(zip(SETPOINTS, (-0.5, 0.75), strict=True))
POINTS = [{"x0": -0.6, "x1": 0.8}, {"x0": 0.0, "x1": 0.8}, {"x0": -0.6, "x1": 0.2}]

#: pv_template, but every step takes a while, and one of them fails on demand.
SLOW_STEPS = """
import time

from environments.pv_template import Environment as PvTemplate


class Environment(PvTemplate):
    name = "slow_steps"
    variables = dict(PvTemplate.variables)
    observables = ["f"]

    pause: float = 0.0
    fails_above: float = 9.0

    def set_variables(self, variable_inputs):
        time.sleep(self.pause)
        if variable_inputs["x0"] > self.fails_above:
            raise RuntimeError("the cooling water is off")
        super().set_variables(variable_inputs)
"""


@pytest.fixture(scope="session")
def slow_steps(plugin_root: Path) -> Path:
    """The plugin root, with the environment ``slow_steps``."""
    folder = plugin_root / "environments" / "slow_steps"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(SLOW_STEPS)
    (folder / "configs.yaml").write_text("name: slow_steps\nversion: '1'\ninterface: [epics_pva]\n")
    return plugin_root


def content(**changes: Any) -> dict[str, Any]:
    """A routine as somebody writes it; None takes a key out."""
    routine = {
        "name": "by hand",
        "environment": {"name": "pv_template"},
        "generator": {"name": "neldermead"},
        "vocs": {"variables": {"x0": [-2, 2], "x1": [-2, 2]}, "objectives": {"f": "MINIMIZE"}},
        "initial_points": POINTS,
        **changes,
    }
    return {key: value for key, value in routine.items() if value is not None}


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "routine.yaml"
    file.write_text(yaml.safe_dump(content(**changes)))
    return file


def command(*words: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "badger_k2eg.cli", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        timeout=55,
    )


def archives(output: Path) -> list[Path]:
    return sorted((output / "archive").rglob("*.yaml"))


def rows(archive: Path) -> int:
    return len(yaml.safe_load(archive.read_text())["data"]["f"])


@pytest.fixture
def machine(first_ioc: Part) -> Interface:
    """Looks at the machine, which is where each run starts."""
    interface = Interface()
    interface.set_values(START)
    return interface


@pytest.fixture
def memory(memory_context: MemoryBackend) -> MemoryBackend:
    """The same machine without noise, in memory: f is the sum of the squares."""
    for name, value in START.items():
        memory_context.add(name, value)
    memory_context.add("FIRST:BEAM:SIZE", sum(value**2 for value in START.values()))
    present = dict(START)

    def follow(name: str) -> None:
        def put(value: float) -> None:
            present[name] = value
            memory_context.post("FIRST:BEAM:SIZE", sum(each**2 for each in present.values()))

        memory_context.on_put(name, put)

    for name in SETPOINTS:
        follow(name)
    return memory_context


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_is_done(machine: Interface, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routine = CLONE / "examples" / "routines" / "neldermead.yaml"
    plot = tmp_path / "plots" / "run.png"
    ended = ("--evaluations", "30", "--target", "0.6", "--go-to-best")
    done = command("run", routine, *ended, "--output", "out", "--plot", plot, folder=tmp_path, TTY_COMPATIBLE="1")
    assert (done.returncode, done.stderr) == (0, "")
    said = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", done.stdout)
    assert "neldermead on pv_template through epics_pva" in said
    assert "ends after 30 evaluations or when f is 0.6 or less" in said
    lines = re.findall(r"^ *(\d+)/30  x0 (\S+)  x1 (\S+)  f (\S+)(  best)?", said, re.MULTILINE)
    assert [int(line[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0][1:3] == ("-0.6", "0.8")
    assert 3 < len(lines) < 30
    sizes = [float(line[3]) for line in lines]
    assert sizes[-1] <= 0.6 < min(sizes[:-1])
    assert [bool(line[4]) for line in lines] == [size == min(sizes[: i + 1]) for i, size in enumerate(sizes)]
    # The bar, with the best so far, and the table.
    assert re.search(rf"evaluations .*{len(lines)}/30 .*best f {sizes[-1]:g}", said)
    reached = re.search(r"target reached: f is (\S+)", said)
    assert reached is not None
    assert float(reached[1]) == pytest.approx(sizes[-1], rel=1e-3)
    table = {row[0]: row[1:] for row in re.findall(r"│ (\w+) +│ +(\S+) │ +(\S+) │ +(\S+) │", said)}
    assert table["x0"] == ("-0.5", lines[-1][1], lines[-1][1])
    assert float(table["f"][0]) == pytest.approx(1.59, abs=0.1)
    assert machine.get_value(SETPOINTS[0]) == pytest.approx(float(lines[-1][1]), rel=1e-3)

    png = plot.read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert 600 < width < 2000 and 400 < height < 2000 and len(png) > 15_000
    (archive,) = archives(tmp_path / "out")
    assert f"archive: {archive}" in said
    with archive.with_suffix(".pickle").open("rb") as file:
        assert len([entry for entry in pickle.load(file) if entry["action"] == "set_values"]) == len(lines) + 1
    monkeypatch.setattr("badger.archive.BADGER_ARCHIVE_ROOT", str(tmp_path / "out" / "archive"))
    from badger.archive import load_run

    loaded = load_run(archive.name)
    assert len(loaded.data) == len(lines)
    assert loaded.data["f"].min() == pytest.approx(sizes[-1], rel=1e-3)


@pytest.mark.slow
def test_read_only_moves_nothing_and_json_tells_all(machine: Interface, tmp_path: Path) -> None:
    # What Badger's own loading drops: the interface and its parameters.
    interface = {"name": "epics_pva", "params": {"read_only": True}}
    file = written(tmp_path, environment={"name": "pv_template", "read_only": "no"}, interface=interface)
    done = command("run", file, "--json", "--set", "timeout=4", "--no-plot", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["read_only"] is True
    assert outcome["exit_code"] == 0
    assert (len(outcome["evaluations"]), outcome["ended"]) == (20, "20 evaluations done")
    assert "ends after 20 evaluations (nothing else was said)" in done.stderr
    assert "read-only: nothing is set" in done.stderr
    assert machine.get_values(SETPOINTS) == START
    assert outcome["end"]["x0"] == START[SETPOINTS[0]]
    assert outcome["plot"] is None
    (archive,) = archives(tmp_path / "badger-runs")
    assert str(archive) == outcome["archive"]
    assert yaml.safe_load(archive.read_text())["environment"]["timeout"] == "4"
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.slow
def test_a_guard_that_refuses_is_code_3(machine: Interface, tmp_path: Path) -> None:
    file = written(tmp_path)
    limits = f"{SETPOINTS[0]}=-1..-0.2"
    done = command("run", file, "--quiet", folder=tmp_path, BADGER_K2EG_LIMITS=limits)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("badger-k2eg run: evaluation 2 failed: ")
    assert SETPOINTS[0] in line and "own limits" in line
    assert [rows(archive) for archive in archives(tmp_path / "badger-runs")] == [1]
    assert machine.get_values(SETPOINTS) == dict(zip(SETPOINTS, (-0.6, 0.8), strict=True))


@pytest.mark.slow
def test_an_evaluation_that_fails_is_code_1_and_the_machine_is_restored(
    machine: Interface, slow_steps: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, environment={"name": "slow_steps"})
    words = ("--plugin-root", slow_steps, "--set", "fails_above=-0.1", "--restore", "--seconds", "30")
    done = command("run", file, *words, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "badger-k2eg run: evaluation 2 failed: RuntimeError: the cooling water is off"
    assert "the machine is where it was before" in done.stdout
    assert machine.get_values(SETPOINTS) == START
    assert [rows(archive) for archive in archives(tmp_path / "badger-runs")] == [1]
    assert len(list((tmp_path / "badger-runs").glob("slow_steps-*.png"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)])
def test_a_signal_in_mid_evaluation_ends_the_run_after_it(
    number: signal.Signals, name: str, code: int, machine: Interface, slow_steps: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, environment={"name": "slow_steps", "pause": 1.0})
    words = ["run", str(file), "--plugin-root", str(slow_steps), "--evaluations", "50"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "badger_k2eg.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with process:
        try:
            assert process.stdout is not None
            while not process.stdout.readline().startswith(" 1/50"):
                assert process.poll() is None
            # In the second step, while it sleeps; and once more, as the impatient do.
            for _ in range(2):
                time.sleep(0.3)
                process.send_signal(number)
            output, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, error) == (code, "")
    assert f"stopped by {name}" in output
    # The second evaluation was finished: the machine is where it asked it to be, and the third never began.
    assert machine.get_values(SETPOINTS) == dict(zip(SETPOINTS, (0.0, 0.8), strict=True))
    assert [rows(archive) for archive in archives(tmp_path / "badger-runs")] == [2]
    assert "│ x0 │" in output
    assert len(list((tmp_path / "badger-runs").glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.yaml",), "badger-k2eg run: Invalid value for 'ROUTINE': File 'nowhere.yaml' does not exist."),
        (("list.yaml",), "badger-k2eg: list.yaml: not a routine file"),
        (("broken.yaml",), "badger-k2eg: broken.yaml: not a YAML file: "),
        (("list.yaml", "--set", "x0"), "badger-k2eg run: Invalid value for '--set': 'x0' is not NAME=VALUE"),
        (("list.yaml", "--plot", "x.txt"), "badger-k2eg run: Invalid value for '--plot': x.txt does not end in .png"),
        (("list.yaml", "--evaluations", "0"), "badger-k2eg run: Invalid value for '--evaluations': 0 is not in"),
    ],
)
def test_a_mistake_in_the_command_is_code_2(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from badger_k2eg.cli import main

    with contextlib.chdir(tmp_path):
        (tmp_path / "list.yaml").write_text("- 1\n")
        (tmp_path / "broken.yaml").write_text("name: [\n")
        result = CliRunner().invoke(main, ["run", *words], prog_name="badger-k2eg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_mistake_in_the_file_is_code_2_and_leaves_no_folder(tmp_path: Path) -> None:
    file = written(tmp_path, vocs={"variables": {"x0": [2, -2]}, "objectives": {"f": "MINIMIZE"}})
    done = command("run", file, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == f"badger-k2eg: {file}: vocs: variables: x0: bounds reversed: 2 is above -2"
    assert [path.name for path in tmp_path.iterdir()] == ["routine.yaml"]


# -- mistakes in the file ---------------------------------------------------------------------------------------------


def vocs(**changes: Any) -> dict[str, Any]:
    return {**content()["vocs"], **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": None}, "environment: missing"),
        ({"generator": None}, "generator: missing"),
        ({"environment": {"name": "pv_templat"}}, "environment: there is no environment 'pv_templat'; did you mean"),
        ({"environment": {"name": "pv_template", "x9": "A"}}, "environment pv_template: there is no parameter 'x9'"),
        ({"environment": {"name": "pv_template", "read_only": "perhaps"}}, "environment pv_template: read_only: say"),
        ({"environment": {"name": "pv_template", "interface_name": "pigeon"}}, "there is no interface 'pigeon'"),
        ({"interface": {"name": "pigeon"}}, "there is no interface 'pigeon'"),
        ({"interface": {"name": "epics_pva", "params": {"readonly": True}}}, "there is no option 'readonly'"),
        ({"generator": {"name": "nelder"}}, "generator: there is no generator 'nelder'; did you mean 'neldermead'"),
        ({"generator": {"name": "neldermead", "adaptiv": True}}, "generator neldermead: there is no option 'adaptiv'"),
        ({"generator": {"name": "neldermead", "adaptive": "x"}}, "generator neldermead: adaptive: Input should be"),
        ({"vocs": vocs(variables={})}, "vocs: variables: there is none"),
        ({"vocs": vocs(objectives={})}, "vocs: objectives: there is none"),
        ({"vocs": vocs(objectives={"f": "SMALL"})}, "vocs: objectives"),
        ({"vocs": vocs(variables={"x0": [2, -2]})}, "vocs: variables: x0: bounds reversed: 2 is above -2"),
        ({"vocs": vocs(variables={"x0": [1, 1]})}, "vocs: variables: x0: nothing lies between 1 and 1"),
        ({"vocs": vocs(variables={"x0": 3})}, "vocs: variables: x0: a range is two numbers, not 3"),
        ({"vocs": vocs(variables={"x0": [0, 9]})}, "x0: 0 to 9 goes beyond environment pv_template: -2 to 2"),
        ({"vocs": vocs(variables={"q1": [0, 1]})}, "q1: environment pv_template has no such variable"),
        ({"vocs": vocs(objectives={"g": "MINIMIZE"})}, "objectives: g: environment pv_template has no such observable"),
        ({"initial_points": [{"x0": 0.0}]}, "initial_points: a point has x0, x1, and not x0"),
        ({"initial_points": [{"x0": 0.0, "x1": 3.0}]}, "initial_points: x1 = 3 is not within its range, -2 to 2"),
        ({"generators": {}}, "generators: no such key; did you mean 'generator'"),
        ({"max_evaluations": 0}, "routine: stopping_condition: MaxEvaluationsCondition: max_evaluations: Input should"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(
    changes: dict[str, Any], said: str, memory: MemoryBackend, tmp_path: Path
) -> None:
    from badger_k2eg.badger_app.headless import load_routine

    file = written(tmp_path, **changes)
    with pytest.raises(SettingsError, match=f"^{re.escape(str(file))}: .*{re.escape(said)}") as caught:
        load_routine(file, context=memory)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(str(file)) == 1
    assert memory.value(SETPOINTS[0]) == START[SETPOINTS[0]]


@pytest.mark.parametrize("file", sorted((CLONE / "examples" / "routines").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_routines_fit_their_environments(file: Path) -> None:
    from badger_k2eg.badger_app.routine_file import read_routine_file

    routine = read_routine_file(file).content
    environment = importlib.import_module(f"environments.{routine['environment']['name']}").Environment
    assert routine["environment"].keys() - {"name"} <= environment.model_fields.keys()
    bounds = {name: environment.variables[name] for name in routine["vocs"]["variables"]}
    for name, (low, high) in routine["vocs"]["variables"].items():
        assert bounds[name][0] <= low < high <= bounds[name][1]
    wanted = {*routine["vocs"]["objectives"], *routine["vocs"].get("constraints", {})}
    assert wanted <= set(environment.observables)
    assert routine["max_evaluations"] > 0


# -- a run, from Python -----------------------------------------------------------------------------------------------


def headless(memory: MemoryBackend, folder: Path, routine: dict[str, Any] | None = None, **options: Any) -> Any:
    from badger_k2eg.badger_app.headless import HeadlessRun, load_routine

    return HeadlessRun(load_routine(written(folder, **(routine or {})), context=memory), **options)


def test_ends_hold_among_the_initial_points_too(memory: MemoryBackend, tmp_path: Path) -> None:
    run = headless(memory, tmp_path, evaluations=2)
    assert [each.variables for each in run.run()] == POINTS[:2]
    assert run.reason == "2 evaluations done"
    run = headless(memory, tmp_path, target=0.7)
    assert (len(run.run()), run.reason) == (2, "target reached: f is 0.64")
    run = headless(memory, tmp_path, seconds=0.25)
    began = time.monotonic()
    done = run.run(lambda evaluation: time.sleep(0.1))
    assert (len(done), run.reason) == (3, "0.25 s are over")
    assert time.monotonic() - began < 3
    run = headless(memory, tmp_path)
    run.run(lambda evaluation: run.stop("enough") if evaluation.number == 2 else None)
    assert (len(run.evaluations), run.reason) == (2, "enough")


def test_the_files_own_ends_are_kept_or_replaced(memory: MemoryBackend, tmp_path: Path) -> None:
    assert len(headless(memory, tmp_path, {"max_evaluations": 4}).run()) == 4
    assert len(headless(memory, tmp_path, {"max_evaluations": 4}, evaluations=6).run()) == 6
    condition = {"name": "TargetValueCondition", "objective_name": "f", "target_value": 0.7}
    run = headless(memory, tmp_path, {"stopping_condition": condition}, seconds=20)
    assert (len(run.run()), run.reason) == (2, "the routine's TargetValueCondition holds")


def test_where_the_machine_is_left(memory: MemoryBackend, tmp_path: Path) -> None:
    best = {"generator": {"name": "random"}, "initial_points": [*POINTS, {"x0": 1.0, "x1": 1.0}]}
    for at_end, left in (("stay", (1.0, 1.0)), ("best", tuple(POINTS[2].values())), ("restore", tuple(START.values()))):
        before = {name: memory.value(name) for name in SETPOINTS}
        run = headless(memory, tmp_path, best, evaluations=4, at_end=at_end)
        run.run()
        assert tuple(run.start.variables.values()) == tuple(before.values())
        expected = tuple(before.values()) if at_end == "restore" else left
        assert tuple(memory.value(name) for name in SETPOINTS) == expected
        assert tuple(run.end.variables.values()) == expected


def test_a_failed_restore_is_not_a_success(memory: MemoryBackend, tmp_path: Path) -> None:
    run = headless(memory, tmp_path, evaluations=2, at_end="restore")
    with pytest.raises(ControlError, match=f"NOT where it was before: {SETPOINTS[0]}"):
        run.run(lambda evaluation: memory.fault(SETPOINTS[0], "refused") if evaluation.number == 2 else None)
    assert run.archive.is_file()
    memory.fault(SETPOINTS[0], None)
    memory.post(SETPOINTS[0], 3.0)
    run = headless(memory, tmp_path, evaluations=2, at_end="restore")
    with pytest.raises(ControlError, match=r"x0 is at 3, out of its bounds -2 to 2"):
        run.run()
    assert (run.evaluations, memory.value(SETPOINTS[0])) == ([], 3.0)


def test_what_failed_is_raised_and_what_was_done_is_kept(memory: MemoryBackend, tmp_path: Path) -> None:
    run = headless(memory, tmp_path, evaluations=9)
    with pytest.raises(PutRefused, match=SETPOINTS[0]):
        run.run(lambda evaluation: memory.fault(SETPOINTS[0], "refused") if evaluation.number == 2 else None)
    assert (len(run.evaluations), run.reason) == (2, "evaluation 3 failed")
    assert rows(run.archive) == 2


def test_an_archived_run_runs_again_from_its_beginning(memory: MemoryBackend, tmp_path: Path) -> None:
    from badger_k2eg.badger_app.headless import HeadlessRun, load_routine

    # Without initial points the state that Nelder-Mead has saved of itself would count.
    simplex = {name: [point[name] for point in POINTS] for name in ("x0", "x1")}
    generator = {"name": "neldermead", "initial_point": POINTS[0], "initial_simplex": simplex}
    first = headless(memory, tmp_path, {"generator": generator, "initial_points": None}, evaluations=7)
    first.run()
    again = HeadlessRun(load_routine(first.archive, context=memory), evaluations=7)
    again.run()
    assert [each.variables for each in again.evaluations] == [each.variables for each in first.evaluations]
    assert again.archive != first.archive
    assert (rows(first.archive), rows(again.archive)) == (7, 7)


def test_no_point_fulfils_the_constraint_yet(memory: MemoryBackend, tmp_path: Path) -> None:
    wanted = vocs(objectives={"f": "MAXIMIZE"}, constraints={"f": ["LESS_THAN", 0.5]})
    run = headless(memory, tmp_path, {"generator": {"name": "random"}, "vocs": wanted}, evaluations=40)
    run.run()
    assert [each.feasible for each in run.evaluations] == [each.objectives["f"] < 0.5 for each in run.evaluations]
    assert [each.feasible for each in run.evaluations[:2]] == [False, False]
    assert run.best.objectives["f"] == max(each.objectives["f"] for each in run.evaluations if each.feasible)


def test_ranges_and_points_around_the_present(memory: MemoryBackend, tmp_path: Path) -> None:
    option = {"limit_option_idx": 1, "ratio_full": 0.1, "ratio_curr": 0.1}
    changes = {
        "generator": {"name": "random"},
        "relative_to_current": True,
        "vrange_limit_options": {"x0": option, "x1": option},
        "initial_point_actions": [
            {"type": "add_curr"},
            {"type": "add_rand", "config": {"n_points": 2, "fraction": 0.5}},
        ],
    }
    run = headless(memory, tmp_path, changes, evaluations=8)
    run.run()
    assert list(run.evaluations[0].variables.values()) == list(START.values())
    for each in run.evaluations:
        for value, here in zip(each.variables.values(), START.values(), strict=True):
            assert abs(value - here) <= 0.2 + 1e-9
    assert len({each.variables["x0"] for each in run.evaluations}) == 8


def test_restrictions_of_the_file_only_tighten(
    memory: MemoryBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A saved file holds every option of the interface, also those that nobody has touched.
    saved = {"name": "epics_pva", "read_only": False, "timeout": 3.0, "put_attempts": 2, "limits": None, "relative": []}
    environment = {"name": "pv_template", "interface": saved}
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "yes")
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "7")
    run = headless(memory, tmp_path, {"environment": environment}, evaluations=2)
    settings = run.routine.environment.interface.settings
    assert (settings.read_only, settings.timeout) == (True, 7.0)
    run.run()
    assert memory.value(SETPOINTS[0]) == START[SETPOINTS[0]]
    monkeypatch.setenv("BADGER_K2EG_READ_ONLY", "no")
    environment["interface"] = {**saved, "max_step": {"*": 0.2}, "timeout": 2.0}
    run = headless(memory, tmp_path, {"environment": environment}, evaluations=2)
    assert run.routine.environment.interface.settings.timeout == 2.0
    with pytest.raises(ControlError, match="0.2"):
        run.run()


def test_ends_that_make_no_sense(memory: MemoryBackend, tmp_path: Path) -> None:
    several = {"vocs": vocs(objectives={"f": "EXPLORE"}), "generator": {"name": "random"}}
    for options in ({"target": 1.0}, {"at_end": "best"}):
        with pytest.raises(SettingsError, match="one objective to minimize or maximize"):
            headless(memory, tmp_path, several, **options)
    with pytest.raises(SettingsError, match="1 evaluation or more"):
        headless(memory, tmp_path, evaluations=0)


# -- example IOCs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "virtual_injector"])
def test_an_example_ioc_in_the_foreground(
    name: str, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    psutil = pytest.importorskip("psutil")
    if name != "demo" and not (CLONE / "examples" / name / "ioc.py").is_file():
        pytest.skip("no such example yet")
    ports = PartPorts()
    outside = {key: value for key, value in os.environ.items() if not key.startswith("EPICS_")}
    serving = {
        "EPICS_PVAS_BROADCAST_PORT": str(ports.pva_udp),
        "EPICS_PVAS_SERVER_PORT": str(ports.pva_tcp),
        "EPICS_CAS_SERVER_PORT": str(ports.ca),
    }
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "badger_k2eg.cli", "ioc", name, "--prefix", "TRY"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={**outside, **serving},
    )
    with process:
        try:
            assert process.stdout is not None
            assert (first := process.stdout.readline()).startswith(f"the IOC {name} serves TRY:*"), first
            (pv,) = re.findall(r"try (\S+)\)", first)
            said = dict(re.findall(r"(EPICS_\w+)=(\S+)", process.stdout.readline() + process.stdout.readline()))
            # With what it says, and nothing else, a client finds it.
            program = f"from interfaces.epics_pva import Interface; print(Interface().get_value({pv!r}))"
            others = {k: v for k, v in client_environment().items() if k in ("EPICS_PVA_BROADCAST_PORT",)}
            read = run_python(program, env={**outside, **others, **said})
            assert float(read.stdout) != 0, read.stderr
            (child,) = psutil.Process(process.pid).children()
            process.send_signal(signal.SIGINT if name == "demo" else signal.SIGTERM)
            output, _ = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0
    assert output.splitlines()[-1] == f"the IOC {name} is ended"
    assert psutil.wait_procs([child], timeout=5)[1] == []
