"""However a PV is called, it is one PV: spellings of its name and aliases pass no restriction and no lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg import run
from badger_k2eg.control import Control
from badger_k2eg.control.record_names import RecordNames
from badger_k2eg.core import clock
from badger_k2eg.core.records import RecordKind
from badger_k2eg.errors import SetpointBlocked
from badger_k2eg.journal import Journal
from badger_k2eg.journal.query import Query
from badger_k2eg.run.outside_puts import LockGate
from badger_k2eg.run.restore import Restore
from tests.rig.waiting import eventually

from .machine import Machine

pytestmark = pytest.mark.needs("aliases")

#: What a real IOC takes for the value of FREE.
SPELLINGS = (
    "FREE", "FREE.", "FREE.VAL", "FREE.{}", "FREE.VAL{}", "FREE.[0]", "FREE.VAL[0:0]{}", "://FREE", "://FREE.VAL",
    "ALIAS", "ALIAS.", "ALIAS.VAL", "ALIAS.{}", "://ALIAS",
)  # fmt: skip

HOLDER = """
import sys, time
from badger_k2eg.run.pv_locks import locks
locks().take(sys.argv[1:], run="their-run")
print("READY", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    return Journal.open()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every record that was asked for its name."""
    found: list[str] = []
    original = RecordNames._ask

    def ask(self: RecordNames, backend: Any, records: Sequence[tuple[str | None, str]], deadline: Any) -> Any:
        found.extend(record for _, record in records)
        return original(self, backend, records, deadline)

    monkeypatch.setattr(RecordNames, "_ask", ask)
    return found


def spelled(machine: Machine, spelling: str) -> str:
    machine.pv("FREE")
    scheme, mark, name = spelling.rpartition("://")
    return f"{machine.name}://{machine.pv(name)}" if mark else machine.pv(spelling)


@contextmanager
def locked_by_another(*pvs: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, *pvs], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "READY\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def blocked(machine: Machine, control: Control, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(SetpointBlocked, match=reason):
        control.set(values)
    assert machine.look("FREE") == 1.0


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_name_passes_a_restriction(machine: Machine, spelling: str) -> None:
    pv, name = machine.pv("FREE"), spelled(machine, spelling)
    blocked(machine, machine.control(limits={pv: (-1.0, 1.5)}), {name: 4.0}, "own limits")
    blocked(machine, machine.control(max_step={pv: 0.5}), {name: 4.0}, "option max_step")
    blocked(machine, machine.control(allow=[machine.pv("SP:000")]), {name: 4.0}, "option allow")
    control = machine.control(allow=[pv], limits={pv: (-1.0, 1.5)}, max_step={pv: 0.5})
    assert control.set({name: 1.4}).ok and machine.look("FREE") == 1.4


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_name_passes_the_lock_of_another_process(machine: Machine, spelling: str) -> None:
    pv, name = machine.pv("FREE"), spelled(machine, spelling)
    with locked_by_another(pv):
        blocked(machine, machine.control(gate=LockGate()), {name: 4.0}, "is locked by .*their-run")
        run.declare()
        try:
            blocked(machine, run.Attachment().attach(machine.control()), {name: 4.0}, f"{pv} is locked by .*their-run")
        finally:
            run.end()


def test_an_alias_that_is_locked_by_hand_is_locked(machine: Machine) -> None:
    alias = spelled(machine, "ALIAS")
    with locked_by_another(alias):
        blocked(machine, machine.control(gate=LockGate()), {alias: 4.0}, "ALIAS is locked by")


@pytest.mark.parametrize("spelling", SPELLINGS[1:])
def test_no_pv_has_two_values_in_one_call(machine: Machine, spelling: str) -> None:
    pv, name = machine.pv("FREE"), spelled(machine, spelling)
    blocked(machine, machine.control(), {pv: 2.0, name: 4.0}, f"the same PV as {pv}, with two values in one call")
    blocked(machine, machine.control(), {name: 2.0, pv: 4.0}, "with two values in one call")


def test_a_field_is_another_pv(machine: Machine) -> None:
    pv = machine.pv("FREE")
    control = machine.control(limits={pv: (-1.0, 1.5)}, allow=[pv, f"{pv}.HOPR"])
    alias = machine.pv("ALIAS")
    assert control.set({pv: 1.2, f"{pv}.HOPR": 50.0}).ok
    with pytest.raises(SetpointBlocked, match="option allow"):
        control.set({f"{alias}.LOPR": 1.0})
    assert control.set({f"{alias}.HOPR": 0.0}).ok


def test_brackets_are_part_of_a_name(machine: Machine) -> None:
    bracket, plain, brace = machine.pvs("Q[1]", "Q1", "B{IOC-1}Val")
    control = machine.control(allow=[bracket, brace], limits={bracket: (-1.0, 2.0), brace: (-1.0, 2.0)})
    for name in (bracket, f"{bracket}.VAL", brace, f"{brace}.{{}}"):
        with pytest.raises(SetpointBlocked, match="own limits"):
            control.set({name: 4.0})
        assert control.set({name: 1.5}).ok
    with pytest.raises(SetpointBlocked, match="option allow"):
        control.set({plain: 1.5})


def test_a_name_is_asked_for_once(machine: Machine, asked: list[str]) -> None:
    pv, alias = machine.pvs("FREE", "ALIAS")
    control = machine.control(limits={pv: (-1.0, 9.0)})
    for value in (2.0, 3.0):
        control.set({alias: value})
        control.set({f"{pv}.VAL": value + 0.5})
    assert asked == [alias, pv, pv]
    # Where nothing depends on it nobody is asked.
    machine.control().set({alias: 2.0})
    assert len(asked) == 3


def test_a_dead_pv_costs_its_time_once(machine: Machine) -> None:
    machine.pv("FREE")
    control = machine.control(limits={machine.pv("FREE"): (-1.0, 9.0)}, timeout=1.0)
    began = clock.monotonic()
    with pytest.raises(SetpointBlocked, match="NOBODY"):
        control.set({machine.pv("FREE"): 2.0, machine.pv("NOBODY"): 1.0})
    assert clock.monotonic() - began < 1.6
    assert machine.look("FREE") == 1.0


@pytest.mark.needs("faults")
@pytest.mark.parametrize(("name", "values", "seconds"), [("CLAMP", (2.0, 1.0), 0.9), ("TEXT", ("a", "b"), 2.0)])
def test_what_is_no_record_costs_little_and_once(
    machine: Machine, asked: list[str], name: str, values: tuple[Any, Any], seconds: float
) -> None:
    pv = machine.pv(name)
    control = machine.control(limits={pv: (-3.0, 3.0)}, gate=LockGate())
    for value, most in zip(values, (seconds, 0.9), strict=True):
        began = clock.monotonic()
        assert control.set({pv: value}).ok
        assert clock.monotonic() - began < most
    # A number without what it takes to display it is no IOC's.
    assert asked == ([pv] if name == "TEXT" else [])


def test_a_run_that_knows_a_pv_by_two_names_puts_it_back(machine: Machine, journal: Journal) -> None:
    pv, alias = machine.pvs("FREE", "ALIAS")
    run.declare()
    control = run.Attachment().attach(machine.control())
    control.set({alias: 2.0})
    control.set({f"{pv}.VAL": 3.0})
    control.set({pv: 4.0})
    clock.sleep(0.5)
    run.end()
    recorded = journal.run("last")
    events = [(r.name, r.pv) for r in recorded.records() if r.kind is RecordKind.EVENT]
    assert events == [("alias", alias)], "and no foreign move"
    assert recorded.setpoints() == {alias: 4.0} and list(recorded.baseline()) == [alias]
    restore = Restore(machine.control(), journal, "last")
    assert [(step.pv, step.value, str(step.fate)) for step in restore.steps] == [(alias, 1.0, "to do")]
    restore.run()
    eventually(lambda: machine.look("FREE"), 1.0)


def test_a_command_is_one_by_its_alias_too(machine: Machine, journal: Journal) -> None:
    pv, alias = machine.pvs("FREE", "ALIAS")
    run.declare()
    run.Attachment().attach(machine.control()).set({alias: 2.0})
    run.end()
    (step,) = Restore(machine.control(relative=[pv]), journal, "last").steps
    assert (step.pv, str(step.fate)) == (alias, "a command, which cannot be undone")


def test_a_stopped_run_puts_a_pv_of_two_names_back(
    machine: Machine, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_CANCELLED", "restore")
    pv, alias = machine.pvs("FREE", "ALIAS")
    run.declare()
    control = run.Attachment().attach(machine.control())
    control.set({f"{pv}.VAL": 2.0})
    control.set({alias: 3.0})
    run.stop("the operator")
    run.end()
    assert machine.look("FREE") == 1.0
    # Found by any spelling: what was set, and what was put back.
    for name in (pv, f"{pv}.VAL", f"{pv}.{{}}", f"{machine.name}://{pv}"):
        assert [r.asked for r in journal.records(Query(pvs=(name,), kinds=(RecordKind.PUT,)))] == [2.0, 1.0]
