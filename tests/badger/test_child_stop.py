"""Badger's own child, stopped as its window stops it, killed, or failing: how the run ends, and the machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from badger_k2eg.badger_app.environment import ControlEnvironment
from badger_k2eg.journal import Journal
from badger_k2eg.journal.recorded_run import RecordedRun
from badger_k2eg.run.pv_locks import locked_by
from badger_k2eg.testing.soft_ioc import SoftIoc
from environments.pv_template import Environment
from interfaces.epics_pva import Interface
from tests.rig.pace import pace
from tests.rig.waiting import eventually

pytestmark = [
    pytest.mark.usefixtures("badger_config", "quiet"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

START = {"x0": 0.5, "x1": 0.75}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    return Journal.open()


class Child:
    """Badger's child with a routine that goes on for ever, as the window starts it."""

    def __init__(self, routine: Any, config: Path) -> None:
        from badger.archive import save_tmp_run
        from badger.core_subprocess import run_routine_subprocess

        context = multiprocessing.get_context("fork")
        self.queue, self.actions = context.Queue(), context.Queue()
        self.to_window = context.Pipe()
        self.stop, pause, wait = context.Event(), context.Event(), context.Event()
        self.process = context.Process(
            target=run_routine_subprocess,
            args=(self.queue, self.to_window, self.stop, pause, wait, str(config), None, self.actions),
        )
        self.process.start()
        self.queue.put(
            {
                "routine_id": routine.id,
                "routine_filename": save_tmp_run(routine),
                "routine_name": routine.name,
                "variable_ranges": routine.vocs.variables,
                "initial_points": routine.initial_points,
                "evaluate": True,
                "archive": False,
                "termination_condition": None,
                "start_time": time.time(),
                "testing": True,
                "run_data": False,
                "init_points": True,
                "verbose": 0,
            }
        )
        wait.set()
        pause.set()
        self.evaluations = 0

    def until(self, there: Callable[[], Any]) -> None:
        """Take what the child sends, until something is there."""
        until = time.monotonic() + 30
        while not there():
            assert time.monotonic() < until, self.queue.get_nowait() if not self.queue.empty() else "no end"
            while self.process.is_alive() and self.to_window[1].poll(0.02):
                with contextlib.suppress(EOFError):
                    self.to_window[1].recv()
                    self.evaluations += 1
            time.sleep(0.01)

    def press_stop(self) -> float:
        """Do what the window's button does; gives the seconds that the window stands still."""
        self.stop.set()
        time.sleep(0.1)
        began = time.monotonic()
        self.process.terminate()
        self.process.join(30)
        return time.monotonic() - began

    def close(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        for each in (self.queue, self.actions):
            each.close()
            each.join_thread()


@pytest.fixture
def start(soft_ioc: SoftIoc, restored: Callable[[str, Any], str], badger_config: Path) -> Iterator[Callable[..., Any]]:
    """Gives a function that starts a child on two PVs of the IOC."""
    from badger_k2eg import run
    from badger_k2eg.badger_app.session import make_routine

    knobs = {"x0": restored("DBL", START["x0"]), "x1": restored("FREE", START["x1"])}
    children: list[Child] = []

    def start(**parameters: Any) -> tuple[Child, dict[str, str]]:
        environment = Environment(
            interface=Interface(), f=parameters.pop("f", soft_ioc.pv("STATIC")), **knobs, **parameters
        )
        routine = make_routine(environment, {"f": "MINIMIZE"}, generator="random")
        # As in the window, which sets nothing before it forks.
        run.end()
        children.append(Child(routine, badger_config))
        return children[-1], knobs

    yield start
    for child in children:
        child.close()


def the_run(journal: Journal) -> RecordedRun:
    (found,) = [each for each in journal.runs() if each.manifest.get("environment")]
    return found


def begun(journal: Journal, evaluations: int = 3) -> Callable[[], bool]:
    def there() -> bool:
        runs = [each for each in journal.runs() if each.manifest.get("environment")]
        return bool(runs) and runs[-1].evaluation_count >= evaluations

    return there


@pytest.mark.parametrize("policy", ["leave", "restore"])
def test_the_windows_stop(
    policy: str, start: Callable[..., Any], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the environment's parameters say is stronger.
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_CANCELLED", {"leave": "restore", "restore": "leave"}[policy])
    child, knobs = start(after_stop=policy)
    child.until(begun(journal))
    assert "run" in locked_by(list(knobs.values()))
    assert child.press_stop() < 10 * pace()
    recorded = the_run(journal)
    assert (recorded.reason, recorded.open) == ("stopped", False)
    assert "SIGTERM" in next(r for r in recorded.records() if r.kind.value == "run.end").message
    now = Interface().get_values(list(knobs.values()))
    expected = recorded.setpoints(0) if policy == "restore" else recorded.setpoints(recorded.evaluation_count)
    assert now == pytest.approx({pv: expected[pv] for pv in now})
    assert recorded.setpoints(0) == {knobs["x0"]: START["x0"], knobs["x1"]: START["x1"]}
    assert len([r for r in recorded.records() if r.kind.value == "restore.end"]) == (policy == "restore")
    assert locked_by(list(knobs.values())) == ""


@pytest.mark.parametrize("policy", ["leave", "restore"])
def test_a_signal_alone_in_mid_evaluation(
    policy: str, start: Callable[..., Any], journal: Journal, soft_ioc: SoftIoc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the window's button: nothing else tells the child to end. It waits for an observable that never answers."""
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_CANCELLED", policy)
    child, knobs = start(f=soft_ioc.pv("STATIC") + ":NOT:SERVED", timeout="60")
    child.until(begun(journal, 1))
    time.sleep(0.5)
    began = time.monotonic()
    os.kill(child.process.pid, signal.SIGTERM)
    child.process.join(20)
    assert time.monotonic() - began < 10 * pace()
    # As without us: it ends by the signal.
    assert child.process.exitcode == -signal.SIGTERM
    recorded = the_run(journal)
    assert recorded.reason == "stopped"
    if policy == "restore":
        now = Interface().get_values(list(knobs.values()))
        assert now == {knobs["x0"]: START["x0"], knobs["x1"]: START["x1"]}


def test_aborted_in_the_dialog_after_an_error(
    start: Callable[..., Any], journal: Journal, soft_ioc: SoftIoc, monkeypatch: pytest.MonkeyPatch
) -> None:
    from badger.errors import MEASUREMENT_ACTION_ABORT, MEASUREMENT_ACTION_TYPE

    child, knobs = start(f=soft_ioc.pv("STATIC") + ":NOT:SERVED", timeout="0.5", after_failure="restore")
    child.until(begun(journal, 1))
    said = child.queue.get(timeout=30)
    # What Badger shows is the error itself.
    assert said["title"].startswith("XoptError") or "NOT:SERVED" in said["title"]
    assert "NOT:SERVED" in said["traceback"]
    child.actions.put({"type": MEASUREMENT_ACTION_TYPE, "action": MEASUREMENT_ACTION_ABORT})
    child.until(lambda: not child.process.is_alive())
    recorded = the_run(journal)
    assert recorded.reason == "failed"
    assert "NOT:SERVED" in next(r for r in recorded.records() if r.kind == "run.end").data["error"]
    now = Interface().get_values(list(knobs.values()))
    assert now == {knobs["x0"]: START["x0"], knobs["x1"]: START["x1"]}


def test_killed_and_then_undone(
    start: Callable[..., Any], journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from click.testing import CliRunner

    from badger_k2eg.cli.runs_restore import restore

    child, knobs = start()
    child.until(begun(journal))
    child.process.kill()
    child.process.join()
    recorded = the_run(journal)
    assert (recorded.open, recorded.alive) == (True, False)
    # Its locks went with it.
    assert locked_by(list(knobs.values())) == ""
    # The next run says so, with the command.
    Interface().set_value(knobs["x0"], START["x0"] + 0.01)
    eventually(lambda: f"badger-k2eg runs restore {recorded.id} --to start" in caplog.text)
    assert the_run(journal).reason == "lost"
    # What somebody has set since is not touched, and named.
    looked = CliRunner().invoke(restore, [recorded.id, "--dry-run"], standalone_mode=False)
    assert looked.return_value == 0
    assert "moved by somebody else" in looked.output
    done = CliRunner().invoke(restore, [recorded.id, "--yes"], standalone_mode=False)
    assert done.return_value == 1
    now = Interface().get_values(list(knobs.values()))
    assert now == {knobs["x0"]: START["x0"] + 0.01, knobs["x1"]: START["x1"]}
    assert CliRunner().invoke(restore, [recorded.id, "--yes", "--force"], standalone_mode=False).return_value == 0
    assert Interface().get_value(knobs["x0"]) == START["x0"]


class Failing(ControlEnvironment):
    """Sets, and then fails in its own formula."""

    name = "failing"
    x: str = ""
    variables = {"x": [-1.0, 1.0]}
    observables = ["f"]

    seen: ClassVar[list[Any]] = []

    def get_observables(self, observable_names: Any) -> dict[str, Any]:
        raise ZeroDivisionError("a formula of the environment's own")

    def on_exception(self, run: Any, error: BaseException) -> None:
        # The machine can still be set here, and the error is the first one.
        self.set_variables({"x": -0.5})
        self.seen.append((run.id, type(error)))


@pytest.mark.parametrize("policy", ["leave", "restore"])
def test_an_exception_in_the_environment(
    policy: str,
    restored: Callable[[str, Any], str],
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from badger_k2eg.badger_app.headless import HeadlessRun
    from badger_k2eg.badger_app.session import make_routine

    monkeypatch.setenv("BADGER_K2EG_RUN_ON_EXCEPTION", policy)
    pv = restored("DBL", 0.5)
    environment = Failing(interface=Interface(), x=pv)
    monkeypatch.setattr(HeadlessRun, "_look", lambda self: None)
    routine = make_routine(environment, {"f": "MINIMIZE"}, generator="random", initial_points=[{"x": -0.25}])
    ours = HeadlessRun(routine, evaluations=3)
    with pytest.raises(ZeroDivisionError, match="of the environment's own"):
        ours.run()
    recorded = the_run(journal)
    assert (recorded.id, recorded.reason) == (ours.record.id, "failed")
    assert Failing.seen[-1] == (recorded.id, ZeroDivisionError)
    assert Interface().get_value(pv) == (-0.5 if policy == "leave" else 0.5)
    assert recorded.manifest["objectives"] == {"f": "MINIMIZE"}
