"""Badger's own child process: forked by the window while this process holds a live client, twice in a row."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.testing.soft_ioc import SoftIoc
from environments.pv_template import Environment
from interfaces.epics_pva import Interface

pytestmark = [
    pytest.mark.usefixtures("badger_config", "quiet"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

EVALUATIONS = 4


def run_in_child(routine: Any, config: Path) -> tuple[list[Any], Any, int | None]:
    """Do what the window does for one run; gives the data it received, what went wrong, and the exit code."""
    from badger.archive import save_tmp_run
    from badger.core_subprocess import run_routine_subprocess

    context = multiprocessing.get_context("fork")
    queue, actions = context.Queue(), context.Queue()
    to_window = context.Pipe()
    stop, pause, wait = context.Event(), context.Event(), context.Event()
    # The window forks its child long before the user presses Run.
    child = context.Process(
        target=run_routine_subprocess,
        args=(queue, to_window, stop, pause, wait, str(config), None, actions),
    )
    child.start()
    queue.put(
        {
            "routine_id": routine.id,
            "routine_filename": save_tmp_run(routine),
            "routine_name": routine.name,
            "variable_ranges": routine.vocs.variables,
            "initial_points": routine.initial_points,
            "evaluate": True,
            "archive": False,
            "termination_condition": {"tc_idx": 0, "max_eval": EVALUATIONS},
            "start_time": time.time(),
            "testing": True,
            "run_data": False,
            "init_points": True,
            "verbose": 0,
        }
    )
    wait.set()
    pause.set()
    data = []
    until = time.monotonic() + 40
    try:
        while child.is_alive() and time.monotonic() < until:
            while to_window[1].poll(0.05):
                data.append(to_window[1].recv()[0])
        child.join(1)
        wrong = None if queue.empty() else queue.get()
        return data, wrong, child.exitcode
    finally:
        if child.is_alive():
            child.kill()
            child.join()
        for each in (queue, actions):
            each.close()
            each.join_thread()


def test_two_runs_in_a_row_beside_a_live_client(
    soft_ioc: SoftIoc, restored: Callable[[str, Any], str], badger_config: Path
) -> None:
    from badger_k2eg.badger_app.session import make_routine

    knobs = {"x0": restored("DBL", 0.5), "x1": restored("FREE", 0.75)}
    window = Interface()
    events: list[Any] = []
    watching = window.control.monitor(soft_ioc.pv("COUNT"), events.append)
    try:
        for read_only in ("as configured", "yes"):
            environment = Environment(interface=Interface(), f=soft_ioc.pv("STATIC"), read_only=read_only, **knobs)
            routine = make_routine(environment, {"f": "MINIMIZE"}, generator="random")
            before = window.get_values(list(knobs.values()))
            data, wrong, code = run_in_child(routine, badger_config)
            assert (wrong, code) == (None, 0)
            assert len(data[-1]) == EVALUATIONS
            last = dict(zip(knobs.values(), data[-1].iloc[-1][["x0", "x1"]], strict=True))
            # The environment's parameters went with the routine: its PVs, and whether anything may move.
            after = window.get_values(list(knobs.values()))
            assert after == (before if read_only == "yes" else pytest.approx(last))
        # The client of this process has come back from every fork.
        count = len(events)
        until = time.monotonic() + 5
        while len(events) < count + 3 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(events) >= count + 3
    finally:
        watching.close()
        window.reset_interface()


def test_a_routine_survives_its_file(soft_ioc: SoftIoc, badger_config: Path, tmp_path: Path) -> None:
    from badger.routine import Routine

    from badger_k2eg.badger_app.session import make_routine

    environment = Environment(interface=Interface(), f=soft_ioc.pv("STATIC"), timeout=4, parallel=True)
    environment.get_observables(["f"])  # a live client is inside
    points = [{"x0": 0.5, "x1": 0.5}]
    make_routine(environment, {"f": "MINIMIZE"}, generator="random", initial_points=points).dump(tmp_path / "run.yaml")
    loaded = Routine.from_file(str(tmp_path / "run.yaml"))
    assert loaded.environment.f == soft_ioc.pv("STATIC")
    assert (loaded.environment.timeout, loaded.environment.parallel) == ("4", "yes")
    assert loaded.environment.interface.settings.timeout == 4.0
    assert loaded.environment.get_observables(["f"]) == {"f": 7.0}
