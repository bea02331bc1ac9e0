"""A run ends while something else goes on: sets of other threads, other options, PVs that are tables, shared locks."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.futures import Future, background
from badger_k2eg.core.model import Outcome, PutAnswer, PvAddress, SetReport
from badger_k2eg.core.records import RecordKind
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import CallCancelled, PutMismatch, SetpointBlocked
from badger_k2eg.journal import Journal
from badger_k2eg.run import process
from badger_k2eg.run import run as core
from badger_k2eg.run.pv_locks import Locks, locked_by
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate
from badger_k2eg.testing.virtual_clock import VirtualClock
from tests.rig.waiting import eventually

#: Seconds; far more than anything here takes.
PATIENCE = 20.0
#: A way that is never gone to its end in the time of a test: a step at a time, twenty in a second.
FAR = 10000.0
RAMP: dict[str, Any] = {"max_step": {"Q": 1.0}, "ramp": True, "put_interval": 0.05}


class Machine(MemoryBackend):
    """Memory in which a put can be held on its way: it has left, and the PV has not got it yet."""

    def __init__(self) -> None:
        super().__init__({"Q": 0.0, "R": 0.0, "S": 0.0})
        self.add("TAB", {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])})
        self.held: float | None = None
        self.on_its_way, self.may_arrive = threading.Event(), threading.Event()

    def put_many(
        self, values: Mapping[PvAddress, Any], deadline: Deadline, wait: Collection[PvAddress] = ()
    ) -> dict[PvAddress, PutAnswer]:
        if self.held in values.values():
            self.held = None
            self.on_its_way.set()
            assert self.may_arrive.wait(PATIENCE)
            deadline = Deadline.alone(PATIENCE)
        return super().put_many(values, deadline, wait)


@pytest.fixture
def memory() -> Iterator[Machine]:
    with contextlib.closing(Machine()) as machine:
        yield machine


@pytest.fixture
def journal(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Journal:
    # The way back is made in steps as well.
    monkeypatch.setenv("BADGER_K2EG_RUN_RESTORE_TIMEOUT", "40")
    return journal


Make = Callable[..., Control]


@pytest.fixture
def make(memory: Machine, journal: Journal) -> Iterator[Make]:
    """Gives a control with these options, tied to the run of this process, or in place of one that is."""
    with contextlib.ExitStack() as made:

        def make(attachment: run.Attachment | None = None, **options: Any) -> Control:
            control = Control(memory, resolve([parse({"timeout": 0.5, "retry_delay": 0.05} | options, str)]))
            # What a test that has failed leaves in the background ends with it.
            made.callback(control.close)
            return (attachment or run.Attachment()).attach(control)

        yield make


def another_process_may_set(pv: str) -> bool:
    """Whether the lock of a PV is free for somebody else."""
    code = "import sys; from badger_k2eg.run.pv_locks import locked_by; print(locked_by(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, pv], capture_output=True, text=True, timeout=150, check=True)
    return not done.stdout.strip()


def goes_on(memory: Machine) -> None:
    """Wait until a way to somewhere has come three steps further."""
    reached, target = threading.Event(), len(memory.puts) + 3
    memory.on_put("Q", lambda value: reached.set() if len(memory.puts) >= target else None)
    assert reached.wait(PATIENCE)


def is_up_and_back(memory: Machine) -> bool:
    """Whether Q went up in steps of 1 and then back to 0, with nothing else in between or after."""
    top = int(max(value for _, value in memory.puts))
    return memory.puts == [("Q", float(step)) for step in [*range(1, top + 1), *range(top - 1, -1, -1)]]


def blocked(future: Future[SetReport], pv: str = "Q") -> str:
    """Give why a call was not let to its end."""
    with pytest.raises(SetpointBlocked) as caught:
        future.result(PATIENCE)
    assert caught.value.report[pv].outcome is Outcome.BLOCKED
    return str(caught.value.report[pv].message)


def kinds(journal: Journal) -> list[RecordKind]:
    return [record.kind for record in journal.run("last").records()]


# -- a set in another thread ------------------------------------------------------------------------------------------


def _inside(control: Control) -> None:
    """Set as an interface does."""
    with run.inside():
        control.set({"Q": FAR})


STARTS: dict[str, Callable[[Control], Future[Any]]] = {
    "set_no_wait": lambda control: control.set_no_wait({"Q": FAR}),
    "background": lambda control: background(control.set, {"Q": FAR}),
    "in a frame of ours": lambda control: background(_inside, control),
}


@pytest.mark.parametrize("how", STARTS)
def test_a_stop_ends_a_set_of_another_thread(how: str, make: Make, memory: Machine, journal: Journal) -> None:
    control = make(**RAMP)
    ours = run.begin({}, {"on_cancelled": "restore"})
    future = STARTS[how](control)
    goes_on(memory)
    run.stop("the operator")
    assert ours.ended.wait(PATIENCE)
    if how == "in a frame of ours":
        # The run cancels it, in whatever it waits for.
        with pytest.raises(CallCancelled) as caught:
            future.result(PATIENCE)
        assert not caught.value.report["Q"].ok
    else:
        assert "is over: the operator" in blocked(future)
    # Not a step of it came after the way back had begun, nor after the end.
    assert is_up_and_back(memory)
    assert [step.fate for step in ours.restored] == [Fate.RESTORED]
    recorded = kinds(journal)
    # Its own end is on record before the run puts anything back.
    assert recorded.index(RecordKind.SET_END) < recorded.index(RecordKind.RESTORE_BEGIN)
    assert recorded[-1] is RecordKind.RUN_END
    assert another_process_may_set("Q")


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "opened by its first set"])
def test_a_failed_run_ends_a_set_of_another_thread(
    declared: bool, make: Make, memory: Machine, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_EXCEPTION", "restore")
    control = make(**RAMP)
    with contextlib.suppress(ZeroDivisionError), run.running() if declared else contextlib.nullcontext():
        future = control.set_no_wait({"Q": FAR})
        goes_on(memory)
        assert locked_by("Q") != ""
        if declared:
            1 / 0  # noqa: B018
        run.end(run.Reason.FAILED, "no beam")
    sent = len(memory.puts)
    assert "is over" in blocked(future)
    assert len(memory.puts) == sent
    assert is_up_and_back(memory)
    assert (journal.run("last").reason, kinds(journal)[-1]) == ("failed", RecordKind.RUN_END)
    assert another_process_may_set("Q")


def test_each_of_several_sets_of_one_pv_is_ended(make: Make, memory: Machine) -> None:
    control = make(**RAMP)
    other = make()
    ours = run.begin({}, {"on_exception": "restore"})
    future = control.set_no_wait({"Q": FAR})
    goes_on(memory)
    # One that has begun later and ended earlier takes nothing along.
    with contextlib.suppress(PutMismatch):  # the ramp may write over it before it is read back
        other.set({"Q": 0.5})
    goes_on(memory)
    ours.end(run.Reason.FAILED)
    sent = len(memory.puts)
    assert "is over" in blocked(future)
    assert len(memory.puts) == sent
    assert memory.value("Q") == 0.0


def test_what_is_on_its_way_arrives_before_anything_is_put_back(
    make: Make, memory: Machine, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "_CALLS_END", PATIENCE)
    control = make(**RAMP)
    ours = run.begin({}, {"on_exception": "restore"})
    memory.held = 3.0
    future = control.set_no_wait({"Q": FAR})
    assert memory.on_its_way.wait(PATIENCE)
    ender = background(ours.end, run.Reason.FAILED)
    # A run that does not wait for it has ended by now.
    assert not ours.ended.wait(0.5)
    assert RecordKind.RESTORE_BEGIN not in kinds(journal)
    memory.may_arrive.set()
    assert ender.result(PATIENCE)
    assert "is over" in blocked(future)
    assert [value for _, value in memory.puts] == [1.0, 2.0, 3.0, 2.0, 1.0, 0.0]


def test_an_end_within_a_call_does_not_wait_for_that_call(
    make: Make, memory: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "_CALLS_END", 2 * PATIENCE)
    control = make()
    ours = run.begin({}, {"on_exception": "restore"})
    control.set({"R": 6.0})

    def ends_it(**_: object) -> None:
        run.end(run.Reason.FAILED, "the beam is lost")
        assert ours.ended.is_set()

    # Q is where it was: the end has nothing to do there.
    future = background(control.set, {"Q": 0.0, "S": 7.0}, {"Q": ends_it})
    assert "is over: the beam is lost" in blocked(future, "S")
    assert memory.puts == [("R", 6.0), ("Q", 0.0), ("R", 0.0)]


def waiting(control: Control) -> tuple[Future[Any], threading.Event]:
    """Set Q and S in the background; the validator of Q waits for the event, and S would come after it."""
    waits, go_on = threading.Event(), threading.Event()

    def validator(**_: object) -> None:
        waits.set()
        go_on.wait()

    future = background(control.set, {"Q": 0.0, "S": 7.0}, {"Q": validator})
    assert waits.wait(PATIENCE)
    return future, go_on


def test_ctrl_c_while_the_end_waits_keeps_nothing_from_it(
    make: Make, memory: Machine, journal: Journal, monkeypatch: pytest.MonkeyPatch, virtual_clock: VirtualClock
) -> None:
    monkeypatch.setattr(core, "_CALLS_END", PATIENCE)
    control = make()
    ours = run.begin({}, {"on_exception": "restore"})
    control.set({"R": 6.0})
    future, go_on = waiting(control)
    timer = virtual_clock.later(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            run.end(run.Reason.FAILED, "no beam")
        assert not future.done()
        assert ours.ended.is_set() and run.current() is None
        assert memory.value("R") == 0.0
        assert (journal.run("last").reason, kinds(journal)[-1]) == ("failed", RecordKind.RUN_END)
        assert another_process_may_set("R")
    finally:
        timer.join()
        go_on.set()
    assert "is over: no beam" in blocked(future, "S")


def test_a_call_that_does_not_end_is_waited_for_in_bounded_time_only(
    make: Make, memory: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(core, "_CALLS_END", 0.2)
    control = make()
    ours = run.begin({}, {"on_exception": "restore"})
    control.set({"R": 6.0})
    future, go_on = waiting(control)
    ender = background(ours.end, run.Reason.FAILED, "no beam")
    try:
        assert ender.result(PATIENCE)
        assert not future.done()
        assert "has not ended; it sends nothing more" in caplog.text
        assert memory.value("R") == 0.0
    finally:
        go_on.set()
    # It goes on after the end of the run, and sends nothing more.
    assert "is over: no beam" in blocked(future, "S")
    assert memory.puts == [("R", 6.0), ("Q", 0.0), ("R", 0.0)]
    assert another_process_may_set("Q")


# -- a table ----------------------------------------------------------------------------------------------------------

START = {"Q": 0.0, "TAB": {"a": [1.0, 2.0], "b": [3.0, 4.0]}, "R": 0.0}
SET = {"Q": 5.0, "TAB": {"a": [7.0, 8.0], "b": [3.0, 4.0]}, "R": 6.0}


def test_a_table_is_put_back_at_the_end(make: Make, memory: Machine, journal: Journal) -> None:
    control = make()
    ours = run.begin({}, {"on_exception": "restore"})
    control.set(SET)
    ours.end(run.Reason.FAILED)
    assert {name: memory.value(name) for name in START} == START
    assert [str(step) for step in ours.restored] == ["R: restored", "TAB: restored", "Q: restored"]
    assert journal.run("last").reason == "failed"


def test_a_table_is_put_back_from_the_record(make: Make, memory: Machine, journal: Journal) -> None:
    control = make()
    with run.running():
        control.set(SET)
    back = Restore(control, journal, "last")
    assert [(step.pv, step.fate) for step in back.steps] == [(pv, Fate.TO_DO) for pv in ("R", "TAB", "Q")]
    assert [step.fate for step in back.run()] == [Fate.RESTORED] * 3
    assert {name: memory.value(name) for name in START} == START
    assert [step.fate for step in Restore(control, journal, "last").steps] == [Fate.THERE] * 3
    # One cell that somebody else has changed is a foreign move of the table.
    memory.post("TAB", {"a": np.array([1.0, 2.5]), "b": np.array([3.0, 4.0])})
    fates = {step.pv: step.fate for step in Restore(control, journal, "last").steps}
    assert fates == {"R": Fate.THERE, "TAB": Fate.FOREIGN, "Q": Fate.THERE}


def _foreign_moves(journal: Journal) -> list[tuple[str | None, Any]]:
    return [(r.pv, r.value) for r in journal.run("last").records() if r.name == "foreign move"]


def test_a_table_is_watched(make: Make, memory: Machine, journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    control = make()
    run.begin()
    control.set(SET)
    # PVs are looked at in the order of their updates: the table, which nobody else has moved, before this one.
    memory.post("R", 9.0)
    eventually(lambda: _foreign_moves(journal) == [("R", 9.0)])
    moved = {"a": [7.0, 8.5], "b": [3.0, 4.0]}
    memory.post("TAB", {name: np.array(column) for name, column in moved.items()})
    eventually(lambda: [pv for pv, _ in _foreign_moves(journal)] == ["R", "TAB"])
    assert "cannot be watched" not in caplog.text


# -- other options during a run ---------------------------------------------------------------------------------------


def test_options_that_change_during_a_run_bind_the_way_back(
    make: Make, memory: Machine, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    attachment = run.Attachment()
    control = make(attachment)
    another = make()
    ours = run.begin({}, {"on_exception": "restore"})
    control.set({"Q": 5.0})
    another.set({"R": 6.0})
    # As an interface does when one of its options is set.
    control.close()
    make(attachment, read_only=True)
    # Somebody else's move is still noticed.
    memory.post("Q", 5.5)
    eventually(lambda: _foreign_moves(journal) == [("Q", 5.5)])
    memory.post("Q", 5.0)
    with caplog.at_level(logging.INFO, "badger_k2eg"):
        ours.end(run.Reason.FAILED)
    # What was set by way of another control is bound by that one's options.
    assert memory.puts == [("Q", 5.0), ("R", 6.0), ("R", 0.0)]
    assert {step.pv: step.fate for step in ours.restored} == {"Q": Fate.READ_ONLY, "R": Fate.RESTORED}
    assert "1 restored, 1 read-only" in caplog.text
    (end,) = (r for r in journal.run("last").records() if r.kind is RecordKind.RESTORE_END)
    assert end.data["pvs"]["Q"]["fate"] == "read-only"


# -- locks ------------------------------------------------------------------------------------------------------------


class _SlowLocks:
    """Lets a take of a lock rest before it, until the next one comes or some time is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.taken: list[list[str]] = []
        self.is_taking, self.go_on = clock.event(), clock.event()
        take = Locks.take

        def slowly(registry: Locks, pvs: Collection[str], **words: Any) -> None:
            if pvs:
                self.taken.append(list(pvs))
                (self.go_on if self.is_taking.is_set() else self.is_taking).set()
                self.go_on.wait(seconds)
            take(registry, pvs, **words)

        monkeypatch.setattr(Locks, "take", slowly)


def test_two_threads_take_the_lock_of_a_pv_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    control = make()
    run.begin()
    # Time enough for the second to come as far as the first.
    slow = _SlowLocks(monkeypatch, 1.0)
    futures = [background(control.set, {"Q": 1.0})]
    assert slow.is_taking.wait(PATIENCE)
    futures.append(background(control.set, {"Q": 2.0}))
    assert [future.result(PATIENCE).ok for future in futures] == [True, True]
    assert slow.taken == [["Q"]]
    assert not another_process_may_set("Q")
    run.end()
    assert another_process_may_set("Q")


def test_a_lock_that_is_taken_while_the_run_ends_is_given_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    control = make()
    ours = run.begin()
    slow = _SlowLocks(monkeypatch, PATIENCE)
    future = background(control.set, {"Q": 1.0})
    assert slow.is_taking.wait(PATIENCE)
    ender = background(ours.end, run.Reason.FAILED, "no beam")
    ours.ended.wait(0.5)
    slow.go_on.set()
    assert ender.result(PATIENCE)
    assert "is over" in blocked(future)
    assert another_process_may_set("Q")


def test_a_signal_that_two_threads_pass_on_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one would come when the previous handler is in place, while the first is cleaned up after."""
    heard: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: heard.append(number))
    monkeypatch.setattr(process._here, "previous", {signal.SIGINT: lambda number, frame: heard.append(number)})
    monkeypatch.setattr(process._here, "signals", [signal.SIGINT])
    thread = threading.Thread(target=process._deliver)
    thread.start()
    thread.join()
    process._deliver()
    assert heard == [signal.SIGINT]
