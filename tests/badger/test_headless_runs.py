"""``HeadlessRun`` from Python, on a machine in memory: ends, where the machine is left, archives."""

from __future__ import annotations

import io
import re
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.badger_app.environment import ControlEnvironment
from badger_k2eg.badger_app.headless import HeadlessRun
from badger_k2eg.errors import ControlError, PutRefused, ReadTimeout, SetpointBlocked, SettingsError
from badger_k2eg.tuning import Knob, Observable
from interfaces.epics_pva import Interface
from tests.rig.pace import pace

from .routines import POINTS, SETPOINTS, START, headless, rows, vocs

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")


def test_ends_hold_among_the_initial_points_too(memory: MemoryBackend, tmp_path: Path) -> None:
    run = headless(memory, tmp_path, evaluations=2)
    assert [each.variables for each in run.run()] == POINTS[:2]
    assert run.reason == "2 evaluations done"
    run = headless(memory, tmp_path, target=0.7)
    assert (len(run.run()), run.reason) == (2, "target reached: f is 0.64")
    run = headless(memory, tmp_path, seconds=0.25)
    began = time.monotonic()
    done = run.run(lambda evaluation: time.sleep(0.1))
    assert 1 <= len(done) <= 3
    assert run.reason == "0.25 s are over"
    assert time.monotonic() - began < 3 * pace()
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
    with pytest.raises(ControlError, match=r"x0 is at 3, outside its bounds, -2 to 2"):
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


def test_in_read_only_nothing_is_the_best(memory: MemoryBackend, tmp_path: Path) -> None:
    environment = {"name": "pv_template", "read_only": "yes"}
    run = headless(memory, tmp_path, {"environment": environment}, target=1e9, at_end="best")
    # A target alone would never end it.
    assert run.ends == "after 20 evaluations"
    run.run()
    assert {(each.best, each.was_set) for each in run.evaluations} == {(False, False)}
    assert (len(run.evaluations), run.best, memory.puts) == (20, None, [])
    assert run.moved == "read-only: nothing was set on the machine"
    assert run.title == "by hand (read-only: nothing was set)"
    # Out of its bounds it could not be put back; in read-only nothing has to be.
    memory.post(SETPOINTS[0], 3.0)
    assert len(headless(memory, tmp_path, {"environment": environment}, evaluations=2, at_end="restore").run()) == 2


@pytest.mark.parametrize("given", [None, [{"x0": -0.6, "x1": 0.8}]])
def test_nelder_mead_measures_where_it_begins_once(memory: MemoryBackend, tmp_path: Path, given: Any) -> None:
    run = headless(memory, tmp_path, {"initial_points": given}, evaluations=4)
    run.run()
    points = [tuple(each.variables.values()) for each in run.evaluations]
    assert points[0] == (tuple(START.values()) if given is None else (-0.6, 0.8))
    assert len(set(points)) == 4
    assert rows(run.archive) == 4


class TwoGoals(ControlEnvironment):
    """f is to be small and the first corrector itself large: the one is bought with the other."""

    name = "two_goals"
    knobs = {f"x{i}": Knob(pv, bounds=(-2.0, 2.0)) for i, pv in enumerate(SETPOINTS)}
    measures = {"f": Observable("FIRST:BEAM:SIZE", fresh=False), "x": Observable(SETPOINTS[0], fresh=False)}


def two_goals(memory: MemoryBackend, points: list[tuple[float, float]]) -> HeadlessRun:
    from badger_k2eg.badger_app.session import make_routine

    routine = make_routine(
        TwoGoals(interface=Interface(context=memory)),
        {"f": "MINIMIZE", "x": "MAXIMIZE"},
        generator="random",
        initial_points=[{"x0": x0, "x1": x1} for x0, x1 in points],
    )
    run = HeadlessRun(routine, evaluations=len(points))
    run.run()
    return run


def test_a_front_of_two_objectives(memory: MemoryBackend, tmp_path: Path) -> None:
    from badger_k2eg.badger_app.plot import plot_run

    run = two_goals(memory, [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.5, 0.0), (0.4, 0.9), (-1.0, 0.0)])
    # The third is beaten by the second, the fifth by the fourth, and the last by all.
    assert [each.number for each in run.front] == [1, 4, 2]
    assert run.best is None
    ranges = dict.fromkeys(("x0", "x1"), (-2.0, 2.0))
    plain = plot_run(run.evaluations, tmp_path / "plain.png", title=run.title, ranges=ranges)
    with_front = plot_run(run.evaluations, tmp_path / "front.png", title=run.title, ranges=ranges, front=run.front)
    heights = [struct.unpack(">II", file.read_bytes()[16:24])[1] for file in (plain, with_front)]
    assert heights[1] > heights[0]


def test_the_front_is_told_at_the_end(memory: MemoryBackend, tmp_path: Path) -> None:
    from badger_k2eg.cli import run_report

    run = two_goals(memory, [(0.05 * n, 0.0) for n in range(20)])
    console = Console(record=True, width=100, file=io.StringIO())
    run_report.show(run, console, tmp_path, None)
    said = console.export_text()
    assert "front: 20 of 20 evaluations are not dominated, 15 of them shown" in said
    listed = [int(number) for number in re.findall(r"^│ +(\d+) │", said, re.MULTILINE)]
    assert (len(listed), listed[0], listed[-1]) == (15, 1, 20)
    assert run_report.outcome(run, 0, None, None)["front"] == list(range(1, 21))


def test_where_not_one_pv_answers_there_is_a_hint(memory_context: MemoryBackend, tmp_path: Path) -> None:
    with pytest.raises(ReadTimeout, match="EPICS_PVA_ADDR_LIST.*`badger-k2eg ioc`"):
        headless(memory_context, tmp_path, {"initial_points": None})
    run = headless(memory_context, tmp_path)
    with pytest.raises(ReadTimeout, match="EPICS_PVA_ADDR_LIST"):
        run.run()
    # One that answers: the address is right, and a name is wrong.
    memory_context.add(SETPOINTS[0], 0.0)
    with pytest.raises(ReadTimeout, match=SETPOINTS[1]) as caught:
        headless(memory_context, tmp_path).run()
    assert "ADDR_LIST" not in str(caught.value)


def test_an_error_of_several_lines_is_told_in_one() -> None:
    from badger_k2eg.badger_app.headless import first_line

    error = SetpointBlocked("nothing was set:\nA: its readback R does not answer\nB: 9 is outside its limits")
    assert first_line(error) == "nothing was set: A: its readback R does not answer; B: 9 is outside its limits"
