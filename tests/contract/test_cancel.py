"""A cancel from another thread ends a call within 50 ms; nothing more is sent, and what is on the wire is UNKNOWN."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from badger_k2eg.control.validators import within
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome
from badger_k2eg.errors import CallCancelled
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .machine import Machine, Recorder, Running

PROMPT = 0.05
"""Seconds within which a cancelled call ends."""


def cancelled(call: Callable[[Deadline], Any], when: Callable[[], Any]) -> CallCancelled:
    """Cancel a call once the machine is as far as it should be; the best of three ends promptly on a loaded host."""
    delays = []
    for _ in range(3):
        deadline = Deadline()
        running = Running(partial(call, deadline))
        when()
        at = clock.monotonic()
        deadline.cancel()
        with pytest.raises(CallCancelled) as caught:
            running.result(5.0)
        delays.append(running.ended_at - at)
        if delays[-1] < PROMPT * pace():
            return caught.value
    raise AssertionError(f"it took {delays} s")


def a_moment() -> None:
    clock.sleep(0.15 * pace())


def test_a_get(machine: Machine) -> None:
    gone = machine.pv("NOBODY")
    control = machine.control(timeout=30.0)
    cancelled(lambda deadline: control.get([gone], deadline), a_moment)


def test_a_get_in_nan_mode_is_no_nan(machine: Machine) -> None:
    gone = machine.pv("NOBODY")
    control = machine.control(timeout=30.0, on_read_error="nan")
    cancelled(lambda deadline: control.get([gone], deadline), a_moment)


def test_the_guard_of_a_set(machine: Machine) -> None:
    gone, good = machine.pvs("NOBODY", "SP:000")
    control = machine.control(timeout=30.0)
    error = cancelled(lambda deadline: control.set({good: 1.0, gone: 1.0}, deadline=deadline), a_moment)
    assert {result.outcome for result in error.report.results} <= {Outcome.NOT_SENT, Outcome.BLOCKED}
    assert str(error.report) == str(control.last_report)
    assert machine.look("SP:000") == 0.0


def test_the_wait_for_a_readback_that_nobody_serves(machine: Machine) -> None:
    gone, good = machine.pvs("NOBODY", "SP:000")
    control = machine.control(timeout=30.0)
    validators = {good: within(gone, tolerance=1.0)}
    cancelled(lambda deadline: control.set({good: 1.0}, validators, deadline=deadline), a_moment)
    assert machine.look("SP:000") == 0.0


@pytest.mark.needs("faults")
@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
def test_a_put_on_the_wire_is_unknown_and_the_rest_is_not_sent(machine: Machine, parallel: bool) -> None:
    lost, later = machine.pvs("LOST", "SP:000")
    control = machine.control(timeout=30.0, parallel=parallel)
    arrived: list[int] = [0]

    def on_the_wire() -> None:
        eventually(lambda: machine.arrived("LOST") > arrived[0])
        arrived[0] = machine.arrived("LOST")

    error = cancelled(lambda deadline: control.set({lost: 1.0, later: 1.0}, deadline=deadline), on_the_wire)
    # What was answered is not read back any more: nobody knows what it holds.
    expected = Outcome.UNKNOWN if parallel else Outcome.NOT_SENT
    assert [result.outcome for result in error.report.results] == [Outcome.UNKNOWN, expected]
    assert "LOST" in str(error) or "LOST" in str(error.report)
    assert machine.look("SP:000") == (1.0 if parallel else 0.0)
    assert machine.arrived("LOST") == arrived[0]


@pytest.mark.needs("faults")
def test_the_wait_before_a_second_attempt(machine: Machine) -> None:
    lost = machine.pv("LOST")
    first = threading.Event()
    control = machine.control(timeout=0.3, retry_delay=30.0, sink=Recorder(lambda result: first.set()))
    before = machine.arrived("LOST")

    def after_the_first() -> None:
        assert first.wait(10.0)
        first.clear()
        a_moment()

    error = cancelled(lambda deadline: control.set({lost: 1.0}, deadline=deadline), after_the_first)
    assert error.report[lost].outcome is Outcome.UNKNOWN and error.report[lost].attempts == 1
    assert machine.arrived("LOST") - before <= 3, "one for each time it was tried here"


@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
def test_the_wait_for_our_validators(machine: Machine, parallel: bool) -> None:
    stick, later = machine.pvs("STICK:SP", "SP:000")
    stays = machine.pv("STICK:RB")
    control = machine.control(parallel=parallel)
    validators = {stick: within(stays, tolerance=0.1, timeout=30.0)}
    error = cancelled(lambda deadline: control.set({stick: 5.0, later: 1.0}, validators, deadline=deadline), a_moment)
    assert error.report[stick].outcome is Outcome.APPLIED
    assert error.report[later].outcome is (Outcome.APPLIED if parallel else Outcome.NOT_SENT)


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "among others"])
def test_a_foreign_validator_that_reads(machine: Machine, alone: bool) -> None:
    """It ends at its next read, or in the one that it is in."""
    pv, other, gone = machine.pvs("SP:000", "SP:001", "NOBODY")
    reached = threading.Event()

    def read_for_ever(context: Any, **_: Any) -> None:
        reached.set()
        context.get(gone, timeout=30.0)

    def once_it_reads() -> None:
        assert reached.wait(10.0)
        reached.clear()
        a_moment()

    control = machine.control(parallel=True)
    values, validators = {pv: 1.0}, {pv: read_for_ever}
    if not alone:
        values[other], validators[other] = 1.0, read_for_ever
    cancelled(lambda deadline: control.set(values, validators, deadline=deadline), once_it_reads)
    eventually(lambda: [t.name for t in threading.enumerate() if t.name.startswith("validate")], [])


def test_a_validator_cannot_put_after_the_end(machine: Machine) -> None:
    pv, free = machine.pvs("SP:000", "FREE")
    deadline = Deadline()

    def put_late(context: Any, **_: Any) -> None:
        deadline.cancel()
        context.put(free, 9.0)

    with pytest.raises(CallCancelled):
        machine.control().set({pv: 1.0}, {pv: put_late}, deadline=deadline)
    assert machine.look("FREE") == 1.0


def test_between_two_puts_of_a_serial_call(machine: Machine) -> None:
    """Cancelled in the very moment when the first is done: the second one never leaves, on no transport."""
    first, second = machine.pvs("SP:000", "FREE")
    for turn in range(20):
        deadline = Deadline()
        control = machine.control(sink=Recorder(lambda result, end=deadline: end.cancel()))
        with pytest.raises(CallCancelled) as caught:
            control.set({first: float(turn), second: 9.0}, deadline=deadline)
        assert [r.outcome for r in caught.value.report.results] == [Outcome.UNKNOWN, Outcome.NOT_SENT]
        assert "not read back yet" in caught.value.report[first].message
    assert (machine.look("SP:000"), machine.look("FREE")) == (19.0, 1.0)


def test_before_it_begins(machine: Machine) -> None:
    pv = machine.pv("SP:000")
    deadline = Deadline()
    deadline.cancel()
    control = machine.control()
    with pytest.raises(CallCancelled):
        control.set({pv: 1.0}, deadline=deadline)
    with pytest.raises(CallCancelled):
        control.get([pv], deadline)
    assert machine.look("SP:000") == 0.0


def test_the_wait_for_a_turn(machine: Machine) -> None:
    first, second = machine.pvs("SP:000", "SP:001")
    control = machine.control(put_rate=0.01)
    sent = threading.Event()
    control.sink = Recorder(lambda result: sent.set())

    def after_the_first() -> None:
        assert sent.wait(10.0)
        a_moment()

    error = cancelled(lambda deadline: control.set({first: 1.0, second: 1.0}, deadline=deadline), after_the_first)
    assert error.report[second].outcome is Outcome.NOT_SENT and machine.look("SP:001") == 0.0


def test_a_call_has_its_own_end_and_the_control_lives_on(machine: Machine) -> None:
    gone, good = machine.pvs("NOBODY", "SP:000")
    control = machine.control(timeout=30.0)
    cancelled(lambda deadline: control.get([gone], deadline), a_moment)
    assert control.get([good]) == {good: 0.0} and control.set({good: 1.0}).ok


@pytest.mark.needs("faults")
def test_the_end_of_the_whole_call_is_a_timeout(machine: Machine) -> None:
    """An overall deadline is not a cancel: the error is a TimeoutError, and truthful about what was sent."""
    lost, later = machine.pvs("LOST", "SP:000")
    control = machine.control(timeout=30.0)
    began = clock.monotonic()
    with pytest.raises(TimeoutError) as caught:
        control.set({lost: 1.0, later: 1.0}, deadline=Deadline(0.5))
    assert 0.5 <= clock.monotonic() - began < 2.0 * pace()
    assert [r.outcome for r in caught.value.report.results] == [Outcome.UNKNOWN, Outcome.NOT_SENT]
    assert machine.arrived("LOST") == 1 and machine.look("SP:000") == 0.0
