"""A routine's run on record; another process on the same PVs beside it; an IOC that dies and comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from badger_k2eg import cli, run
from badger_k2eg.errors import ControlError, SetpointBlocked
from badger_k2eg.journal import Journal
from badger_k2eg.testing.soft_ioc import SoftIoc
from environments.pv_template import Environment
from interfaces.epics_pva import Interface

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")

THEIRS = """
import sys
from interfaces.epics_pva import Interface
interface = Interface()
interface.reset_interface()
interface.set_value(sys.argv[1], float(sys.argv[2]))
print("READY", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    return Journal.open()


@contextmanager
def their_run(pv: str, value: float) -> Iterator[subprocess.Popen[str]]:
    """Somebody else's run, which has set one PV and goes on."""
    command = [sys.executable, "-c", THEIRS, pv, str(value)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "READY\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def test_two_runs_on_overlapping_pvs(soft_ioc: SoftIoc, restored: Callable[[str, Any], str], journal: Journal) -> None:
    ours, shared = restored("DBL", 0.5), restored("FREE", 0.75)
    run.end()
    interface = Interface()
    with their_run(shared, 0.25):
        theirs = journal.run("last")
        interface.reset_interface()
        with pytest.raises(SetpointBlocked, match=f"{shared} is locked by .* run {theirs.id}"):
            interface.set_values({ours: 1.0, shared: 1.0})
        # All or nothing; and who is locked out can read.
        assert interface.get_values([ours, shared]) == {ours: 0.5, shared: 0.25}
        interface.set_values({ours: 1.0})
    # Their run has ended, and its lock with it.
    interface.set_values({ours: 1.25, shared: 1.25})
    run.end()
    assert {each.reason for each in journal.runs()} == {"success"}


def test_an_ioc_that_dies_in_a_run(
    soft_ioc_factory: Callable[..., SoftIoc], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from badger_k2eg.badger_app.headless import HeadlessRun
    from badger_k2eg.badger_app.session import make_routine

    monkeypatch.setenv("BADGER_K2EG_RUN_ON_EXCEPTION", "restore")
    ioc = soft_ioc_factory()
    names = {"x0": ioc.pv("DBL"), "x1": ioc.pv("FREE")}
    before = Interface().get_values(list(names.values()))
    environment = Environment(interface=Interface(timeout=1.0), f=ioc.pv("STATIC"), **names)
    ranges = {"x0": [-2.0, 2.0], "x1": [-2.0, 2.0]}
    points = [{"x0": 0.5, "x1": 0.5}, {"x0": 0.75, "x1": 0.75}]
    routine = make_routine(environment, {"f": "MINIMIZE"}, variables=ranges, generator="random", initial_points=points)
    ours = HeadlessRun(routine, evaluations=9)
    with pytest.raises(ControlError):
        ours.run(lambda evaluation: ioc.kill() if evaluation.number == 2 else None)
    recorded = journal.run("last")
    assert (recorded.reason, recorded.evaluation_count) == ("failed", 3)
    # It has tried to put them back, and says what it could not.
    (tried,) = [r for r in recorded.records() if r.kind == "restore.end"]
    assert {each["fate"] for each in tried.data["pvs"].values()} == {"cannot be read"}
    ioc.restart()
    # Whoever is there now has first values of its own, which are not what the run wrote.
    invoke = CliRunner().invoke
    looked = invoke(cli.main, ["runs", "restore", "last", "--to", "2", "--yes"])
    assert looked.exit_code == 1
    assert looked.stdout.count("moved by somebody else") >= 2
    done = invoke(cli.main, ["runs", "restore", "last", "--to", "2", "--yes", "--force"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert Interface().get_values(list(names.values())) == dict.fromkeys(names.values(), 0.75)
    assert invoke(cli.main, ["runs", "restore", "last", "--yes"]).exit_code == 0
    assert Interface().get_values(list(names.values())) == before


def test_a_routine_is_on_record_with_its_best_point(
    restored: Callable[[str, Any], str], soft_ioc: SoftIoc, journal: Journal
) -> None:
    from badger_k2eg.badger_app.headless import HeadlessRun
    from badger_k2eg.badger_app.session import make_routine

    names = {"x0": restored("DBL", 0.5), "x1": restored("FREE", 0.75)}
    run.end()
    environment = Environment(interface=Interface(), f=names["x0"], **names)
    points = [{"x0": value, "x1": 1.0} for value in (1.5, -1.0, 0.25)]
    ranges = {"x0": [-2.0, 2.0], "x1": [-2.0, 2.0]}
    routine = make_routine(environment, {"f": "MINIMIZE"}, variables=ranges, generator="random", initial_points=points)
    ours = HeadlessRun(routine, evaluations=3)
    ours.run()
    recorded = journal.run(ours.record.id)
    manifest = recorded.manifest
    assert (recorded.reason, recorded.evaluation_count, recorded.best) == ("success", 3, 2)
    assert manifest["environment"]["variables"] == names
    assert (manifest["interface"], manifest["way"], manifest["generator"]) == ("epics_pva", "pva", "random")
    assert manifest["objectives"] == {"f": "MINIMIZE"}
    (end,) = [r for r in recorded.records() if r.kind == "run.end"]
    assert end.data["archive"] == str(ours.archive)
    assert [each.data["observables"]["f"] for each in recorded.evaluations()] == [1.5, -1.0, 0.25]
    done = CliRunner().invoke(cli.main, ["runs", "restore", ours.record.id, "--to", "best", "--yes"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert Interface().get_values(list(names.values())) == {names["x0"]: -1.0, names["x1"]: 1.0}
