"""What a run may have left behind where nobody is sure: every undo takes it for the run's own, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Limits, Outcome, PvAddress, Severity
from badger_k2eg.core.records import Record, RecordKind
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import CallCancelled, PutMismatch, PvNotConnected, SetError, SetpointBlocked, SettingsError
from badger_k2eg.journal import Journal
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate, Step
from badger_k2eg.testing.virtual_clock import VirtualClock
from badger_k2eg.tuning import Knob
from badger_k2eg.tuning.mover import Mover

K = RecordKind


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    machine = MemoryBackend({"A": 1.0, "B": 0.0})
    yield machine
    machine.close()


def control(memory: MemoryBackend, **options: Any) -> Control:
    return Control(memory, resolve([parse({"timeout": 0.3, "retry_delay": 0.05} | options, str)]))


def attached(memory: MemoryBackend, **options: Any) -> Control:
    return run.Attachment().attach(control(memory, **options))


def dead_after_the_put(memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every PV be gone once something more was put."""
    read, sent = memory.get_many, len(memory.puts)

    def get_many(addresses: Any, deadline: Deadline) -> Any:
        if len(memory.puts) == sent:
            return read(addresses, deadline)
        return {address: PvNotConnected(address.text, "gone") for address in addresses}

    monkeypatch.setattr(memory, "get_many", get_many)


def cancelled(memory: MemoryBackend, tied: Control, virtual: VirtualClock, _: pytest.MonkeyPatch) -> None:
    memory.fault("A", "lost")
    deadline = Deadline()
    virtual.later(0.1, deadline.cancel)
    with pytest.raises(CallCancelled):
        tied.set({"A": 7.0}, deadline=deadline)


def unread(fault: str) -> Callable[..., None]:
    def put(memory: MemoryBackend, tied: Control, _: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        memory.fault("A", fault)
        with monkeypatch.context() as patch:
            dead_after_the_put(memory, patch)
            with pytest.raises(SetError) as caught:
                tied.set({"A": 7.0})
        assert caught.value.report["A"].outcome is Outcome.UNKNOWN

    return put


@pytest.mark.parametrize("spoil", [cancelled, unread("lost"), unread("refused")], ids=["cancel", "lost", "refused"])
def test_what_may_not_have_happened_leaves_the_value_before_the_runs_own(
    memory: MemoryBackend, journal: Journal, virtual_clock: VirtualClock, monkeypatch: Any, spoil: Any
) -> None:
    run.declare()
    tied = attached(memory)
    tied.set({"A": 5.0})
    spoil(memory, tied, virtual_clock, monkeypatch)
    memory.fault("A", None)
    assert memory.value("A") == 5.0
    ours = run.current()
    assert ours is not None
    assert [step.fate for step in ours.restore()] == [Fate.RESTORED]
    assert memory.value("A") == 1.0


def test_failures_in_a_row_do_not_keep_a_run_from_its_way_back(memory: MemoryBackend, journal: Journal) -> None:
    run.declare()
    tied = attached(memory, max_failures=1)
    tied.set({"A": 5.0, "B": 5.0})
    memory.fault("B", "refused")
    with pytest.raises(SetError):
        tied.set({"B": 6.0})
    with pytest.raises(SetpointBlocked, match="paused"):
        tied.set({"A": 6.0})
    ours = run.current()
    assert ours is not None
    # B fails again, and A goes back all the same.
    assert {step.pv: step.fate for step in ours.restore()}["A"] is Fate.RESTORED
    assert memory.value("A") == 1.0


def test_what_is_already_there_is_looked_at_as_well(memory: MemoryBackend) -> None:
    memory.fault("B", "refused", times=1)
    setter = control(memory)
    with pytest.raises(SetError):
        setter.set({"A": 2.0, "B": 2.0})
    memory.fault("B", None)
    memory.on_put("B", lambda value: memory.post("A", 0.25))
    with pytest.raises(PutMismatch, match=r"A = 2\.0: UNKNOWN, .* it reads 0\.25"):
        setter.set({"A": 2.0, "B": 2.0})


def test_a_late_pv_that_somebody_moved_meanwhile_is_left_alone(
    memory: MemoryBackend, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from badger_k2eg.run import restore_plan

    run.declare()
    tied = attached(memory)
    tied.set({"A": 5.0, "B": 5.0})
    carry_out, parts = restore_plan.carry_out, []

    def late(control: Control, steps: list[Step], **how: Any) -> list[Step]:
        parts.append(steps)
        if len(parts) == 1:
            memory.post("B", 7.0)
            return [replace(step, fate=Fate.NOT_SENT) for step in steps]
        return carry_out(control, steps, **how)

    monkeypatch.setattr(restore_plan, "carry_out", late)
    ours = run.current()
    assert ours is not None
    assert {step.pv: step.fate for step in ours.restore()} == {"A": Fate.RESTORED, "B": Fate.FOREIGN}
    assert (memory.value("A"), memory.value("B")) == (1.0, 7.0)


# -- from the record alone --------------------------------------------------------------------------------------------


def line(kind: RecordKind, **fields: Any) -> Record:
    return Record(kind=kind, run="r", **fields)


def begin(journal: Journal, **setpoints: float) -> int:
    return journal.write(line(K.SET_BEGIN, data={"setpoints": setpoints})).start


@pytest.fixture
def lost(journal: Journal) -> Journal:
    """The journal of a run whose process is gone; its baseline."""
    journal.write(line(K.RUN_BEGIN, process=2**22 + 1))
    for pv, value in (("A", 1.0), ("B", 0.0)):
        journal.write(line(K.BASELINE, pv=pv, value=value))
    return journal


def fates(memory: MemoryBackend, journal: Journal) -> dict[str, Fate]:
    return {step.pv: step.fate for step in Restore(control(memory), journal, "r").steps}


def test_the_end_of_one_call_ends_no_other(lost: Journal, memory: MemoryBackend) -> None:
    begin(lost, B=3.0)
    other = begin(lost, A=2.0)
    lost.write(line(K.PUT, pv="A", asked=2.0, outcome=Outcome.APPLIED))
    lost.write(line(K.SETPOINT, pv="A", asked=2.0, value=2.0, outcome=Outcome.APPLIED), line(K.SET_END, begin=other))
    memory.post("A", 2.0)
    memory.post("B", 3.0)
    assert fates(memory, lost) == {"A": Fate.TO_DO, "B": Fate.TO_DO}


@pytest.mark.parametrize(("held", "fate"), [(2.0, Fate.TO_DO), (3.4, Fate.TO_DO), (5.5, Fate.FOREIGN)])
def test_a_ramp_that_was_killed_on_its_way_is_the_runs_own(
    lost: Journal, memory: MemoryBackend, held: float, fate: Fate
) -> None:
    begin(lost, A=5.0)
    lost.write(line(K.PUT, pv="A", asked=2.0, outcome=Outcome.APPLIED))
    memory.post("A", held)
    assert fates(memory, lost) == {"A": fate}


@pytest.mark.parametrize(("held", "fate"), [(7.0, Fate.TO_DO), (5.0, Fate.TO_DO), (6.0, Fate.FOREIGN)])
def test_an_older_put_may_come_late(lost: Journal, memory: MemoryBackend, held: float, fate: Fate) -> None:
    for asked, outcome in ((5.0, Outcome.APPLIED), (7.0, Outcome.UNKNOWN), (8.0, Outcome.UNKNOWN)):
        call = begin(lost, A=asked)
        lost.write(line(K.SETPOINT, pv="A", asked=asked, outcome=outcome), line(K.SET_END, begin=call))
    memory.post("A", held)
    assert fates(memory, lost) == {"A": fate}


def test_the_tolerance_of_a_record_is_not_left_with_the_control(lost: Journal, memory: MemoryBackend) -> None:
    told = {"tolerance": 0.5}
    lost.write(line(K.SETPOINT, pv="A", asked=5.0, outcome=Outcome.APPLIED, data=told))
    setter = control(memory)
    Restore(setter, lost, "r")
    assert setter.tolerance_of(PvAddress.parse("A")) == 0.0


# -- restrictions and knobs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["limits", "max_step", "put_tolerance"])
def test_one_pattern_stands_once(option: str) -> None:
    value = {"limits": "Q=0..1, Q=0..100"}.get(option, "Q=1, Q=50")
    with pytest.raises(SettingsError, match=f"{option}.*Q appears twice"):
        parse({option: value}, lambda name: f"option {name}")


def test_a_setpoint_in_alarm_has_its_unit_and_its_place(memory: MemoryBackend) -> None:
    about = {"severity": Severity.INVALID, "message": "LINK", "limits": (0.0, 10.0)}
    memory.add("K", 5.0, units="m", **about)
    with pytest.raises(SetpointBlocked, match="declares mm"):
        Mover(control(memory)).move({"k": 4.0}, {"k": Knob("K", unit="mm")})
    Mover(control(memory)).move({"k": 3.0}, {"k": Knob("K", approach="below", dwell=0.0)})
    assert [value for _, value in memory.puts] == [2.5, 3.0]


def test_an_approach_from_nowhere_is_refused(memory: MemoryBackend) -> None:
    memory.add("K", 5.0, limits=Limits(0.0, 10.0))
    memory.fault("K", "missing")
    with pytest.raises(SetpointBlocked, match="its present value cannot be read"):
        Mover(control(memory)).move({"k": 3.0}, {"k": Knob("K", approach="below", dwell=0.0)})


def test_validators_that_hang_do_not_outlast_the_call(memory: MemoryBackend, virtual_clock: VirtualClock) -> None:
    hangs = clock.event()

    def hang(**call: Any) -> None:
        hangs.wait(60.0)

    setter, began = control(memory, parallel=True), clock.monotonic()
    with pytest.raises(TimeoutError, match=r"has not ended within the call's 0\.5 s"):
        setter.set({"A": 2.0, "B": 2.0}, {"A": hang, "B": hang}, timeout=0.5)
    assert clock.monotonic() - began < 5.0
    hangs.set()
