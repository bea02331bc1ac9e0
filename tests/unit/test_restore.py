"""A run is undone from its record: to its start, its best, any evaluation; and says what it could not do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner

from badger_k2eg import cli, run
from badger_k2eg.backends import ThroughK2eg
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.control.validators import wait_for_readback, within
from badger_k2eg.core import clock
from badger_k2eg.core.model import Limits, Outcome
from badger_k2eg.core.records import RecordKind
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import NoSuchRecord, SetpointBlocked, SettingsError
from badger_k2eg.journal import Journal
from badger_k2eg.run.manifest import recorded_way, validator_of, way_of
from badger_k2eg.run.outside_puts import LockGate
from badger_k2eg.run.pv_locks import locks
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate

START = {"A": 1.0, "B": 2.0, "MODE": 0, "WF": [1.0, 2.0]}


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    machine = MemoryBackend()
    machine.add("A", 1.0, units="mm", limits=(-50.0, 50.0))
    machine.add("B", 2.0, limits=(-50.0, 50.0))
    machine.add("MODE", 0, choices=("off", "on"))
    machine.add("WF", [1.0, 2.0])
    machine.add("TWEAK", 0.0)
    yield machine
    machine.close()


def control(memory: MemoryBackend, **options: Any) -> Control:
    return Control(memory, resolve([parse({"timeout": 0.3, "retry_delay": 0.05} | options, str)]))


@pytest.fixture
def made(memory: MemoryBackend, journal: Journal) -> str:
    """A run of three evaluations, of which the second was the best; gives its id."""
    tied = run.Attachment().attach(control(memory, relative="TWEAK"))
    for number in (1, 2, 3):
        tied.set({"A": 10.0 * number, "B": 11.0 * number})
        tied.set({"MODE": "on", "WF": [number + 0.5, 2.0], "TWEAK": float(number)})
        tied.get(["A"])
        if number == 2 and (ours := run.current()) is not None:
            ours.is_best({"f": 0.5})
    run.end()
    return journal.run("last").id


def values(memory: MemoryBackend) -> dict[str, Any]:
    return {name: memory.value(name) for name in START}


def fates(restore: Restore) -> dict[str, Fate]:
    return {step.pv: step.fate for step in restore.steps}


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("start", START),
        ("best", {"A": 20.0, "B": 22.0, "MODE": 1, "WF": [2.5, 2.0]}),
        (1, {"A": 10.0, "B": 11.0, "MODE": 1, "WF": [1.5, 2.0]}),
    ],
)
def test_to_start_best_and_an_evaluation(
    to: Any, expected: dict[str, Any], made: str, memory: MemoryBackend, journal: Journal
) -> None:
    restore = Restore(control(memory, relative="TWEAK"), journal, made, to=to)
    before = memory.puts[:]
    assert fates(restore).pop("TWEAK") is Fate.RELATIVE
    assert memory.puts == before
    restore.run()
    assert values(memory) == expected
    assert memory.value("TWEAK") == 3.0
    # In the reverse order of setting.
    assert [name for name, _ in memory.puts[len(before) :]] == (
        ["WF", "MODE", "B", "A"] if to == "start" else ["WF", "B", "A"]
    )
    # It is on record, and the next one knows what this one has written.
    again = Restore(control(memory, relative="TWEAK"), journal, made)
    assert Fate.FOREIGN not in fates(again).values()
    ends = [r for r in journal.run(made).records() if r.kind is RecordKind.RESTORE_END]
    assert [(r.name, r.data["pvs"]["A"]["fate"]) for r in ends] == [(str(to), "restored")]
    # What a restore sets is no evaluation's.
    assert journal.run(made).setpoints(3)["A"] == 30.0


def test_what_cannot_be_done_is_named_and_the_rest_is_done(made: str, memory: MemoryBackend, journal: Journal) -> None:
    memory.post("A", 12.0)
    memory.post("B", 33.0, limits=Limits(5.0, 50.0))
    memory.fault("WF", "missing")
    restore = Restore(control(memory, relative="TWEAK"), journal, made)
    expected = {"A": Fate.FOREIGN, "B": Fate.BLOCKED, "WF": Fate.UNREADABLE, "MODE": Fate.TO_DO, "TWEAK": Fate.RELATIVE}
    assert fates(restore) == expected
    restore.run()
    assert fates(restore) == expected | {"MODE": Fate.RESTORED}
    messages = {step.pv: step.message for step in restore.steps}
    assert messages["A"] == "it holds 12.0, and the run last wrote 30.0"
    assert "limits" in messages["B"]
    assert memory.value("A") == 12.0
    assert Restore(control(memory), journal, made, force=True).steps[-1].fate is Fate.TO_DO


@pytest.mark.parametrize("parallel", [True, False])
def test_one_that_fails_does_not_keep_the_others(
    parallel: bool, made: str, memory: MemoryBackend, journal: Journal
) -> None:
    memory.fault("MODE", "refused")
    restore = Restore(control(memory, relative="TWEAK", parallel=parallel), journal, made)
    restore.run()
    assert fates(restore)["MODE"] is Fate.FAILED
    assert (memory.value("A"), memory.value("B"), memory.value("WF")) == (1.0, 2.0, [1.0, 2.0])


def test_read_only_writes_nothing(made: str, memory: MemoryBackend, journal: Journal) -> None:
    before = memory.puts[:]
    restore = Restore(control(memory, relative="TWEAK", read_only=True), journal, made)
    restore.run()
    assert set(fates(restore).values()) == {Fate.READ_ONLY, Fate.RELATIVE}
    assert memory.puts == before


def test_with_the_validators_of_the_environment(made: str, memory: MemoryBackend, journal: Journal) -> None:
    memory.add("A:RB", 30.0)
    memory.follow("A", "A:RB", after=0.2)
    restore = Restore(
        control(memory, relative="TWEAK"), journal, made, validators={"A": within("A:RB", tolerance=0.1, timeout=2.0)}
    )
    restore.run()
    assert fates(restore)["A"] is Fate.RESTORED
    assert memory.value("A:RB") == 1.0


HOLDER = """
import sys, time
from pathlib import Path
from badger_k2eg.run.pv_locks import locks
held = locks()
held.take(sys.argv[1:], run="their-run")
print("READY", flush=True)
time.sleep(60)
"""


def test_with_the_validators_that_are_on_record(memory: MemoryBackend, journal: Journal) -> None:
    """A run set a magnet with its readback, an hour ago, in a process that is gone: a restore waits for it as well."""
    memory.add("READ", 1.0)
    memory.follow("A", "READ", after=0.05)
    tied = run.Attachment().attach(control(memory))
    tied.set({"A": 5.0, "B": 6.0}, {"A": partial(wait_for_readback, readback_pv="READ", tolerance=0.1, count_down=2)})
    tied.set({"A": 7.0}, {"A": within("READ", tolerance=0.1, timeout=1.5)})
    run.end()
    recorded = {pv: validator_of(told).parts for pv, told in journal.run("last").history().validators.items()}
    assert recorded == {"A": (within("READ", tolerance=0.1, timeout=1.5),)}
    restore = Restore(control(memory), journal, "last")
    restore.run()
    assert (fates(restore), memory.value("READ")) == ({"A": Fate.RESTORED, "B": Fate.RESTORED}, 1.0)
    # The supply is off: the put is done, and the magnet is not there.
    tied = run.Attachment().attach(control(memory))
    tied.set({"A": 5.0}, {"A": within("READ", tolerance=0.1, settle=0.2, timeout=1.0)})
    run.end()
    memory.on_put("A", lambda value: memory.later(0.1, lambda: memory.post("READ", 9.0)))
    restore = Restore(control(memory), journal, "last")
    restore.run()
    assert fates(restore) == {"A": Fate.FAILED} and "READ" in restore.steps[0].message


@contextmanager
def another_process(*pvs: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, *pvs], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "READY\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_pv_that_another_process_has_locked(made: str, memory: MemoryBackend, journal: Journal) -> None:
    with another_process("A"):
        restore = Restore(control(memory, relative="TWEAK"), journal, made)
        restore.run()
        assert fates(restore)["A"] is Fate.BLOCKED
        assert "their-run" in next(step.message for step in restore.steps if step.pv == "A")
        assert memory.value("B") == 2.0
    assert locks().owner("B") is None


def test_a_set_of_a_locked_pv_is_blocked_and_a_read_is_not(memory: MemoryBackend, journal: Journal) -> None:
    gated = Control(memory, gate=LockGate())
    tied = run.Attachment().attach(control(memory))
    with another_process("B"):
        for ours in (gated, tied):
            with pytest.raises(SetpointBlocked, match="B is locked by .*their-run") as caught:
                ours.set({"A": 5.0, "B": 5.0})
            assert [result.outcome for result in caught.value.report.results] == [Outcome.BLOCKED] * 2
            assert ours.get(["B"]) == {"B": 2.0}
        assert memory.puts == []
        tied.set({"A": 5.0})
    tied.set({"B": 5.0})


def test_unlocked_by_force_and_on_record(memory: MemoryBackend, journal: Journal) -> None:
    tied = run.Attachment().attach(control(memory))
    run.declare()
    tied.set({"A": 5.0})
    command = [sys.executable, "-m", "badger_k2eg.cli", "unlock"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert f"A is locked by {locks().owner('A')}" in shown.stdout
    done = subprocess.run([*command, "--force", "A"], capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(SetpointBlocked, match="its lock was taken away"):
        tied.set({"A": 6.0})
    (event,) = [r for r in journal.records() if r.kind is RecordKind.EVENT]
    assert (event.name, event.pv) == ("unlock", "A")


@pytest.mark.parametrize(
    ("text", "to", "said"),
    [
        ("nowhere", "start", "there is no run 'nowhere'; the newest is"),
        ("last", "9", "has no evaluation 9; it has 1 to 3"),
        ("last", "bets", "--to bets: write start, best, or the number of an evaluation"),
    ],
)
def test_a_mistake_is_one_line(
    text: str, to: str, said: str, made: str, memory: MemoryBackend, journal: Journal
) -> None:
    with pytest.raises((NoSuchRecord, SettingsError), match=said) as caught:
        Restore(control(memory), journal, text, to=to)
    assert "\n" not in str(caught.value)


def test_the_way_to_the_pvs_is_found_again() -> None:
    for way in ("pva", "ca", ThroughK2eg("lcls", "badger", "/etc/k2eg")):
        assert way_of(json.loads(json.dumps({"way": recorded_way(way)}))) == way
    assert way_of({}) == "pva"


def test_a_run_that_goes_on_is_not_undone(memory: MemoryBackend, journal: Journal) -> None:
    run.Attachment().attach(control(memory)).set({"A": 5.0})
    with pytest.raises(SettingsError, match="goes on"):
        Restore(control(memory), journal, "last")


def test_the_best_of_a_run_that_does_not_know_it(memory: MemoryBackend, journal: Journal) -> None:
    run.Attachment().attach(control(memory)).set({"A": 5.0})
    run.end()
    with pytest.raises(NoSuchRecord, match="does not say which evaluation was its best"):
        Restore(control(memory), journal, "last", to="best")


# -- killed at any moment ---------------------------------------------------------------------------------------------

VICTIM = """
import sys, time
from badger_k2eg import run
from badger_k2eg.backends import ThroughK2eg
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
memory = MemoryBackend({"A": 1.0, "B": 2.0})
control = run.Attachment().attach(Control(memory))
run.declare()
number = 0
while True:
    number += 1
    control.set({"A": 100.0 + number, "B": 200.0 + number})
    print(memory.value("A"), memory.value("B"), flush=True)
    control.get(["A"])
"""


@pytest.mark.parametrize("after", [0.0, 0.01, 0.05, 0.2])
def test_a_killed_run_is_undone(after: float, memory: MemoryBackend, journal: Journal) -> None:
    process = subprocess.Popen([sys.executable, "-c", VICTIM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    clock.sleep(after)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    last = (said.splitlines() or ["101.0 201.0"])[-1].split()
    memory.add("A", float(last[0]))
    memory.add("B", float(last[1]))
    restore = Restore(control(memory), journal, "last")
    # One step further than it could say is still its own doing; and nobody else's.
    assert set(fates(restore).values()) <= {Fate.TO_DO, Fate.FOREIGN}
    Restore(control(memory), journal, "last", force=True).run()
    assert (memory.value("A"), memory.value("B")) == (1.0, 2.0)
    recorded = journal.run("last")
    assert (recorded.reason, os.path.exists(f"/proc/{recorded.first.process}")) == ("lost", False)


def test_the_command_for_people_and_programs(journal: Journal, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    invoke: Callable[..., Any] = CliRunner().invoke
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "0.3")  # the waveform is gone: each command waits for it
    monkeypatch.setattr("badger_k2eg.control.connect", lambda way: MemoryBackend({"A": 30.0, "B": 33.0, "MODE": 0}))
    looked = invoke(cli.main, ["runs", "restore", made, "--dry-run", "--json"])
    told = json.loads(looked.stdout)
    assert (looked.exit_code, told["dry_run"], told["run"]) == (0, True, made)
    assert {each["pv"]: each["fate"] for each in told["pvs"]}["A"] == "to do"
    asked = invoke(cli.main, ["runs", "restore", made])
    assert asked.exit_code == 2
    assert "say --yes, or --dry-run" in asked.stderr
    refused = invoke(cli.main, ["runs", "restore", made, "--yes", "--read-only"])
    # The waveform is gone: that is more than a refusal.
    assert refused.exit_code == 1
    assert "NOT where it shall be: " in refused.stdout
    assert invoke(cli.main, ["runs", "restore", "nowhere"]).exit_code == 2


def test_each_step_of_a_ramp_is_on_record_as_what_was_put(memory: MemoryBackend, journal: Journal) -> None:
    tied = run.Attachment().attach(control(memory, max_step=1.0, ramp=True))
    tied.set({"A": 4.0})
    run.end()
    records = [record for record in journal.run("last").records() if record.pv == "A"]
    assert [record.asked for record in records if record.kind is RecordKind.PUT] == [2.0, 3.0, 4.0]
    assert [record.asked for record in records if record.kind is RecordKind.SETPOINT] == [4.0]


def test_a_record_that_quantises_is_put_back_where_it_was(memory: MemoryBackend, journal: Journal) -> None:
    """What was declared of it in the run is on record, and holds for the way back too."""
    memory.on_put("A", lambda value: memory.post("A", round(value, 1)))
    tied = run.Attachment().attach(control(memory))
    tied.tolerances["A"] = 0.05
    tied.set({"A": 3.33})
    tied.set({"A": 5.55})
    run.end()
    back = Restore(control(memory), journal, "last", to=1)
    assert [(step.pv, step.fate) for step in back.steps] == [("A", Fate.TO_DO)], "it holds what the run has set"
    assert [(step.pv, step.fate) for step in back.run()] == [("A", Fate.RESTORED)]
    assert memory.value("A") == 3.3
    assert [step.fate for step in Restore(control(memory), journal, "last", to=1).steps] == [Fate.THERE]
