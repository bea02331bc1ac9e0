"""A run and its undoing are the same over every way to reach PVs."""

from __future__ import annotations

from pathlib import Path

import pytest

from badger_k2eg import run
from badger_k2eg.control import Control
from badger_k2eg.control.validators import within
from badger_k2eg.core import clock
from badger_k2eg.core.records import RecordKind
from badger_k2eg.errors import CallCancelled
from badger_k2eg.journal import Journal
from badger_k2eg.run.restore import Restore
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .machine import Machine, later

SET = ("DBL", "INT", "ENUM", "WF")


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    return Journal.open()


def attached(machine: Machine, *names: str) -> Control:
    machine.pvs(*names)
    run.declare()
    return run.Attachment().attach(machine.control())


def test_undone_from_its_record(machine: Machine, journal: Journal) -> None:
    before = [machine.look(name) for name in SET]
    control = attached(machine, *SET)
    pv = machine.pv
    control.set({pv("DBL"): 2.5, pv("INT"): 17})
    control.get([pv("STATIC")])
    control.set({pv("ENUM"): "auto", pv("WF"): [4.0, 5.0, 6.0], pv("DBL"): 3.5})
    run.end()
    baseline = journal.run("last").baseline()
    assert baseline[pv("DBL")].value == 1.5
    plan = Restore(machine.control(), journal, "last", to=1)
    assert {step.pv: step.value for step in plan.steps}[pv("DBL")] == 2.5
    steps = Restore(machine.control(), journal, "last").run()
    assert {step.pv: str(step.fate) for step in steps} == {pv(name): "restored" for name in SET}
    assert [machine.look(name) for name in SET] == before


@pytest.mark.parametrize("policy", ["leave", "restore"])
def test_stopped_in_mid_move(policy: str, machine: Machine, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_CANCELLED", policy)
    control = attached(machine, "DBL", "STICK:SP", "STICK:RB")
    pv = machine.pv
    control.set({pv("DBL"): 2.5})
    later(0.7, lambda: run.stop("the operator"))
    began = clock.monotonic()
    with pytest.raises(CallCancelled), run.inside():
        never = within(pv("STICK:RB"), tolerance=0.1, timeout=60.0)
        control.set({pv("STICK:SP"): 5.0}, {pv("STICK:SP"): never})
    # The validator that never ends has its part of the time for putting back.
    assert clock.monotonic() - began < 45 * pace()
    assert journal.run("last").reason == "stopped"
    expected = (1.5, 0.0) if policy == "restore" else (2.5, 5.0)
    eventually(lambda: (machine.look("DBL"), machine.look("STICK:SP")), expected)


def test_somebody_else_moves_one_of_its_pvs(machine: Machine, journal: Journal) -> None:
    control = attached(machine, "DBL", "FREE")
    pv = machine.pv
    control.set({pv("DBL"): 2.5, pv("FREE"): 2.5})
    clock.sleep(0.5)
    machine.move("DBL", 3.0)
    recorded = journal.run("last")

    def events() -> list[tuple[str | None, str | None]]:
        return [(r.name, r.pv) for r in recorded.records() if r.kind is RecordKind.EVENT]

    eventually(lambda: ("foreign move", pv("DBL")) in events())
    run.end()
    assert ("foreign move", pv("FREE")) not in events()
    steps = {step.pv: str(step.fate) for step in Restore(machine.control(), journal, "last").run()}
    assert steps == {pv("DBL"): "moved by somebody else", pv("FREE"): "restored"}
    assert (machine.look("DBL"), machine.look("FREE")) == (3.0, 1.0)
