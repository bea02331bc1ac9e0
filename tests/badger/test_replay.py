"""Any environment on a recorded run: the same points, observables and failures; nothing written; the routine again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.badger_app.environment import ControlEnvironment
from badger_k2eg.errors import (
    NoSuchRecord,
    PutRefused,
    ReadTimeout,
    ReplayMismatch,
    SettingsError,
    ValidationFailed,
)
from badger_k2eg.journal import Journal
from badger_k2eg.journal.export import export
from badger_k2eg.tuning import Condition, Knob, Observable
from interfaces.epics_pva import Interface
from interfaces.replay import Interface as Replay

from .routines import CLONE, command, headless, written

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")


class Declared(ControlEnvironment):
    """A knob with readback and overshoot, a status to wait for, and a mean of several updates."""

    name = "declared_for_replay"
    knobs = {
        "quad": Knob("Q:SET", readback="Q:READ", tolerance=0.05, hold=0.3, timeout=1.0, approach="below", overshoot=0.1)
    }
    measures = {"size": Observable("SIZE", samples=3, reduce="mean", timeout=2.0)}
    conditions: ClassVar[list[Condition]] = [Condition("PERMIT", equals="OK", timeout=0.5)]


@pytest.fixture
def machine() -> Any:
    memory = MemoryBackend()
    memory.add("Q:SET", 1.0, units="A", limits=(0.0, 5.0))
    memory.add("Q:READ", 1.0, units="A")
    memory.add("SIZE", 2.0, units="mm")
    memory.add("PERMIT", 0, choices=("OK", "TRIP"))
    memory.follow("Q:SET", "Q:READ", after=0.02)
    memory.on_put("Q:SET", lambda value: memory.post("SIZE", 1.0 + (value - 2.0) ** 2))
    memory.beat("SIZE", every=0.02)
    yield memory
    memory.close()


def on(interface: Any) -> Declared:
    return Declared(interface=interface)


def tuned(environment: Declared, points: list[float]) -> list[dict[str, Any]]:
    seen = []
    for quad in points:
        environment.set_variables({"quad": quad})
        seen.append(environment.get_observables(["size"]))
    return seen


def the_run() -> str:
    from badger_k2eg import run

    run.end()
    return str(Journal.open().run("last").id)


def test_a_declared_environment_gives_the_same_again(machine: MemoryBackend) -> None:
    points = [1.5, 3.0, 2.0, 3.0]
    seen = tuned(on(Interface(context=machine)), points)
    recorded = the_run()
    puts, lines = list(machine.puts), Journal.open().run("last").event.end
    machine.close()
    environment = on(Replay(run=recorded))
    assert environment.get_variables(["quad"]) == {"quad": 1.0}
    assert environment.get_bounds(["quad"]) == {"quad": [0.0, 5.0]}
    assert tuned(environment, points) == seen
    # It wrote nothing: neither on the machine nor in the journal.
    assert (machine.puts, Journal.open().run("last").event.end) == (puts, lines)
    readings = environment.interface.get_readings(["Q:SET"])
    assert (readings["Q:SET"].value, readings["Q:SET"].units) == (3.0, "A")


def test_other_points_are_told_or_the_nearest_taken(machine: MemoryBackend) -> None:
    seen = tuned(on(Interface(context=machine)), [1.0, 3.0])
    recorded = the_run()
    with pytest.raises(ReplayMismatch, match=r"nearest is evaluation 2.*Q:SET = 2\.9 \(recorded: 3\.0\)"):
        tuned(on(Replay(run=recorded)), [2.9])
    assert tuned(on(Replay(run=recorded, matching="nearest")), [2.9]) == seen[1:]


def test_what_failed_fails_again_in_the_same_way(machine: MemoryBackend) -> None:
    environment = on(Interface(context=machine))
    tuned(environment, [1.5])
    machine.fault("Q:SET", "refused")
    with pytest.raises(PutRefused) as refused:
        tuned(environment, [2.5])
    machine.fault("Q:SET", None)
    machine.fault("SIZE", "missing")
    with pytest.raises(ReadTimeout) as silent:
        tuned(environment, [3.5])
    machine.fault("SIZE", None)
    machine.on_put("Q:SET", lambda value: machine.later(0.1, lambda: machine.post("Q:READ", 0.0)))
    with pytest.raises(ValidationFailed) as astray:
        tuned(environment, [4.0])
    environment = on(Replay(run=the_run()))
    for point, error in ((2.5, refused), (3.5, silent), (4.0, astray)):
        with pytest.raises(type(error.value)) as again:
            tuned(environment, [point])
        assert str(error.value).split(",")[0] in str(again.value)


def test_a_set_in_the_background_ends_as_it_was_recorded(machine: MemoryBackend) -> None:
    environment = on(Interface(context=machine))
    tuned(environment, [1.5])
    machine.fault("Q:SET", "refused")
    with pytest.raises(PutRefused):
        tuned(environment, [2.5])
    replay = Replay(run=the_run())
    replay.set_values({"Q:SET": 1.5}, callback=None).result(20)
    with pytest.raises(PutRefused):
        replay.set_no_wait("Q:SET", 2.5).result(20)
    # So too by the control itself, which an environment's own code may use.
    with pytest.raises(PutRefused):
        replay.control.set({"Q:SET": 2.5}, timeout=5.0, callback=None).result(20)


def test_an_exported_run_and_another_journal_are_sources(machine: MemoryBackend, tmp_path: Path) -> None:
    seen = tuned(on(Interface(context=machine)), [1.5])
    journal = Journal.open()
    file = export(journal, journal.run(the_run()), tmp_path / "run.zip")
    assert tuned(on(Replay(source=str(file))), [1.5]) == seen
    assert tuned(on(Replay(source=str(journal.directory))), [1.5]) == seen


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"run": "no-such-run"}, NoSuchRecord, "there is no run 'no-such-run'"),
        ({"matching": "exact"}, SettingsError, "there is no matching 'exact'; matchings are strict, nearest, time"),
        ({"speed": 0.0}, SettingsError, "speed: Input should be greater than 0"),
        ({"source": "/no/such/file.zip"}, SettingsError, "/no/such/file.zip: no such file or directory"),
    ],
)
def test_a_mistake_is_one_line(
    machine: MemoryBackend, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    tuned(on(Interface(context=machine)), [1.5])
    the_run()
    with pytest.raises(error, match="^[^\n]+$") as told:
        on(Replay(**options)).get_variables(["quad"])
    assert message in str(told.value)


def test_a_headless_run_again_by_the_environments_parameters(memory: MemoryBackend, tmp_path: Path) -> None:
    first = headless(memory, tmp_path, evaluations=6)
    first.run()
    puts = len(memory.puts)
    parameters = {"interface_name": "replay", "replay_run": first.record.id}
    from badger_k2eg.badger_app.headless import HeadlessRun, load_routine

    again = HeadlessRun(load_routine(written(tmp_path), parameters), evaluations=6)
    again.run()
    assert [(e.variables, e.objectives) for e in again.evaluations] == [
        (e.variables, e.objectives) for e in first.evaluations
    ]
    assert len(memory.puts) == puts
    # It goes to points through its interface, where nothing moves.
    assert again.unguarded is None


@pytest.mark.extended
def test_rerun_takes_the_routine_from_the_record(memory: MemoryBackend, tmp_path: Path) -> None:
    first = headless(memory, tmp_path, evaluations=3)
    first.run()
    saved = tmp_path / "again.yaml"
    done = command("rerun", first.record.id, "--save", saved, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    content = yaml.safe_load(saved.read_text())
    assert content["environment"]["name"] == "pv_template" and "data" not in content
    done = command(
        "rerun", first.record.id, "--set", "interface_name=replay", "--set", f"replay_run={first.record.id}",
        "--evaluations", "3", "--plugin-root", CLONE, folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for value in (f"{e.objectives['f']:.4g}" for e in first.evaluations):
        assert value in done.stdout
    done = command("rerun", "nothing", folder=tmp_path)
    assert done.returncode == 2 and "there is no run 'nothing'" in done.stderr and len(done.stderr.splitlines()) == 1
