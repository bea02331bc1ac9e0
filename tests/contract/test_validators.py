"""P4: validators by the public call convention, as partials written for p4p's Context use it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from badger_k2eg.control.validators import wait_for_readback
from badger_k2eg.core import clock
from badger_k2eg.core.model import Outcome
from badger_k2eg.errors import PvNameError, PvNotConnected, SetpointBlocked, ValidationFailed, ValidatorCrashed
from tests.rig.waiting import eventually

from .machine import Machine, Recorder


def test_a_validator_is_called_with_four_words(machine: Machine) -> None:
    pv, other = machine.pvs("SP:000", "SP:001")
    calls: list[dict[str, Any]] = []

    def check(readback: str, **words: Any) -> str:
        calls.append(words | {"readback": readback})
        return "arrived"

    control = machine.control(timeout=2.5)
    report = control.set({pv: np.float32(1.5), other: 2.0}, {pv: partial(check, "RB"), "NOT:SET": lambda: 1 / 0})
    (words,) = calls
    assert set(words) == {"readback", "set_pv", "set_value", "context", "timeout"}
    assert (words["set_pv"], words["set_value"], words["timeout"]) == (pv, 1.5, 2.5)
    assert report[pv].arrived == "arrived" and report[other].arrived is None


def test_it_is_called_after_the_put(machine: Machine) -> None:
    pv = machine.pv("FREE")
    seen: list[Any] = []
    machine.control().set({pv: 2.5}, {pv: lambda context, set_pv, **_: seen.append(context.get(set_pv))})
    assert seen == [2.5]


def use_context(machine: Machine, use: Callable[[Any], Any]) -> Any:
    """Let a validator use its context; give what it got from it."""
    pv = machine.pv("SP:000")
    got: list[Any] = []
    machine.control(timeout=1.0).set({pv: 1.0}, {pv: lambda context, **_: got.append(use(context))})
    return got[0]


def test_get_one_is_a_float_with_real(machine: Machine) -> None:
    pv = machine.pv("DBL")
    value = use_context(machine, lambda context: context.get(pv, timeout=2.0))
    assert isinstance(value, float) and value == 1.5 and value.real == 1.5 and value.imag == 0
    assert value.severity == 0 and value.timestamp > 1e9 and value.reading.units == "mm"
    assert abs(value - 1.0) <= 0.5 and f"{value:.2f}" == "1.50"


def test_get_many_is_a_list_in_order(machine: Machine) -> None:
    names = machine.pvs("INT", "DBL", "STR", "WF", "ENUM", "INT")
    values = use_context(machine, lambda context: context.get(names, timeout=2.0))
    assert type(values) is list and len(values) == 6
    assert values[:3] == [42, 1.5, "hello"] and list(values[3]) == [1.0, 2.5, -3.25] and values[4:] == [1, 42]
    assert values[4].real == 1 and isinstance(values[0], int) and isinstance(values[3], np.ndarray)
    assert values[3].severity == 0


def test_get_raises_or_gives_the_exception_in_its_place(machine: Machine) -> None:
    good, gone = machine.pvs("DBL", "NOBODY")

    def use(context: Any) -> Any:
        with pytest.raises(TimeoutError, match=gone):
            context.get(gone, timeout=0.15)
        with pytest.raises(TimeoutError, match=gone):
            context.get([good, gone], timeout=0.15)
        with pytest.raises(PvNameError):
            context.get("A B", throw=False) and None or context.get("A B")
        return context.get([gone, good], timeout=0.15, throw=False), context.get(gone, timeout=0.15, throw=False)

    (missing, value), single = use_context(machine, use)
    assert isinstance(missing, TimeoutError) and isinstance(single, PvNotConnected) and value == 1.5


def test_get_of_what_is_no_reading_raises(machine: Machine) -> None:
    invalid = machine.pv("INVALID")
    error = use_context(machine, lambda context: context.get(invalid, throw=False))
    assert isinstance(error, ValueError) and "INVALID" in str(error)


def test_put_passes_the_guard_and_is_recorded(machine: Machine) -> None:
    pv, limited, free = machine.pvs("SP:000", "DBL", "FREE")
    recorder = Recorder()

    def use(context: Any, **_: Any) -> None:
        with pytest.raises(SetpointBlocked, match="drive limits"):
            context.put(limited, 99.0)
        assert context.put(free, 2.5) is None
        blocked, done = context.put([limited, free], [-99.0, 3.5], throw=False)
        assert isinstance(blocked, SetpointBlocked) and done is None

    control = machine.control(sink=recorder)
    control.set({pv: 1.0}, {pv: use})
    assert (machine.look("DBL"), machine.look("FREE")) == (1.5, 3.5)
    assert [result.pv for result in recorder.attempts] == [pv, free, free]
    # The call that it was part of has the last word.
    assert list(control.last_report) == [pv]


def test_put_is_refused_where_it_is_not_allowed(machine: Machine) -> None:
    pv, free = machine.pvs("SP:000", "FREE")
    control = machine.control(allow=[pv])
    with pytest.raises(ValidationFailed, match="not in the list"):
        control.set({pv: 1.0}, {pv: lambda context, **_: context.put(free, 2.0)})
    assert machine.look("FREE") == 1.0


def test_monitor_in_the_words_of_p4p(machine: Machine) -> None:
    pv, readback = machine.pvs("SP:000", "RB:000")

    def wait(set_value: float, context: Any, timeout: float, **_: Any) -> float:
        arrived, values = threading.Event(), []

        def update(value: Any) -> None:
            values.append(value)
            if abs(value.real - set_value) < 0.01:
                arrived.set()

        subscription = context.monitor(readback, update)
        try:
            assert arrived.wait(10.0)
        finally:
            subscription.close()
        return float(values[-1])

    report = machine.control().set({pv: 4.5}, {pv: wait})
    assert report[pv].arrived == 4.5


def test_a_partial_with_a_loop_of_its_own_runs_unchanged(machine: Machine) -> None:
    """The form that is in use at facilities: read, compare, sleep, count down."""

    def check_readback(
        set_pv: str, set_value: float, context: Any, timeout: float, readback_pv: str, tolerance: float, count_down: int
    ) -> None:
        while count_down > 0:
            value = context.get(readback_pv, timeout=timeout)
            if abs(value.real - set_value) < tolerance:
                return
            clock.sleep(0.05)
            count_down -= 1
        raise ValueError(f"PV {set_pv} (current: {value}) cannot reach expected value ({set_value})")

    pv, readback, stick, stays = machine.pvs("SP:000", "RB:000", "STICK:SP", "STICK:RB")
    words = {"tolerance": 0.01, "count_down": 10}
    control = machine.control()
    assert control.set({pv: 1.5}, {pv: partial(check_readback, readback_pv=readback, **words)}).ok
    with pytest.raises(ValidationFailed, match="cannot reach expected value") as caught:
        control.set({stick: 1.5}, {stick: partial(check_readback, readback_pv=stays, **words)})
    assert caught.value.report[stick].outcome is Outcome.APPLIED and isinstance(caught.value.__cause__, ValueError)


def test_wait_for_readback_called_from_a_validator(machine: Machine) -> None:
    """Called by hand it reads again and again, on every backend."""
    pv, readback = machine.pvs("SP:000", "RB:000")

    def check(**words: Any) -> Any:
        return wait_for_readback(readback_pv=readback, tolerance=0.01, count_down=10.0, **words)

    assert machine.control().set({pv: 2.5}, {pv: check})[pv].arrived == 2.5


@pytest.mark.parametrize("error", [ValueError("too far"), TimeoutError("too late")], ids=["ValueError", "TimeoutError"])
def test_its_value_error_or_timeout_error_is_a_failed_validation(machine: Machine, error: Exception) -> None:
    pv = machine.pv("SP:000")

    def check(**words: Any) -> None:
        raise error

    with pytest.raises(ValidationFailed, match=str(error)) as caught:
        machine.control().set({pv: 1.0}, {pv: check})
    assert type(caught.value) is ValidationFailed and isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is error and pv in str(caught.value)
    assert machine.look("SP:000") == 1.0


class Odd(Exception):
    """Nothing that a validator should raise."""


@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
@pytest.mark.parametrize("error", [Odd("boom"), KeyError("key"), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_whatever_else_it_raises_is_named_with_its_pv(machine: Machine, error: BaseException, parallel: bool) -> None:
    first, second = machine.pvs("SP:000", "SP:001")

    def broken(**words: Any) -> None:
        raise error

    control = machine.control(parallel=parallel)
    with pytest.raises(ValidatorCrashed) as caught:
        control.set({first: 1.0, second: 2.0}, {first: lambda **words: None, second: broken})
    text = str(caught.value)
    assert second in text and "broken" in text and type(error).__name__ in text and str(error) in text
    assert caught.value.__cause__ is error
    assert [result.outcome for result in caught.value.report.results] == [Outcome.APPLIED] * 2


def test_a_validator_that_is_a_coroutine_is_no_validator(machine: Machine) -> None:
    """It would be made and never run: that must not pass for arrived."""
    pv = machine.pv("SP:000")

    async def check(**words: Any) -> None:
        raise ValueError("never comes here")

    with pytest.raises(SetpointBlocked, match="check"):
        machine.control().set({pv: 1.0}, {pv: check})
    assert machine.look("SP:000") == 0.0


def test_a_validator_may_set_through_its_control(machine: Machine) -> None:
    """A callback of a validator that moves another PV does not wait for the call that it is part of."""
    pv, trim = machine.pvs("SP:000", "SP:001")
    control = machine.control(parallel=True)

    def check(context: Any, **_: Any) -> None:
        context.put(trim, 3.0)
        assert context.get(trim) == 3.0

    assert control.set({pv: 1.0}, {pv: check}).ok
    eventually(lambda: machine.look("SP:001"), 3.0)
