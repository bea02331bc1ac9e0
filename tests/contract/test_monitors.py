"""Monitors: every update in order, the last one never lost, whatever the callbacks do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from badger_k2eg.control.validators import within
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Reading
from badger_k2eg.errors import PvError, PvNameError, PvNotConnected
from tests.rig.waiting import eventually

from .machine import Machine, later


class Seen:
    """A callback that keeps what it is told."""

    def __init__(self, also: Callable[[Any], None] = lambda update: None) -> None:
        self.updates: list[Any] = []
        self._also = also

    def __call__(self, update: Any) -> None:
        self.updates.append(update)
        self._also(update)

    @property
    def values(self) -> list[Any]:
        return [update.plain for update in self.updates if isinstance(update, Reading)]

    @property
    def last(self) -> Any:
        return self.values[-1] if self.values else None


def fail(update: Any) -> None:
    raise RuntimeError("the callback is broken")


def test_the_present_value_and_every_update_in_order(machine: Machine) -> None:
    pv, seen = machine.pv("FREE"), Seen()
    control = machine.control()
    subscription = control.monitor(pv, seen)
    eventually(lambda: seen.values, [1.0])
    for value in (2.0, 3.0, 4.0):
        machine.move("FREE", value)
        eventually(lambda value=value: seen.last, value)
    assert seen.values == [1.0, 2.0, 3.0, 4.0]
    subscription.close()
    machine.move("FREE", 5.0)
    control.get([pv])
    subscription.close()  # idempotent
    assert seen.last == 4.0


def test_two_of_one_pv_are_told_each_and_closed_apart(machine: Machine) -> None:
    pv, first, second = machine.pv("FREE"), Seen(), Seen()
    control = machine.control()
    one, two = control.monitor(pv, first), control.monitor(pv, second)
    eventually(lambda: (first.last, second.last), (1.0, 1.0))
    one.close()
    machine.move("FREE", 2.0)
    eventually(lambda: second.last, 2.0)
    assert first.values == [1.0]
    two.close()
    third = Seen()
    with_new = control.monitor(pv, third)
    eventually(lambda: third.last, 2.0)
    with_new.close()


@pytest.mark.parametrize("shared", [True, False], ids=["one control", "two controls"])
def test_a_callback_that_raises_stops_nobody(machine: Machine, caplog: pytest.LogCaptureFixture, shared: bool) -> None:
    """Neither itself, nor another one of the same PV, nor one of another PV, nor a put."""
    pv, other = machine.pvs("FREE", "STICK:SP")
    broken, healthy, elsewhere = Seen(fail), Seen(), Seen()
    control = machine.control()
    also = control if shared else machine.control()
    subscriptions = [control.monitor(pv, broken), also.monitor(pv, healthy), also.monitor(other, elsewhere)]
    eventually(lambda: (broken.last, healthy.last, elsewhere.last), (1.0, 1.0, 0.0))
    assert control.set({pv: 2.0, other: 3.0}).ok
    eventually(lambda: (broken.last, healthy.last, elsewhere.last), (2.0, 2.0, 3.0))
    for subscription in subscriptions:
        subscription.close()
    assert any("callback is broken" in str(r.exc_info) for r in caplog.records if r.levelno >= logging.ERROR)


def test_a_broken_callback_on_a_readback_does_not_fail_a_validation(machine: Machine) -> None:
    pv, readback = machine.pvs("SP:000", "RB:000")
    control = machine.control()
    subscription = control.monitor(readback, Seen(fail))
    assert control.set({pv: 1.5}, {pv: within(readback, tolerance=0.1, timeout=10.0)})[pv].arrived == 1.5
    subscription.close()


def test_a_slow_callback_does_not_lose_the_last_value(machine: Machine) -> None:
    pv = machine.pv("FREE")
    entered, go_on = threading.Event(), threading.Event()

    def wait_once(update: Any) -> None:
        if not entered.is_set():
            entered.set()
            assert go_on.wait(15.0)

    seen = Seen(wait_once)
    control = machine.control()
    if machine.name == "memory":
        # There a callback runs in the thread that makes the change, which is this one.
        later(0.1, go_on.set)
    subscription = control.monitor(pv, seen)
    assert entered.wait(15.0)
    for i in range(100):
        machine.move("FREE", float(i))
    go_on.set()
    eventually(lambda: seen.last, 99.0)
    subscription.close()
    assert seen.values[1:] == sorted(seen.values[1:])
    assert len(seen.values) > 16, "the newest updates are kept while a callback is slow"


def test_a_callback_may_read_and_put_and_close(machine: Machine) -> None:
    pv, echo = machine.pvs("STICK:SP", "FREE")
    control = machine.control()
    got: list[Any] = []

    def react(update: Reading) -> None:
        if update.value == 0.0:
            return
        got.append(control.get([pv])[pv])
        control.set({echo: update.value * 2})
        subscription.close()

    subscription = control.monitor(pv, Seen(react))
    machine.move("STICK:SP", 2.0)
    eventually(lambda: machine.look("FREE"), 4.0)
    machine.move("STICK:SP", 3.0)
    control.get([pv])
    assert got == [2.0] and machine.look("FREE") == 4.0


def test_one_callback_may_close_another(machine: Machine) -> None:
    """After ``close`` returns no callback of it begins, not even one that was next in turn."""
    pv = machine.pv("FREE")
    control = machine.control()
    late = Seen()

    def close_the_other(update: Reading) -> None:
        if update.value == 2.0:
            second.close()

    first = control.monitor(pv, Seen(close_the_other))
    second = control.monitor(pv, late)
    eventually(lambda: late.last, 1.0)
    machine.move("FREE", 2.0)
    eventually(lambda: control.get([pv]), {pv: 2.0})
    machine.move("FREE", 3.0)
    first.close()
    assert late.values == [1.0]


def test_close_waits_for_a_callback_that_runs(machine: Machine) -> None:
    pv = machine.pv("FREE")
    control = machine.control()
    inside, ended = threading.Event(), threading.Event()

    def slow(update: Reading) -> None:
        if update.value == 2.0:
            inside.set()
            clock.sleep(0.3)
            ended.set()

    subscription = control.monitor(pv, Seen(slow))
    mover = threading.Thread(target=machine.move, args=("FREE", 2.0))
    mover.start()
    assert inside.wait(15.0)
    subscription.close()
    assert ended.is_set()
    mover.join()


def test_a_monitor_of_nobody_says_nothing_until_there_is_one(own_machine: Machine) -> None:
    pv, seen = own_machine.pv("FREE"), Seen()
    control = own_machine.control()
    own_machine.vanish()
    subscription = control.monitor(pv, seen)
    with pytest.raises(TimeoutError):
        control.get([pv], Deadline(0.2))
    assert seen.values == []
    own_machine.come_back()
    eventually(lambda: seen.last, 1.0)
    subscription.close()


def test_a_monitor_tells_of_a_disconnect_and_resumes(own_machine: Machine) -> None:
    pv, seen = own_machine.pv("FREE"), Seen()
    control = own_machine.control()
    subscription = control.monitor(pv, seen)
    eventually(lambda: seen.last, 1.0)
    own_machine.vanish()
    eventually(lambda: isinstance(seen.updates[-1], PvNotConnected))
    assert seen.updates[-1].pv == pv
    own_machine.come_back()
    eventually(lambda: isinstance(seen.updates[-1], Reading))
    own_machine.move("FREE", 8.5)
    eventually(lambda: seen.last, 8.5)
    subscription.close()
    assert len([update for update in seen.updates if isinstance(update, PvError)]) == 1


def test_updates_carry_alarm_and_all_kinds(machine: Machine) -> None:
    names = ["MAJOR", "STR", "ENUM", "WF", "UDF"]
    control = machine.control()
    seen = {name: Seen() for name in names}
    subscriptions = [control.monitor(machine.pv(name), seen[name]) for name in names]
    for name in names:
        eventually(partial(lambda each: bool(each.updates), seen[name]))
    assert [seen[name].last for name in names] == [11.0, "hello", 1, [1.0, 2.5, -3.25], 0.0]
    # A monitor gives what the machine shows; judging is the reader's.
    assert [seen[name].updates[0].severity for name in names] == [2, 0, 0, 0, 3]
    assert seen["ENUM"].updates[0].label == "on"
    for subscription in subscriptions:
        subscription.close()


def test_a_malformed_name_is_refused(machine: Machine) -> None:
    with pytest.raises(PvNameError):
        machine.control().monitor("A B", fail)
