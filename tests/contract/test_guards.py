"""P16: what may be set, how far, how often, and after how many failures no more."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, Reading
from badger_k2eg.errors import PutTimeout, ReadError, SetError, SetpointBlocked
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .machine import Machine, Recorder, Running


def blocked(control: Any, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(SetpointBlocked, match=reason):
        control.set(values)


# -- allow-list and own limits ----------------------------------------------------------------------------------------


def test_only_what_is_allowed_is_set(machine: Machine) -> None:
    allowed, other = machine.pvs("SP:000", "FREE")
    control = machine.control(allow=[f"{allowed[:-3]}*"])
    assert control.set({allowed: 1.0}).ok
    blocked(control, {allowed: 2.0, other: 2.0}, "not in the list of PVs that may be set")
    assert (machine.look("SP:000"), machine.look("FREE")) == (1.0, 1.0)
    assert control.get([other]) == {other: 1.0}, "reading is free"


@pytest.mark.parametrize("pattern", ["", "*:SP:00[1-9]", "sp:000", "SP:000"])
def test_a_pattern_fits_the_whole_name_and_case_counts(machine: Machine, pattern: str) -> None:
    pv = machine.pv("SP:000")
    blocked(machine.control(allow=[pattern] if pattern else []), {pv: 1.0}, "not in the list")


def test_own_limits_are_tighter_than_the_records(machine: Machine) -> None:
    pv = machine.pv("DBL")
    control = machine.control(limits={pv: (-1.0, 2.0)})
    assert control.set({pv: 2.0}).ok
    blocked(control, {pv: 2.01}, "own limits .*-1 to 2 mm")
    # Wider ones do not widen the record's.
    blocked(machine.control(limits={pv: (-50.0, 50.0)}), {pv: 5.1}, "drive limits")
    assert machine.look("DBL") == 2.0


@pytest.mark.parametrize(
    ("name", "fits", "outside"),
    [("FREE", -1, 1.5), ("INTFREE", 1, 2), ("WF", [0.5, -0.5], [0.5, 2.0]), ("ENUM", "on", "auto")],
)
def test_own_limits_hold_for_every_kind_of_number(machine: Machine, name: str, fits: Any, outside: Any) -> None:
    pv = machine.pv(name)
    control = machine.control(limits={"*": (-1.0, 1.0)})
    assert control.set({pv: fits}).ok
    before = machine.look(name)
    blocked(control, {pv: outside}, "own limits")
    assert machine.look(name) == before


def test_every_line_of_limits_that_fits_counts(machine: Machine) -> None:
    pv = machine.pv("FREE")
    control = machine.control(limits={"*": (None, 3.0), pv: (-1.0, None), "*:FREE": (-9.0, 2.0)})
    blocked(control, {pv: 2.5}, "-1 to 2")
    blocked(control, {pv: -1.5}, "-1 to 2")
    assert control.set({pv: 2.0}).ok


@pytest.mark.parametrize(
    ("option", "value"),
    [("limits", (-1.0, 1.5)), ("max_step", 0.5), ("allow", None)],
    ids=["limits", "step", "allow"],
)
def test_a_restriction_is_not_got_round_by_another_name(machine: Machine, option: str, value: Any) -> None:
    """X.VAL is the PV X; and pva://X is, too."""
    pv = machine.pv("FREE")
    control = machine.control(**{option: {pv: value} if value else ["*:SP:*"]})
    if machine.name == "memory":
        machine.memory.add(f"{pv}.VAL", 1.0)
    for name in (pv, f"{pv}.VAL", f"{'ca' if machine.name == 'ca' else 'pva'}://{pv}"):
        with pytest.raises(SetpointBlocked, match="option"):
            control.set({name: 4.0})
    assert machine.look("FREE") == 1.0


# -- largest step -----------------------------------------------------------------------------------------------------


def test_a_step_too_large_is_refused(machine: Machine) -> None:
    pv = machine.pv("FREE")
    control = machine.control(max_step={pv: 0.5})
    blocked(control, {pv: 1.6}, r"a step of 0\.6 from 1\.0 is larger than 0\.5")
    for value in (1.5, 1.0, 0.5):
        assert control.set({pv: value}).ok, "the step itself is allowed, and counts from where the PV is now"
    machine.move("FREE", 3.0)
    blocked(control, {pv: 1.0}, "a step of 2")
    assert machine.look("FREE") == 3.0


def test_a_step_is_counted_from_a_reading_only(machine: Machine) -> None:
    pv = machine.pv("FREE")
    machine.move("FREE", float("nan"))
    if machine.name == "memory":
        from badger_k2eg.core.model import Severity

        machine.memory.post(pv, float("nan"), severity=Severity.INVALID, message="UDF")
    blocked(machine.control(max_step=1.0), {pv: 0.5}, "not a reading")


def seen_by_a_monitor(machine: Machine, name: str) -> tuple[list[float], Any]:
    values: list[float] = []
    # A monitor of its own control: nothing of the one under test is needed for it.
    subscription = machine.control().monitor(
        machine.pv(name), lambda update: values.append(update.value) if isinstance(update, Reading) else None
    )
    eventually(lambda: len(values), 1)
    return values, subscription


def test_a_ramp_goes_in_steps_and_in_order(machine: Machine) -> None:
    pv = machine.pv("FREE")
    values, subscription = seen_by_a_monitor(machine, "FREE")
    recorder = Recorder()
    control = machine.control(max_step={pv: 0.5}, ramp=True, put_interval=0.05, sink=recorder)
    began = clock.monotonic()
    report = control.set({pv: 3.25})
    assert clock.monotonic() - began >= 4 * 0.05
    eventually(lambda: values[-1], 3.25)
    subscription.close()
    assert values == pytest.approx([1.0, 1.45, 1.9, 2.35, 2.8, 3.25])
    assert report[pv].ok and report[pv].attempts == 1 and len(recorder.attempts) == 5
    # Each step is told as what was put: a record must not say that the end was reached five times.
    assert [result.asked for result in recorder.attempts] == pytest.approx([1.45, 1.9, 2.35, 2.8, 3.25])


def test_an_integer_is_ramped_in_whole_steps(machine: Machine) -> None:
    pv = machine.pv("INTFREE")
    values, subscription = seen_by_a_monitor(machine, "INTFREE")
    control = machine.control(max_step={pv: 2.5}, ramp=True, put_interval=0.05)
    assert control.set({pv: 0}).ok
    eventually(lambda: values[-1], 0)
    subscription.close()
    assert values[0] == 7 and all(type(value) is int for value in values)
    assert all(0 < before - after <= 2.5 for before, after in zip(values, values[1:], strict=False)), values


def test_a_choice_is_not_ramped_through_others(machine: Machine) -> None:
    pv = machine.pv("ENUM")
    values, subscription = seen_by_a_monitor(machine, "ENUM")
    control = machine.control(max_step=0.5, ramp=True)
    machine.move("ENUM", 0)
    eventually(lambda: values[-1], 0)
    control.set({pv: "auto"})
    eventually(lambda: values[-1], 2)
    subscription.close()
    assert values == [1, 0, 2]


def test_a_ramp_that_fails_on_the_way_stops_there(machine: Machine) -> None:
    pv = machine.pv("VALID")
    if machine.name == "memory":
        pytest.skip("the simulated VALID refuses every put; the record takes those up to 2")
    control = machine.control(max_step={pv: 0.5}, ramp=True)
    with pytest.raises(SetError) as caught:
        control.set({pv: 4.0})
    # 1.5 and 2.0 went through, 2.5 was refused, 3.0 was never sent.
    assert machine.look("VALID") == 2.0
    assert caught.value.report[pv].outcome is Outcome.REFUSED


def test_a_cancelled_ramp_stops_where_it_is(machine: Machine) -> None:
    pv = machine.pv("FREE")
    deadline = Deadline()
    puts: list[Any] = []
    control = machine.control(
        max_step={pv: 0.5},
        ramp=True,
        sink=Recorder(lambda result: (puts.append(result), deadline.cancel() if len(puts) == 2 else None)),
    )
    with pytest.raises(Exception, match="cancelled") as caught:
        control.set({pv: 11.0}, deadline=deadline)
    assert len(puts) <= 3
    assert machine.look("FREE") == 2.0
    assert caught.value.report[pv].outcome is not Outcome.APPLIED, "it is on its way, and not where it was sent"


# -- how often --------------------------------------------------------------------------------------------------------


def test_puts_to_one_pv_keep_their_distance(machine: Machine) -> None:
    first, second = machine.pvs("SP:000", "SP:001")
    recorder = Recorder()
    control = machine.control(put_interval=0.3, sink=recorder)
    for value in (1.0, 2.0):
        control.set({first: value, second: value})
    times = {
        pv: [t for t, r in zip(recorder.times, recorder.attempts, strict=True) if r.pv == pv] for pv in (first, second)
    }
    assert all(later - earlier >= 0.25 for earlier, later in times.values())
    # The distance is one PV's own: the other one did not wait for it.
    assert times[second][0] - times[first][0] < 0.25 * pace()


def test_puts_per_second_hold_for_a_parallel_call(machine: Machine) -> None:
    pvs = machine.pvs(*[f"SP:{i:03d}" for i in range(8)])
    recorder = Recorder()
    control = machine.control(put_rate=4.0, parallel=True, sink=recorder)
    began = clock.monotonic()
    assert control.set(dict.fromkeys(pvs, 1.0)).ok
    # Four at once, and four a second later.
    assert 1.0 <= clock.monotonic() - began < 3.0 * pace()


def test_the_rate_holds_for_retries_and_all_threads(machine: Machine) -> None:
    pvs = machine.pvs(*[f"SP:{i:03d}" for i in range(6)])
    recorder = Recorder()
    control = machine.control(put_rate=4.0, sink=recorder)
    calls = [Running(partial(control.set, {pv: 1.0})) for pv in pvs]
    assert all(call.result().ok for call in calls)
    assert max(recorder.times) - min(recorder.times) >= 0.9


def test_a_call_that_ends_while_it_waits_its_turn_sends_nothing_more(machine: Machine) -> None:
    first, second = machine.pvs("SP:000", "SP:001")
    control = machine.control(put_rate=0.1)
    with pytest.raises(PutTimeout) as caught:
        control.set({first: 1.0, second: 1.0}, deadline=Deadline(2.0))
    assert [result.outcome for result in caught.value.report.results] == [Outcome.APPLIED, Outcome.NOT_SENT]
    assert machine.look("SP:001") == 0.0


# -- failures in a row ------------------------------------------------------------------------------------------------


def fail(control: Any, pv: str) -> None:
    with pytest.raises(SetError):
        control.set({pv: 1e6})


def test_after_so_many_failures_in_a_row_setting_pauses(machine: Machine) -> None:
    good, limited = machine.pvs("FREE", "DBL")
    control = machine.control(max_failures=2)
    fail(control, limited)
    control.set({good: 2.0})
    fail(control, limited)  # one success in between: the count began anew
    fail(control, limited)
    blocked(control, {good: 3.0}, "paused after 2 failed evaluations in a row .option max_failures")
    blocked(control, {good: 3.0}, "paused after 2")
    assert machine.look("FREE") == 2.0
    assert control.get([good]) == {good: 2.0}, "reading goes on"
    control.resume()
    assert control.set({good: 3.0}).ok


@pytest.mark.parametrize("mode", ["raise", "nan"])
def test_a_failed_read_makes_a_failed_evaluation(machine: Machine, mode: str) -> None:
    good, gone = machine.pvs("FREE", "INVALID")
    control = machine.control(max_failures=2, on_read_error=mode)
    for value in (2.0, 3.0):
        control.set({good: value})
        for _ in range(3):  # several reads of one evaluation are one failure
            if mode == "raise":
                with pytest.raises(ReadError):
                    control.get([gone])
            else:
                control.get([gone])
    blocked(control, {good: 4.0}, "paused after 2")
    assert machine.look("FREE") == 3.0


def test_without_the_option_nothing_pauses(machine: Machine) -> None:
    good, limited = machine.pvs("FREE", "DBL")
    control = machine.control()
    for _ in range(20):
        fail(control, limited)
    assert control.set({good: 2.0}).ok
