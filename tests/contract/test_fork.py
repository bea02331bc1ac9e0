"""P13: it works in a forked and in a spawned child, whatever the parent did before, and the parent goes on."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from badger_k2eg.control import Control
from badger_k2eg.control.validators import within
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, Reading
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .children import in_fork, read_in_spawned_child
from .machine import PATIENCE, IocMachine, Machine, Running

# Python 3.12 warns of every fork of a process with threads; that it works all the same is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

FORKS = pytest.mark.parametrize("forks", [4, pytest.param(20, marks=pytest.mark.extended)])


def in_child(function: Callable[[], Any], seconds: float = 5.0) -> tuple[Any, float]:
    # The tests' own p4p client would hang every child: it knows nothing of forks.
    IocMachine.independent.close()
    return in_fork(function, seconds)


@contextmanager
def load(*works: Callable[[], Any]) -> Iterator[list[BaseException]]:
    """Do each of these again and again in a thread of its own."""
    stop, errors = threading.Event(), []

    def run(work: Callable[[], Any]) -> None:
        while not stop.is_set():
            try:
                work()
            except BaseException as error:  # handed to the test's own thread
                errors.append(error)
                return

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not [thread for thread in threads if thread.is_alive()], "a thread hangs"


@pytest.mark.real_time("threads that never rest")
@FORKS
def test_forks_in_a_row_under_load(machine: Machine, caplog: pytest.LogCaptureFixture, forks: int) -> None:
    reads = machine.pvs("DBL", "STR", "WF", "INT")
    moving, readback, free = machine.pvs("SP:000", "RB:000", "FREE")
    control = machine.control()
    seen: list[Any] = []
    subscription = control.monitor(readback, seen.append)
    machine.move("SETTLE", 0.0)
    target = iter(range(1, 1_000_000))
    validator = {moving: within(readback, tolerance=0.1, timeout=PATIENCE)}

    def set_and_validate() -> None:
        assert control.set({moving: float(next(target) % 100)}, validator).ok

    def read() -> None:
        assert control.get(reads)[reads[0]] == 1.5

    def come_and_go() -> None:
        other = Control(machine.backend(), control.settings)
        assert other.get([free]) == {free: 1.0}
        other.monitor(free, lambda update: None)
        other.close()
        other.backend.close()

    took = []
    with load(read, read, read, set_and_validate, come_and_go) as errors:
        for _ in range(forks):
            value, seconds = in_child(lambda: control.get([reads[0]])[reads[0]])
            assert value == 1.5
            took.append(seconds)
            # The parent goes on meanwhile.
            clock.sleep(0.02)
    assert not errors, errors
    assert max(took) < 5.0 * pace()
    last = float(next(target) % 100)
    control.set({moving: last}, validator)
    eventually(lambda: isinstance(seen[-1], Reading) and seen[-1].value, last)
    subscription.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_forked_child_can_do_all_that_its_parent_can(machine: Machine) -> None:
    pv, readback, free = machine.pvs("SP:000", "RB:000", "FREE")
    control = machine.control()
    control.set({pv: 1.0}, {pv: within(readback, tolerance=0.1, timeout=PATIENCE)})
    subscription = control.monitor(free, lambda update: None)

    def child() -> list[Any]:
        heard = threading.Event()
        values: list[Any] = []
        control.monitor(free, lambda update: (values.append(update.value), heard.set()))
        assert heard.wait(5.0)
        report = control.set({pv: 7.5}, {pv: within(readback, tolerance=0.1, timeout=PATIENCE)})
        fresh = Control(machine.backend(), control.settings)
        # And a child of the child.
        grandchild, _ = in_child(lambda: fresh.get([readback])[readback])
        return [values[0], report[pv].arrived, control.get([pv])[pv], grandchild]

    answer, _ = in_child(child, 20.0)
    if machine.name == "memory":
        assert answer == [1.0, 7.5, 7.5, 7.5]
        assert control.get([pv]) == {pv: 1.0}, "memory is copied: what the child moves, it moves for itself"
    else:
        assert answer == [1.0, 7.5, 7.5, 7.5] and control.get([pv]) == {pv: 7.5}
    subscription.close()


def test_the_parents_monitors_and_gets_live_through_a_fork(machine: Machine) -> None:
    pv, gone = machine.pvs("FREE", "NOBODY")
    control = machine.control(timeout=0.8)
    seen: list[Any] = []
    subscription = control.monitor(pv, seen.append)
    eventually(lambda: len(seen), 1)
    began = clock.monotonic()
    waiting = Running(lambda: control.get([gone]))
    clock.sleep(0.1)
    in_child(lambda: 0)
    with pytest.raises(TimeoutError):
        waiting.result()
    assert 0.8 <= waiting.ended_at - began < 3.0 * pace(), "the fork took nothing from its time, and added nothing"
    machine.move("FREE", 3.5)
    eventually(lambda: seen[-1].value, 3.5)
    subscription.close()


@pytest.mark.real_time("a thread that never rests")
def test_a_put_in_flight_is_neither_lost_nor_doubled(machine: Machine) -> None:
    pv = machine.pv("CMD")
    control = machine.control(relative=[pv])
    done: list[int] = []

    def send() -> None:
        assert control.set({pv: 1})[pv].outcome is Outcome.APPLIED
        done.append(1)

    with load(send) as errors:
        for _ in range(10):
            in_child(lambda: 0)
            clock.sleep(0.02)
    assert not errors, errors
    assert len(done) > 10
    eventually(lambda: machine.arrived("CMD"), len(done))


@pytest.mark.needs("faults")
def test_a_put_without_an_answer_holds_a_fork_up_only_until_its_deadline(machine: Machine) -> None:
    lost = machine.pv("LOST")
    control = machine.control(timeout=1.0, put_attempts=1)
    call = Running(partial(control.set, {lost: 1.0}))
    eventually(lambda: control.last_report is None and call.alive)
    clock.sleep(0.2)
    began = clock.monotonic()
    in_child(lambda: 0)
    assert clock.monotonic() - began < 4.0 * pace()
    with pytest.raises(TimeoutError) as caught:
        call.result()
    assert caught.value.report[lost].outcome is Outcome.UNKNOWN
    assert machine.arrived("LOST") == 1


@pytest.mark.real_time("a thread that never rests")
@FORKS
def test_connecting_while_another_thread_forks(machine: Machine, forks: int) -> None:
    """The locks of a client that is being opened, and those that a fork takes, are taken in one order."""
    pv, readback = machine.pvs("SP:000", "RB:000")
    settings = machine.control().settings

    def open_and_close() -> None:
        other = Control(machine.backend(), settings)
        subscription = other.monitor(readback, lambda update: None)
        other.get([pv])
        subscription.close()
        other.close()
        other.backend.close()

    for control in machine._controls:  # nobody else holds the client: each turn opens a new one
        control.backend.close()
    with load(open_and_close, open_and_close) as errors:
        for _ in range(forks):
            in_child(lambda: 0)
    assert not errors, errors


def test_a_spawned_child_works(machine: Machine) -> None:
    if machine.name == "memory":
        pytest.skip("a spawned child has a memory of its own")
    name = machine.pv("FREE")
    control = machine.control()
    assert control.get([name], Deadline(PATIENCE)) == {name: 1.0}
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=read_in_spawned_child, args=(machine.way, name, answers))
    child.start()
    assert answers.get(timeout=30.0) == {name: 2.25}
    child.join(30.0)
    assert child.exitcode == 0
    assert machine.look("FREE") == 2.25
