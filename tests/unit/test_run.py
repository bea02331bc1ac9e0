"""A run from its first set to its end: baseline first, evaluations counted, one end with a reason, and the way back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.model import Outcome
from badger_k2eg.core.records import RecordKind
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import CallCancelled, SetpointBlocked
from badger_k2eg.journal import Journal
from badger_k2eg.journal.recorded_run import RecordedRun
from badger_k2eg.testing.virtual_clock import VirtualClock
from badger_k2eg.tuning import Condition
from tests.rig.waiting import eventually

START = {"A": 1.0, "B": 2.0, "C": 3.0}


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    machine = MemoryBackend()
    for name, value in START.items():
        machine.add(name, value, units="mm", limits=(-50.0, 50.0))
    machine.add("PERMIT", 1, choices=("no", "OK"))
    yield machine
    machine.close()


Make = Callable[..., tuple[Control, run.Attachment]]


@pytest.fixture
def make(memory: MemoryBackend, journal: Journal) -> Make:
    """Gives a control with these options, tied to the run of this process."""

    def make(**options: Any) -> tuple[Control, run.Attachment]:
        control = Control(memory, resolve([parse({"timeout": 0.5, "retry_delay": 0.05} | options, str)]))
        attachment = run.Attachment(lambda: {"interface": "memory"})
        attachment.attach(control)
        return control, attachment

    return make


def kinds(recorded: RecordedRun, *wanted: RecordKind) -> list[RecordKind]:
    return [record.kind for record in recorded.records() if not wanted or record.kind in wanted]


def values(memory: MemoryBackend) -> dict[str, float]:
    return {name: memory.value(name) for name in START}


def test_a_read_makes_no_run(make: Make, journal: Journal) -> None:
    control, _ = make()
    assert control.get(["A"]) == {"A": 1.0}
    assert (run.current(), journal.runs(), journal.directory.exists()) == (None, [], False)


def test_the_baseline_is_on_disk_before_the_first_put(make: Make, memory: MemoryBackend, journal: Journal) -> None:
    control, attachment = make()
    attachment.may_set = lambda: ["A", "C", "GONE"]
    seen: list[dict[str, Any]] = []
    memory.on_put("A", lambda value: seen.append({pv: r.value for pv, r in journal.run("last").baseline().items()}))
    control.set({"A": 5.0})
    assert seen == [{"A": 1.0, "C": 3.0, "GONE": None}]
    control.set({"B": 6.0})
    baseline = journal.run("last").baseline()
    assert (baseline["B"].value, baseline["B"].unit) == (2.0, "mm")
    assert baseline["B"].stamp_ns


def test_no_baseline_no_put(make: Make, memory: MemoryBackend, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the journal shall be")
    control, _ = make()
    with pytest.raises(SetpointBlocked, match="no baseline on disk, so nothing is set"):
        control.set({"A": 5.0})
    assert memory.puts == []
    (tmp_path / "journal").unlink()
    control.set({"A": 5.0})
    assert memory.puts == [("A", 5.0)]


def test_evaluations_are_counted_and_closed(make: Make, journal: Journal) -> None:
    control, attachment = make()
    for value in (1.0, 2.0):
        # Two sets that nothing is read between are one point.
        control.set({"A": value})
        control.set({"B": value})
        control.get(["C"])
    # Half way there and the rest of it: one point, where somebody says so.
    with attachment.point({"a": 9.0}):
        control.set({"A": 9.5})
        control.set({"A": 9.0})
    control.get(["C"])
    run.end()
    recorded = journal.run("last")
    assert [(each.number, each.asked, each.ok) for each in recorded.evaluations()] == [
        (1, {"A": 1.0, "B": 1.0}, True),
        (2, {"A": 2.0, "B": 2.0}, True),
        (3, {"A": 9.0}, True),
    ]
    assert [each.data["observables"] for each in recorded.evaluations()] == [{"C": 3.0}] * 3
    assert (recorded.reason, recorded.open) == ("success", False)
    assert recorded.manifest["interface"] == "memory"
    assert {"versions", "user", "host"} <= recorded.manifest.keys()


def test_a_retry_is_the_same_evaluation(make: Make, memory: MemoryBackend, journal: Journal) -> None:
    control, _ = make()
    memory.fault("A", "refused", times=1)
    with pytest.raises(PermissionError):
        control.set({"A": 5.0})
    memory.fault("A", None)
    control.get(["C"])
    control.set({"A": 5.0})
    control.set({"A": 6.0})
    run.end()
    assert [each.number for each in journal.run("last").evaluations()] == [1, 2]


def test_every_attempt_is_on_record(make: Make, memory: MemoryBackend, journal: Journal) -> None:
    control, _ = make()
    memory.fault("A", "lost", times=1)
    control.set({"A": 5.0})
    run.end()
    puts = [r for r in journal.run("last").records() if r.kind is RecordKind.PUT]
    assert [(r.asked, r.attempt, r.outcome) for r in puts] == [(5.0, 1, Outcome.UNKNOWN), (5.0, 2, Outcome.APPLIED)]


def test_read_only_is_recorded_and_locks_nothing(make: Make, memory: MemoryBackend, journal: Journal) -> None:
    control, _ = make(read_only=True)
    control.set({"A": 5.0})
    control.get(["C"])
    run.end()
    recorded = journal.run("last")
    assert [r.outcome for r in recorded.records() if r.kind is RecordKind.SETPOINT] == [Outcome.SKIPPED]
    assert recorded.baseline() == {}
    assert [each.number for each in recorded.evaluations()] == [1]
    assert memory.puts == []


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["leave", "restore"])
def test_a_stop_ends_the_call_at_once_and_follows_the_policy(
    policy: str,
    make: Make,
    memory: MemoryBackend,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    virtual_clock: VirtualClock,
) -> None:
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_CANCELLED", policy)
    control, _ = make()
    run.declare()
    control.set({"A": 5.0})
    control.set({"B": 6.0})
    order: list[str] = []
    for name in START:
        memory.on_put(name, lambda value, name=name: order.append(name))
    hooks: list[str] = []
    ours = run.current()
    assert ours is not None
    ours.on_cancelled.append(lambda ended: hooks.append(ended.message))
    ours.on_cancelled.append(lambda ended: 1 / 0)
    memory.fault("C", "lost")
    virtual_clock.later(0.2, lambda: run.stop("the operator"))
    began = clock.monotonic()
    with pytest.raises(CallCancelled) as caught, run.inside():
        control.set({"C": 7.0}, {"C": partial(_never)})
    assert clock.monotonic() - began == pytest.approx(0.2, abs=1e-6)
    assert caught.value.report["C"].outcome is Outcome.UNKNOWN
    assert ours.ended.is_set()
    assert hooks == ["the operator"]
    recorded = journal.run("last")
    assert (recorded.reason, recorded.event.open) == ("stopped", False)
    if policy == "leave":
        assert values(memory) == {"A": 5.0, "B": 6.0, "C": 3.0}
        assert kinds(recorded, RecordKind.RESTORE_BEGIN) == []
    else:
        # The put to C was lost: it is where it was, and is left alone.
        assert values(memory) == START
        assert order[-2:] == ["B", "A"]
        assert kinds(recorded, RecordKind.RESTORE_BEGIN, RecordKind.RESTORE_END, RecordKind.RUN_END) == [
            RecordKind.RESTORE_BEGIN,
            RecordKind.RESTORE_END,
            RecordKind.RUN_END,
        ]
        # What was set to put it back belongs to no evaluation.
        assert recorded.setpoints(1) == {"A": 5.0, "B": 6.0, "C": 3.0}
    # A stopped run stays stopped, until somebody begins anew.
    with pytest.raises(SetpointBlocked, match="was stopped .the operator"):
        control.set({"A": 8.0})
    run.declare()
    control.set({"A": 8.0})
    assert len(journal.runs()) == 2


def _never(**_: object) -> None:
    raise AssertionError


def test_without_a_frame_of_ours_a_stop_ends_it_all_the_same(make: Make, journal: Journal) -> None:
    control, _ = make()
    control.set({"A": 5.0})
    ours = run.current()
    assert ours is not None
    run.stop("between two sets")
    assert ours.ended.wait(10)
    assert journal.run("last").reason == "stopped"


def test_it_ends_once(make: Make, journal: Journal) -> None:
    control, _ = make()
    control.set({"A": 5.0})
    ours = run.current()
    assert ours is not None
    enders = [threading.Thread(target=ours.end, args=(reason,)) for reason in (run.Reason.FAILED, run.Reason.SUCCESS)]
    for ender in enders:
        ender.start()
    for ender in enders:
        ender.join()
    assert kinds(journal.run("last"), RecordKind.RUN_END) == [RecordKind.RUN_END]


def test_what_somebody_else_moved_is_left_alone(
    make: Make, memory: MemoryBackend, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    control, _ = make()
    control.set({"A": 5.0, "B": 6.0})
    memory.post("A", 7.0)
    ours = run.current()
    assert ours is not None
    with caplog.at_level(logging.INFO, "badger_k2eg"), ours.closing() as deadline:
        steps = ours.restore(deadline)
    assert {step.pv: str(step.fate) for step in steps} == {"A": "moved by somebody else", "B": "restored"}
    assert values(memory) == {"A": 7.0, "B": 2.0, "C": 3.0}
    assert "A: moved by somebody else, it holds 7.0, and the run last wrote 5.0" in caplog.text


def test_a_run_of_a_program(make: Make, memory: MemoryBackend, journal: Journal) -> None:
    control, _ = make()
    with run.running({"what": "a scan by hand"}) as ours:
        control.set({"A": 5.0})
    with pytest.raises(ZeroDivisionError), run.running(policies={"on_exception": "restore"}):
        control.set({"A": 6.0})
        1 / 0  # noqa: B018
    assert [(each.reason, each.manifest.get("what")) for each in journal.runs()] == [
        ("success", "a scan by hand"),
        ("failed", None),
    ]
    assert journal.runs()[0].id == ours.id
    assert memory.value("A") == 5.0


# -- guards and locks -------------------------------------------------------------------------------------------------


def test_conditions_keep_a_run_from_beginning_and_from_going_on(
    make: Make, memory: MemoryBackend, journal: Journal
) -> None:
    control, attachment = make()
    attachment.guard(
        can_start=[Condition("C", at_most=10.0, reason="the shutter is in")],
        keep_running=[Condition("PERMIT", equals="OK", reason="no beam permit")],
    )
    memory.post("C", 20.0)
    with pytest.raises(SetpointBlocked, match="not begun: the shutter is in .* does not hold, it reads 20"):
        control.set({"A": 5.0})
    memory.post("C", 3.0)
    control.set({"A": 5.0})
    memory.post("C", 20.0)
    control.set({"A": 6.0})
    memory.post("PERMIT", 0)
    with pytest.raises(SetpointBlocked, match="paused: no beam permit .* does not hold, it reads 'no'"):
        control.set({"A": 7.0})
    memory.fault("PERMIT", "missing")
    with pytest.raises(SetpointBlocked, match="paused: no beam permit"):
        control.set({"A": 7.0})
    assert [value for _, value in memory.puts] == [5.0, 6.0]
    memory.fault("PERMIT", None)
    memory.post("PERMIT", 1)
    control.set({"A": 7.0})
    events = [r for r in journal.run("last").records() if r.kind is RecordKind.EVENT]
    assert [(r.name, r.pv) for r in events] == [("guard", "PERMIT")] * 2


def test_a_condition_that_breaks_in_the_middle_of_a_set(make: Make, memory: MemoryBackend, journal: Journal) -> None:
    control, attachment = make()
    attachment.guard(keep_running=[Condition("PERMIT", equals="OK", reason="no beam permit")])
    memory.on_put("B", lambda value: memory.post("PERMIT", 0))
    with pytest.raises(SetpointBlocked, match="C = 7.0: BLOCKED, paused: no beam permit") as caught:
        control.set({"A": 5.0, "B": 6.0, "C": 7.0})
    outcomes = [result.outcome for result in caught.value.report.results]
    assert outcomes == [Outcome.APPLIED, Outcome.APPLIED, Outcome.BLOCKED]
    assert values(memory) == {"A": 5.0, "B": 6.0, "C": 3.0}


def test_a_declared_run_keeps_its_locks_and_another_gives_them_back(make: Make) -> None:
    from badger_k2eg.run.pv_locks import locked_by

    control, _ = make()
    control.set({"A": 5.0})
    assert locked_by("A") == ""
    run.declare()
    control.set({"A": 6.0})
    ours = run.current()
    assert ours is not None
    assert ours.id in locked_by("A")
    assert locked_by("B") == ""
    run.end()
    assert locked_by("A") == ""


# -- somebody else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["record", "pause"])
def test_somebody_else_moves_a_pv_of_the_run(
    setting: str, make: Make, memory: MemoryBackend, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_FOREIGN_MOVE", setting)
    control, _ = make()
    run.declare()
    for value in (5.0, 6.0, 7.0):
        control.set({"A": value})

    def events() -> list[tuple[Any, ...]]:
        return [(r.name, r.pv, r.value) for r in journal.run("last").records() if r.kind is RecordKind.EVENT]

    clock.sleep(0.5)
    assert events() == []
    memory.post("A", 8.0)
    # What the run itself has never set is nobody's business.
    memory.post("B", 8.0)
    eventually(lambda: len(events()) == 1)
    assert events() == [("foreign move", "A", 8.0)]
    if setting == "pause":
        eventually(lambda: "somebody else" in str(_refusal(control)))
        assert memory.value("A") == 8.0
    # Who asks once more has read it.
    control.set({"A": 9.0})
    assert memory.value("A") == 9.0
    run.end()
    memory.post("A", 10.0)
    clock.sleep(0.3)
    assert len(events()) == 1


def _refusal(control: Control) -> Exception | None:
    try:
        control.set({"B": 1.0})
    except SetpointBlocked as error:
        return error
    return None


def test_every_update_of_a_recorded_pv_is_on_record(
    make: Make, memory: MemoryBackend, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BADGER_K2EG_RUN_RECORD", "BEAM")
    memory.add("BEAM", 0.0, units="pC")
    memory.add("WAVE", [1.0, 2.0])
    control, attachment = make()
    attachment.record = lambda: ["WAVE", "GONE"]
    memory.post("BEAM", 1.0)
    control.set({"A": 5.0})
    for value in (2.0, 3.0):
        memory.post("BEAM", value)
    memory.post("WAVE", [3.0, 4.0])
    control.set({"A": 6.0})
    memory.post("BEAM", 4.0)
    run.end()
    memory.post("BEAM", 5.0)
    samples = [r for r in journal.run("last").records() if r.kind is RecordKind.SAMPLE]
    assert [r.value for r in samples if r.pv == "BEAM"] == [1.0, 2.0, 3.0, 4.0]
    assert [list(r.value) for r in samples if r.pv == "WAVE"] == [[1.0, 2.0], [3.0, 4.0]]
    assert [(r.value, r.message is not None) for r in samples if r.pv == "GONE"] == [(None, True)]
    assert all(r.unit == "pC" and r.stamp_ns is not None for r in samples if r.pv == "BEAM")
    assert journal.run("last").reason == "success"
