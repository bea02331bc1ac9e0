"""S1, S2, S6: calls that wait for the machine, in the background and cancelled, the same over every transport."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from badger_k2eg.control import Control
from badger_k2eg.control.validators import within
from badger_k2eg.core import clock
from badger_k2eg.core.backend import Backend
from badger_k2eg.core.futures import background, gather, sleep
from badger_k2eg.core.model import Outcome, PvAddress, Reading
from badger_k2eg.core.units import unit
from badger_k2eg.errors import CallCancelled, ConditionNotMet, PutTimeout, ReadTimeout, SetpointBlocked
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .machine import PATIENCE, Machine, later


@pytest.fixture(autouse=True)
def no_call_left() -> Iterator[None]:
    yield
    eventually(lambda: [t.name for t in threading.enumerate() if t.name.endswith("(background)")], [])


def soon(machine: Machine, name: str, value: Any, after: float | None = None) -> threading.Thread:
    """Move a PV when a call that begins now has looked at it: over K2EG a look may take a while on a busy machine."""
    after = after or (1.0 if machine.name == "k2eg" else 0.2)
    return later(after, lambda: machine.move(name, value))


# -- timeout= and callback= -----------------------------------------------------------------------------------------


def test_a_read_takes_its_timeout_in_any_unit_of_time(machine: Machine) -> None:
    gone, control = machine.pv("NOBODY"), machine.control(timeout=30.0)
    for timeout in (0.2, 200 * unit.ms):
        began = clock.monotonic()
        with pytest.raises(ReadTimeout):
            control.get([gone], timeout=timeout)
        assert 0.2 <= clock.monotonic() - began < 5.0 * pace()
    with pytest.raises(ValueError, match="a time is"):
        control.get([gone], timeout=3 * unit.meter)


def test_minus_one_waits_for_ever_and_ends_on_cancel_and_close(machine: Machine) -> None:
    gone, control = machine.pv("NOBODY"), machine.control(timeout=0.1)
    futures = [control.get([gone], timeout=-1, callback=None) for _ in range(2)]
    clock.sleep(0.3)
    assert not any(future.done() for future in futures)
    futures[0].cancel()
    with pytest.raises(CallCancelled):
        futures[0].result(PATIENCE)
    control.close()
    with pytest.raises(CallCancelled):
        futures[1].result(PATIENCE)


def test_the_end_of_a_set_is_a_timeout_and_nothing_more_is_sent(machine: Machine) -> None:
    stays, stick, later = machine.pvs("STICK:RB", "STICK:SP", "SP:000")
    validators = {stick: within(stays, tolerance=0.1, timeout=30.0)}
    with pytest.raises(TimeoutError) as caught:
        machine.control().set({stick: 5.0, later: 1.0}, validators, timeout=0.3 * unit.second)
    report = caught.value.report  # type: ignore[attr-defined]
    assert [report[pv].outcome for pv in (stick, later)] == [Outcome.APPLIED, Outcome.NOT_SENT]
    assert machine.look("SP:000") == 0.0
    gone = machine.pv("NOBODY")
    with pytest.raises(PutTimeout, match="NOBODY"):
        machine.control(timeout=30.0).set({gone: 1.0}, timeout=0.2)


def test_a_callback_gets_the_future_at_once_none_calls_nobody(machine: Machine) -> None:
    setpoint, readback = machine.pvs("SP:000", "RB:000")
    control, told = machine.control(), threading.Event()
    validators = {setpoint: within(readback, tolerance=0.01)}
    future = control.set({setpoint: 1.0}, validators, callback=lambda ended: told.set())
    assert not future.done() or machine.look("RB:000") == 1.0
    assert future.result(PATIENCE).ok and told.wait(PATIENCE)
    assert control.get([readback], callback=None).result(PATIENCE) == {readback: 1.0}
    assert control.read([readback], callback=None).result(PATIENCE)[readback].value == 1.0
    refused = control.set({setpoint: 1e9}, callback=None)
    assert isinstance(refused.exception(PATIENCE), SetpointBlocked)
    with pytest.raises(TypeError, match="callback="):
        control.get([readback], callback=5)  # type: ignore[call-overload]


@pytest.mark.needs("faults")
def test_a_cancelled_set_is_unknown_where_it_was_on_the_wire(machine: Machine) -> None:
    lost, later = machine.pvs("LOST", "SP:000")
    future = machine.control(timeout=30.0).set({lost: 1.0, later: 1.0}, callback=None)
    eventually(lambda: machine.arrived("LOST"), 1)
    assert future.cancel() and future.cancel()
    with pytest.raises(CallCancelled) as caught:
        future.result(PATIENCE)
    report = caught.value.report
    assert report is not None and [r.outcome for r in report.results] == [Outcome.UNKNOWN, Outcome.NOT_SENT]
    assert machine.arrived("LOST") == 1 and machine.look("SP:000") == 0.0


def test_a_cancel_reaches_a_validator_in_its_sleep(machine: Machine) -> None:
    pv, other = machine.pvs("SP:000", "SP:001")
    reached, ended = threading.Event(), []

    def slow(**_: Any) -> None:
        reached.set()
        try:
            sleep(3600)
        except CancelledError:
            ended.append("cancelled")
            raise

    control = machine.control(parallel=True)
    future = control.set({pv: 1.0, other: 1.0}, {pv: slow, other: slow}, callback=None)
    assert reached.wait(PATIENCE)
    future.cancel()
    assert future.wait(PATIENCE).cancelled()
    eventually(lambda: ended, ["cancelled", "cancelled"])


def test_a_procedure_in_the_background_is_told_once_and_can_tidy_up(machine: Machine) -> None:
    """Whatever call of ours it waits in; afterwards it can set and read again."""
    setpoint, gone, still = machine.pvs("SP:000", "NOBODY", "FREE")
    control = machine.control(timeout=30.0)
    waits: list[Callable[[], Any]] = [
        lambda: sleep(3600),
        lambda: control.get([gone]),
        lambda: control.set({gone: 1.0}),
        lambda: control.wait_until_new(still, -1),
        lambda: control.wait_until(lambda value: value > 50.0, still, -1),
    ]

    def procedure(wait: Callable[[], Any]) -> float:
        try:
            wait()
        except CancelledError:
            control.set({setpoint: 7.0})
            return float(control.get([setpoint])[setpoint])
        return 0.0

    futures = [background(procedure, wait) for wait in waits]
    clock.sleep(0.2)
    for future in futures:
        future.cancel()
    assert gather(*futures, timeout=PATIENCE) == [7.0] * len(waits)


# -- setting and commands ---------------------------------------------------------------------------------------------


def test_set_no_wait_passes_the_guard_and_logs_a_failure(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    setpoint = machine.pv("SP:000")
    control = machine.control()
    assert control.set_no_wait(setpoint, 3.0).result(PATIENCE).ok and machine.look("SP:000") == 3.0
    future = control.set_no_wait({setpoint: 1e9})
    assert isinstance(future.exception(PATIENCE), SetpointBlocked)
    eventually(lambda: "SP:000" in caplog.text and "drive limits" in caplog.text)
    for wrong in (lambda: control.set_wait(setpoint), lambda: control.set_wait({setpoint: 1.0}, 2.0)):
        with pytest.raises(TypeError):
            wrong()


def test_set_wait_and_commands(machine: Machine) -> None:
    command, setpoint = machine.pvs("CMD", "SP:000")
    control = machine.control()
    assert control.set_wait(setpoint, 2.0).ok and control.set_wait({setpoint: 2.5}, timeout=5 * unit.second).ok
    assert machine.look("SP:000") == 2.5
    before = machine.arrived("CMD")
    assert control.execute(command).ok and control.execute(command, 2, callback=None).result(PATIENCE).ok
    assert control.execute_no_wait(command).result(PATIENCE).ok
    eventually(lambda: machine.arrived("CMD") - before, 3)


@pytest.mark.needs("faults")
def test_a_command_is_never_sent_twice(machine: Machine) -> None:
    lost = machine.pv("LOST")
    with pytest.raises(TimeoutError) as caught:
        machine.control(timeout=30.0, put_attempts=5).execute(lost, timeout=0.3)
    assert caught.value.report[lost].outcome is Outcome.UNKNOWN  # type: ignore[attr-defined]
    eventually(lambda: machine.arrived("LOST"), 1)
    clock.sleep(0.5)
    assert machine.arrived("LOST") == 1


def test_get_no_wait(machine: Machine) -> None:
    got: list[Any] = []
    pv, control = machine.pv("FREE"), machine.control()
    future = control.get_no_wait(pv, lambda ended: got.append(ended.result()))
    assert future.result(PATIENCE) == 1.0
    eventually(lambda: got, [1.0])


# -- waiting for updates ----------------------------------------------------------------------------------------------


def test_the_first_new_update(machine: Machine) -> None:
    free, other = machine.pvs("FREE", "SP:000")
    control = machine.control()
    with pytest.raises(ConditionNotMet, match="no update"):
        control.wait_until_new(free, 0.3)
    timer = soon(machine, "FREE", 5.0)
    news = control.wait_until_new(free, timeout=PATIENCE)
    timer.join()
    assert isinstance(news, Reading) and news.value == 5.0
    timer = soon(machine, "FREE", 6.0)
    several = control.wait_until_new([other, free], PATIENCE * unit.second)
    timer.join()
    assert list(several) == [free] and several[free].value == 6.0
    timer = soon(machine, "FREE", 7.0)
    assert control.wait_until_new(free, timeout=-1, callback=None).result(PATIENCE).value == 7.0
    timer.join()


def test_until_a_condition_is_true(machine: Machine) -> None:
    free, other = machine.pvs("FREE", "SP:000")
    control = machine.control()
    assert control.wait_until(lambda value: value == 1.0, free).value == 1.0, "at once, if it is so already"
    timer = soon(machine, "FREE", 5.0)
    assert control.wait_until(lambda value: value > 4.0 and value.severity == 0, free, PATIENCE).value == 5.0
    timer.join()
    timer = soon(machine, "FREE", 1.5)
    values = control.wait_while(lambda now: now[free] > 2.0 and now[other] == 0.0, [free, other], PATIENCE)
    timer.join()
    assert {pv: reading.value for pv, reading in values.items()} == {free: 1.5, other: 0.0}
    calls: list[int] = []
    with pytest.raises(ConditionNotMet) as caught:
        control.wait_until(lambda: calls.append(1), free, 0.2)
    assert calls and f"{free} reads 1.5" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.needs("prompt")
def test_a_short_change_is_not_missed(machine: Machine) -> None:
    free = machine.pv("FREE")
    control = machine.control()
    future = control.wait_until(lambda value: value == 3.0, free, PATIENCE, callback=None)
    clock.sleep(0.3)
    for value in (2.0, 3.0, 2.0):
        machine.move("FREE", value)
    assert future.result(PATIENCE).value == 3.0


def test_a_condition_on_a_pv_that_nobody_serves(machine: Machine) -> None:
    """It fails after the interface's timeout, however long the wait may be."""
    gone = machine.pv("NOBODY")
    control = machine.control(timeout=0.3)
    for wait in (control.wait_until_new, lambda pv, timeout: control.wait_until(bool, pv, timeout)):
        with pytest.raises(ReadTimeout, match="NOBODY"):
            wait(gone, -1)  # type: ignore[operator]
    with pytest.raises(ValueError, match="at least one PV"):
        control.wait_until(bool, [])
    with pytest.raises(TypeError, match="a condition is a function"):
        control.wait_until(5.0, machine.pv("FREE"))  # type: ignore[arg-type]


def test_a_condition_that_raises(machine: Machine) -> None:
    with pytest.raises(ZeroDivisionError):
        machine.control().wait_until(lambda value: 1 / 0, machine.pv("FREE"))


def test_waiting_in_a_monitor_callback_is_an_error_and_no_hang(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    free, setpoint, readback = machine.pvs("FREE", "SP:000", "RB:000")
    control, heard = machine.control(), threading.Event()
    done: list[Any] = []
    waits: list[Callable[[], Any]] = [
        lambda: control.wait_until_new(free),
        lambda: sleep(0.1),
        lambda: background(sleep, 0.5).result(),
        lambda: control.set({setpoint: 1.0}, {setpoint: within(readback, tolerance=0.1)}),
    ]

    def callback(update: Any) -> None:
        for wait in waits:
            try:
                wait()
            except RuntimeError as error:
                done.append(str(error))
        done.append(control.get([setpoint])[setpoint])  # a read is allowed
        heard.set()

    began = clock.monotonic()
    subscription = control.monitor(free, callback)
    assert heard.wait(PATIENCE) and clock.monotonic() - began < 5.0 * pace()
    subscription.close()
    assert len(done) == 5 and done[-1] == 0.0 and all("callback for updates" in text for text in done[:-1])


def test_close_ends_every_wait(machine: Machine) -> None:
    free = machine.pv("FREE")
    control = machine.control()
    future = background(control.wait_until_new, free, -1)
    clock.sleep(0.2)
    control.close()
    with pytest.raises(CallCancelled):
        future.result(PATIENCE)
    assert control.get([free]) == {free: 1.0}, "it can be used again"


def test_a_hundred_threads_and_random_cancels_leave_nothing_behind(machine: Machine) -> None:
    setpoint, readback, free = machine.pvs("SP:000", "RB:000", "FREE")
    control = machine.control(timeout=10.0)
    dice = random.Random(3)
    validators = {setpoint: within(readback, tolerance=1000.0)}
    work: list[Callable[[], Any]] = [
        lambda: control.get([readback]),
        lambda: control.set({setpoint: 1.0}, validators),
        lambda: control.wait_until_new(free, -1),
        lambda: control.wait_until(lambda value: value < 0.0, free, -1),
        lambda: sleep(dice.random()),
    ]
    futures = [background(work[n % len(work)]) for n in range(100)]
    end = clock.monotonic() + PATIENCE
    while not all(future.done() for future in futures) and clock.monotonic() < end:
        dice.choice(futures).cancel()
        clock.sleep(0.001)
    assert all(future.done() for future in futures)
    assert all(future.cancelled() or future.exception() is None for future in futures)
    assert not control.reader.subscriptions.watched
    assert control.set({setpoint: 2.0}).ok
    del futures
    gc.collect()


class Lossy:
    """A way to PVs whose monitors say nothing but the present state."""

    loses_updates = True

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def monitor(self, address: PvAddress, callback: Callable[[Any], None], queue: int = 16) -> Any:
        told: list[Any] = []

        def once(update: Any) -> None:
            if not told:
                told.append(update)
                callback(update)

        return self._backend.monitor(address, once, queue)


def test_where_updates_get_lost_a_look_now_and_then_finds_it(machine: Machine) -> None:
    free = machine.pv("FREE")
    whole = machine.control()
    control = Control(Lossy(whole.backend), whole.settings)  # type: ignore[arg-type]
    timer = soon(machine, "FREE", 5.0)
    assert control.wait_until(lambda value: value == 5.0, free, PATIENCE).value == 5.0
    timer.join()
    timer = soon(machine, "FREE", 6.0)
    assert control.wait_until_new(free, PATIENCE).value == 6.0
    timer.join()
    with pytest.raises(ConditionNotMet, match="reads 6.0"):
        control.wait_until(lambda value: value == 7.0, free, 0.3)
    control.close()
