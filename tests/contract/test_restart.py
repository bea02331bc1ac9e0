"""P14: the server dies, comes back, or stands still, between calls and within them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from badger_k2eg.control.validators import within
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, PutResult, Reading
from badger_k2eg.errors import PutTimeout, ReadTimeout, SetError, SetpointBlocked
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .machine import PATIENCE, IocMachine, Machine, Recorder, Running, later


@contextmanager
def frozen(machine: Machine) -> Iterator[None]:
    """The server stands still, with its connections open."""
    assert isinstance(machine, IocMachine)
    machine.ioc.stop()
    try:
        yield
    finally:
        machine.ioc.cont()


def test_between_calls(own_machine: Machine) -> None:
    """The next call works with the same control within its own timeout; so does a validated set, and a monitor."""
    pv, readback, free = own_machine.pvs("SP:000", "RB:000", "FREE")
    validators = {pv: within(readback, tolerance=0.1, timeout=10.0)}
    control = own_machine.control()
    seen: list[Any] = []
    subscription = control.monitor(free, seen.append)
    assert control.set({pv: 1.0}, validators).ok
    own_machine.vanish()
    with pytest.raises(ReadTimeout):
        control.get([free], Deadline(0.4))
    with pytest.raises(PutTimeout, match="nothing was set"):
        control.set({pv: 5.0}, validators, deadline=Deadline(0.4))
    own_machine.come_back()
    if own_machine.name == "memory":
        own_machine.move("SP:000", 0.0)
        own_machine.move("RB:000", 0.0)
    assert control.get([pv, free]) == {pv: 0.0, free: 1.0}
    assert control.set({pv: 2.0}, validators)[pv].arrived == 2.0
    own_machine.move("FREE", 3.0)
    eventually(lambda: isinstance(seen[-1], Reading) and seen[-1].value, 3.0)
    subscription.close()


def test_a_read_that_times_out_leaves_the_monitors_of_its_pv_alone(own_machine: Machine) -> None:
    """A get gives up its channel, to find a restarted server at once: not the one that a monitor uses."""
    pv = own_machine.pv("FREE")
    control = own_machine.control()
    seen: list[Any] = []
    subscription = control.monitor(pv, seen.append)
    eventually(lambda: len(seen), 1)
    with frozen(own_machine) if own_machine.has("process") else _missing(own_machine, pv), pytest.raises(ReadTimeout):
        control.get([pv], Deadline(0.8))
    eventually(lambda: control.get([pv]), {pv: 1.0})
    own_machine.move("FREE", 6.5)
    eventually(lambda: seen[-1].value, 6.5)
    subscription.close()


@contextmanager
def _missing(machine: Any, pv: str) -> Iterator[None]:
    machine.vanish()
    yield
    machine.come_back()


@pytest.mark.needs("process")
def test_a_get_under_way_is_answered_by_the_server_that_comes_back(own_machine: Machine) -> None:
    pv = own_machine.pv("DBL")
    control = own_machine.control()
    own_machine.vanish()
    call = Running(lambda: control.get([pv], Deadline(PATIENCE)))
    clock.sleep(0.2)
    own_machine.come_back()
    assert call.result(2 * PATIENCE) == {pv: 1.5}


@pytest.mark.needs("process", "completion")
def test_killed_during_a_put_it_is_unknown_and_not_sent_to_the_next_server(own_machine: Machine) -> None:
    """The put is on its way (the record takes 2 s); the client library must not send it again by itself."""
    pv = own_machine.pv("SLOW")
    control = own_machine.control(timeout=4.0, relative=[pv], wait=[pv])
    began = clock.monotonic()
    call = Running(partial(control.set, {pv: 3.0}))
    eventually(lambda: own_machine.look("SLOW"), 3.0)
    own_machine.come_back()  # kills the old one first
    with pytest.raises(PutTimeout) as caught:
        call.result()
    assert clock.monotonic() - began < 9.0 * pace()
    assert caught.value.report[pv].outcome is Outcome.UNKNOWN
    assert own_machine.look("SLOW") == 0.0, "the new server never heard of it"


@pytest.mark.needs("process")
def test_frozen_before_a_call_nothing_is_sent(own_machine: Machine) -> None:
    pv = own_machine.pv("FREE")
    control = own_machine.control(timeout=0.6)
    with frozen(own_machine):
        with pytest.raises(ReadTimeout):
            control.get([pv])
        with pytest.raises(SetpointBlocked, match=r"0\.6 s"):
            control.set({pv: 2.0})
    assert control.get([pv], Deadline(PATIENCE)) == {pv: 1.0}
    assert own_machine.look("FREE") == 1.0


@pytest.mark.needs("process")
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_frozen_during_a_put_the_outcome_does_not_lie(own_machine: Machine, relative: bool) -> None:
    """Whether the put got out depends on the transport; what is said of it must be what happens afterwards."""
    first, second = own_machine.pvs("SP:000", "CMD")

    def freeze(result: PutResult) -> None:
        if result.pv == first:
            own_machine.ioc.stop()

    control = own_machine.control(
        timeout=0.4, retry_delay=0.1, relative=[second] if relative else [], sink=Recorder(freeze)
    )
    try:
        with pytest.raises(SetError) as caught:
            # A validator that asks nothing: no read-back between the two puts finds the server frozen.
            control.set({first: 1.0, second: 1}, {first: lambda **words: None})
    finally:
        own_machine.ioc.cont()
    result = caught.value.report[second]
    # What was sent comes out now; a moment for the IOC to work it off.
    control.get([second], Deadline(PATIENCE))
    clock.sleep(0.3)
    arrived = own_machine.arrived("CMD")
    if result.outcome is Outcome.NOT_SENT:
        assert arrived == 0 and own_machine.look("CMD") == 0
    else:
        assert result.outcome is Outcome.UNKNOWN and isinstance(caught.value, PutTimeout)
        assert arrived <= result.attempts == 1, "sent again although nobody could tell what became of the first"


@pytest.mark.needs("process", "completion")
def test_frozen_while_a_put_is_worked_on_it_is_unknown_and_happens(own_machine: Machine) -> None:
    pv = own_machine.pv("SLOW")
    control = own_machine.control(timeout=1.0, retry_delay=0.1, wait=[pv])
    # Another value than it holds: to see it means that the put has arrived.
    value = own_machine.look("SLOW") + 4.0
    call = Running(partial(control.set, {pv: value}))
    eventually(lambda: own_machine.look("SLOW"), value)
    with frozen(own_machine), pytest.raises(PutTimeout) as caught:
        call.result()
    assert (caught.value.report[pv].outcome, caught.value.report[pv].attempts) == (Outcome.UNKNOWN, 1)
    assert own_machine.look("SLOW") == value


@pytest.mark.needs("completion")
def test_put_completion_waits_for_the_record(machine: Machine) -> None:
    pv = machine.pv("SLOW")
    waiting = machine.control(timeout=8.0, wait=[pv])
    began = clock.monotonic()
    assert waiting.set({pv: 1.0})[pv].attempts == 1
    assert clock.monotonic() - began >= 1.9


def test_threads_that_read_find_the_server_again_all_of_them(own_machine: Machine) -> None:
    """Many at once: what one thread does to find the server must not cost another thread its answer."""
    pv = own_machine.pv("DBL")
    control = own_machine.control()
    own_machine.vanish()
    calls = [Running(lambda: control.get([pv], Deadline(PATIENCE))) for _ in range(20)]
    clock.sleep(0.5)
    back = clock.monotonic()
    own_machine.come_back()
    assert [call.result(2 * PATIENCE) for call in calls] == [{pv: 1.5}] * 20
    assert max(call.ended_at for call in calls) - back < 8.0 * pace()


def test_a_signal_in_a_call_is_not_lost(machine: Machine) -> None:
    """Ctrl-C while a call waits: it ends at once, and its report says that nobody knows."""
    gone = machine.pv("NOBODY")
    control = machine.control(timeout=30.0)
    timer = later(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    began = clock.monotonic()
    with pytest.raises(KeyboardInterrupt):
        control.get([gone])
    assert clock.monotonic() - began < 2.0 * pace()
    timer.join()
