"""P6, P7: all at once or strictly one by one, and which error a call with several failures raises."""

from __future__ import annotations

import pickle
import threading
from functools import partial
from typing import Any

import pytest

from badger_k2eg.control.validators import wait_for_readback, within
from badger_k2eg.core import clock
from badger_k2eg.core.model import Outcome
from badger_k2eg.errors import PutMismatch, PutRefused, PutUnknown, SetError, ValidationFailed, ValidatorCrashed
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .machine import Machine, Recorder, Running

SETTLE = 0.4


def pairs(machine: Machine, count: int) -> tuple[list[str], dict[str, Any]]:
    """Name so many setpoints, and a validator for each."""
    names = [f"{i:03d}" for i in range(count)]
    setpoints = machine.pvs(*[f"SP:{name}" for name in names])
    readbacks = machine.pvs(*[f"RB:{name}" for name in names])
    return setpoints, {s: within(r, tolerance=0.01, timeout=20.0) for s, r in zip(setpoints, readbacks, strict=True)}


def threads_of_ours() -> int:
    """Count Python threads; a client library's own come and go with its context, which is open by then."""
    return threading.active_count()


@pytest.mark.timing
def test_parallel_settles_all_together_without_a_thread_each(machine: Machine) -> None:
    machine.move("SETTLE", SETTLE)
    setpoints, validators = pairs(machine, 100)
    control = machine.control(parallel=True)
    # The first validated set starts what is started once: the thread of all monitors; and through K2EG their topics.
    first = setpoints if machine.name == "k2eg" else setpoints[:1]
    control.set(dict.fromkeys(first, 0.5), {each: validators[each] for each in first})
    before, most = threads_of_ours(), 0
    began = clock.monotonic()
    call = Running(partial(control.set, dict.fromkeys(setpoints, 1.5), validators))
    while call.alive:
        most = max(most, threads_of_ours())
        clock.sleep(0.002)
    report = call.result()
    took = call.ended_at - began
    assert report.ok and [result.arrived for result in report.results] == [1.5] * 100
    assert SETTLE <= took < 3 * SETTLE * pace()  # the exact figure is the benchmark's
    # This call's own thread, and on the simulated machine the one that moves its readbacks.
    assert most - before <= 2


def test_serial_is_one_by_one_in_the_callers_order(machine: Machine) -> None:
    machine.move("SETTLE", 0.15)
    setpoints, validators = pairs(machine, 4)
    order = [setpoints[i] for i in (2, 0, 3, 1)]
    recorder = Recorder()
    control = machine.control(parallel=False, sink=recorder)
    report = control.set(dict.fromkeys(order, 1.5), validators)
    assert [result.pv for result in recorder.attempts] == order == list(report)
    # Each was put only after the one before it had settled.
    gaps = [later - earlier for earlier, later in zip(recorder.times, recorder.times[1:], strict=False)]
    assert min(gaps) >= 0.12, "it settles 0.15 s after the put, and the put is recorded a moment after that"


def test_serial_stops_at_the_first_failure(machine: Machine) -> None:
    first, stick, last = machine.pvs("SP:000", "STICK:SP", "SP:001")
    readback, stays = machine.pvs("RB:000", "STICK:RB")
    control = machine.control(parallel=False)
    with pytest.raises(ValidationFailed) as caught:
        control.set(
            {first: 1.0, stick: 2.0, last: 3.0},
            {
                first: within(readback, tolerance=0.1, timeout=10.0),
                stick: within(stays, tolerance=0.1, timeout=0.2),
            },
        )
    report = caught.value.report
    assert [result.outcome for result in report.results] == [Outcome.APPLIED, Outcome.APPLIED, Outcome.NOT_SENT]
    assert [result.ok for result in report.results] == [True, False, False]
    assert report[last].attempts == 0 and "not tried" in str(report[last])
    assert [machine.look(name) for name in ("SP:000", "STICK:SP", "SP:001")] == [1.0, 2.0, 0.0]


def test_parallel_goes_on_with_the_others(machine: Machine) -> None:
    first, stick, last = machine.pvs("SP:000", "STICK:SP", "SP:001")
    stays, follows = machine.pvs("STICK:RB", "RB:001")
    control = machine.control(parallel=True)
    with pytest.raises(ValidationFailed) as caught:
        control.set(
            {first: 1.0, stick: 2.0, last: 3.0},
            {stick: within(stays, tolerance=0.1, timeout=0.2), last: within(follows, tolerance=0.1, timeout=10.0)},
        )
    assert [result.ok for result in caught.value.report.results] == [True, False, True]
    assert caught.value.report[last].arrived == 3.0


def test_foreign_partials_wait_in_a_thread_each(machine: Machine) -> None:
    pvs = machine.pvs(*[f"SP:{i:03d}" for i in range(6)])
    together = threading.Barrier(6)
    names: list[str] = []

    def meet(**words: Any) -> None:
        names.append(threading.current_thread().name)
        together.wait(10.0)  # breaks, with an error, unless all six wait at the same time

    control = machine.control(parallel=True)
    assert control.set(dict.fromkeys(pvs, 1.0), dict.fromkeys(pvs, meet)).ok
    assert len(set(names)) == 6
    eventually(lambda: [t.name for t in threading.enumerate() if t.name.startswith("validate")], [])


@pytest.mark.timing
def test_ours_and_foreign_ones_wait_together(machine: Machine) -> None:
    ours, theirs = machine.pvs("SP:000", "SP:001")
    readback = machine.pv("RB:000")
    machine.move("SETTLE", 0.5)
    control = machine.control(parallel=True)
    began = clock.monotonic()
    report = control.set(
        {ours: 1.0, theirs: 1.0},
        {ours: within(readback, tolerance=0.1, timeout=10.0), theirs: lambda **words: clock.sleep(0.5)},
    )
    assert report.ok and clock.monotonic() - began < 0.95 * pace()


# -- P7 -----------------------------------------------------------------------------------------------------------

NEVER = partial(wait_for_readback, tolerance=0.1, count_down=0.2)


def crash(**words: Any) -> None:
    raise RuntimeError("broken")


FAILURES: dict[str, tuple[float, type[SetError]]] = {
    "LOST": (1.0, PutUnknown),
    "REFUSE": (1.0, PutRefused),
    "CLAMP": (99.0, PutMismatch),
    "STICK:SP": (1.0, ValidationFailed),
    "SP:000": (1.0, ValidatorCrashed),
}


@pytest.mark.needs("faults", "silent clip")
def test_of_mixed_failures_the_first_in_the_callers_order_decides(machine: Machine) -> None:
    fine, *pvs = machine.pvs("FREE", *FAILURES)
    values = {pv: value for pv, (value, _) in zip(pvs, FAILURES.values(), strict=True)}
    kinds = {pv: kind for pv, (_, kind) in zip(pvs, FAILURES.values(), strict=True)}
    validators = {
        machine.pv("STICK:SP"): partial(NEVER, readback_pv=machine.pv("STICK:RB")),
        machine.pv("SP:000"): crash,
    }
    # Each in turn is the first of its call; all calls at the same time.
    orders = [[*pvs[turn:], *pvs[:turn]] for turn in range(len(pvs))]
    controls = [machine.control(parallel=True, timeout=0.5, put_attempts=1) for _ in orders]
    calls = [
        Running(partial(control.set, {fine: 2.0} | {pv: values[pv] for pv in order}, validators))
        for control, order in zip(controls, orders, strict=True)
    ]
    words = set()
    for call, control, order in zip(calls, controls, orders, strict=True):
        with pytest.raises(SetError) as caught:
            call.result()
        report = caught.value.report
        assert type(caught.value) is kinds[order[0]]
        assert list(report) == [fine, *order] and all(pv in str(caught.value) for pv in order)
        assert [type(result.error) for result in report.failed] == [kinds[pv] for pv in order]
        assert str(report) == str(control.last_report) and report[fine].ok
        words.add(str(report[order[0]]).removeprefix(order[0]))
    assert len(words) == len(orders), "the words of each failure differ"


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (PutUnknown, TimeoutError),
        (PutRefused, PermissionError),
        (PutMismatch, ValueError),
        (ValidationFailed, ValueError),
        (ValidatorCrashed, ValueError),
    ],
)
def test_each_is_also_the_builtin_that_a_user_would_catch(kind: type[SetError], builtin: type[Exception]) -> None:
    error = kind("words", None)
    assert isinstance(error, builtin) and str(error) == "words" and error.report is None


def test_the_report_of_a_success_is_kept_too(machine: Machine) -> None:
    pv = machine.pv("SP:000")
    recorder = Recorder()
    control = machine.control(sink=recorder)
    report = control.set({pv: 1.0})
    assert str(report) == str(control.last_report) == str(recorder.reports[-1])
    assert report.ok and not report.failed and report[pv].before.value == 0.0
    assert f"{pv} = 1.0: APPLIED" in str(report)


# -- the same vector again (B6 stands on it) -------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
def test_the_same_vector_after_a_failure_puts_only_what_is_missing(machine: Machine, parallel: bool) -> None:
    command, stick = machine.pvs("CMD", "STICK:SP")
    free = machine.pv("FREE")
    control = machine.control(parallel=parallel)
    validators = {stick: within(free, tolerance=0.1, timeout=0.2)}
    for _ in range(2):
        with pytest.raises(ValidationFailed):
            control.set({command: 3, stick: 7.0}, validators)
    machine.move("FREE", 7.0)
    assert control.set({command: 3, stick: 7.0}, validators).ok
    assert machine.arrived("CMD") == 1
    # After the success it is a new wish.
    control.set({command: 3, stick: 7.0}, validators)
    eventually(lambda: machine.arrived("CMD"), 2)


def test_what_somebody_moved_meanwhile_is_put_again(machine: Machine) -> None:
    first, stick = machine.pvs("SP:000", "STICK:SP")
    stays = machine.pv("STICK:RB")
    control = machine.control()
    validators = {stick: within(stays, tolerance=0.1, timeout=0.2)}
    for _ in range(2):
        with pytest.raises(ValidationFailed):
            control.set({first: 1.5, stick: 7.0}, validators)
        assert machine.look("SP:000") == 1.5
        machine.move("SP:000", 9.0)


def test_an_error_survives_the_way_to_another_process(machine: Machine) -> None:
    """Badger runs a routine in a child and sends what went wrong through a queue; with the readings in the report."""
    pv, limited, readback = machine.pvs("STICK:SP", "DBL", "STICK:RB")
    control = machine.control()
    with pytest.raises(ValidationFailed) as failed:
        control.set({pv: 5.0}, {pv: within(readback, tolerance=0.1, timeout=0.2)})
    with pytest.raises(SetError) as blocked:
        control.set({limited: 99.0})
    for caught in (failed, blocked):
        copy = pickle.loads(pickle.dumps(caught.value))
        assert type(copy) is type(caught.value) and str(copy) == str(caught.value)
        assert str(copy.report) == str(caught.value.report)
    assert copy.report[limited].outcome is Outcome.BLOCKED
    report = control.set({pv: 4.0})
    assert pickle.loads(pickle.dumps(report))[pv].before.value == 5.0
