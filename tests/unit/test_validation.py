"""What counts as arrived, how validators are recognised, and what a watch makes of updates."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from badger_k2eg.control.validators import (
    AllOf,
    Reaches,
    Watch,
    Within,
    adapt,
    all_of,
    name_of,
    reaches,
    wait_for_readback,
    within,
)
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Kind, PvType, Reading
from badger_k2eg.core.units import unit
from badger_k2eg.errors import PvNotConnected


def watch(validator: Within | Reaches, set_value: Any = 1.0, timeout: float = 10.0, **options: Any) -> Watch:
    return Watch(validator, "SP", set_value, timeout, **options)


# -- the band ---------------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(-1e3, 1e3), st.floats(-2e3, 2e3))
def test_in_the_band_or_not(setpoint: float, tolerance: float, offset: float, away: float) -> None:
    aim = within("RB", tolerance=tolerance, offset=offset).aim(setpoint)
    target = setpoint + offset
    distance = abs((target + away) - target)
    # A hair around the edge may fall to either side; it is as wide as floats are fuzzy there.
    fuzz = 2e-12 * max(1.0, abs(target))
    if not tolerance < distance <= tolerance + fuzz:
        assert aim.hit(Reading(target + away)) == (distance <= tolerance)


@pytest.mark.parametrize(
    ("setpoint", "readback", "tolerance"), [(1.0, 1.05, 0.05), (0.3, 0.1 + 0.2, 0.0), (100.1, 100.0, 0.1)]
)
def test_the_edge_belongs_to_the_band_whatever_binary_makes_of_it(
    setpoint: float, readback: float, tolerance: float
) -> None:
    assert within("RB", tolerance=tolerance).aim(setpoint).hit(Reading(readback))
    assert not within("RB", tolerance=tolerance).aim(setpoint).hit(Reading(readback + 0.001 + 2 * tolerance))


@pytest.mark.parametrize("value", ["text", None, [1.0, 2.0], {"a": 1}])
def test_what_is_no_number_cannot_be_compared(value: Any) -> None:
    with pytest.raises(ValueError, match="a tolerance needs a number"):
        within("RB", tolerance=0.1).aim(value)
    one = watch(within("RB", tolerance=0.1))
    one.arm()
    one.update(Reading(value))
    assert not one.settled() and "a tolerance needs a number" in str(one.failure())


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance": -0.1},
        {"tolerance": float("nan")},
        {"tolerance": 0.1, "settle": -1.0},
        {"tolerance": 0.1, "timeout": 0.0},
        {"tolerance": 0.1, "timeout": float("nan")},
    ],
    ids=str,
)
def test_a_wrong_declaration_is_refused_where_it_is_made(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of RB is a number"):
        within("RB", **wrong)


# -- a watch ----------------------------------------------------------------------------------------------------------


def test_nothing_counts_before_it_is_armed() -> None:
    one = watch(within("RB", tolerance=0.1))
    one.update(Reading(1.0))
    assert one.known and not one.settled() and not one.expired()
    one.arm()
    assert one.settled() and one.value == 1.0


def test_the_hold_time_begins_anew_when_it_leaves_the_band() -> None:
    one = watch(within("RB", tolerance=0.1, settle=0.15))
    one.arm()
    for value in (1.0, 1.5, 1.05):
        one.update(Reading(value))
        assert not one.settled()
    assert 0.0 < one.time_left() <= 0.15
    clock.sleep(0.16)
    assert one.settled()


def test_bad_news_breaks_the_hold_time_and_is_told() -> None:
    one = watch(within("RB", tolerance=0.1, settle=0.1), timeout=0.2)
    one.arm()
    one.update(Reading(1.0))
    one.update(PvNotConnected("RB", "disconnected"))
    clock.sleep(0.12)
    assert not one.settled() and "last seen 1, disconnected" in str(one.failure())


def test_a_reading_that_is_judged_bad_has_not_arrived() -> None:
    one = watch(within("RB", tolerance=0.1), judge=lambda reading: "alarm severity INVALID")
    one.arm()
    one.update(Reading(1.0))
    assert not one.settled() and "INVALID" in str(one.failure())


def test_its_time_ends_with_its_own_or_its_calls() -> None:
    one = watch(within("RB", tolerance=0.1, timeout=60.0))
    call = Deadline(60.0)
    one.arm(call)
    assert not one.expired() and one.timeout == 60.0
    call.cancel()
    assert one.expired() and one.time_left() == 0.0
    two = watch(within("RB", tolerance=0.1), timeout=0.05)
    two.arm()
    clock.sleep(0.06)
    assert two.expired() and "no value of it has arrived, waited 0.05 s" in str(two.failure())


def test_every_update_is_news() -> None:
    news: list[int] = []
    one = watch(within("RB", tolerance=0.1), changed=lambda: news.append(1))
    one.update(Reading(5.0))
    one.update(PvNotConnected("RB", "gone"))
    assert len(news) == 2


def test_a_status_is_reached_by_label_or_index() -> None:
    enum = PvType(Kind.ENUM, 32)
    for wanted in ("Ready", 1):
        one = watch(reaches("ST", wanted, settle=0.0), "whatever the setpoint is")
        one.arm()
        one.update(Reading(0, enum, choices=("Busy", "Ready")))
        assert not one.settled()
        one.update(Reading(1, enum, choices=("Busy", "Ready")))
        assert one.settled()


# -- recognising ------------------------------------------------------------------------------------------------------

OURS = [
    within("RB", tolerance=0.1, offset=0.5, settle=1.0, timeout=2.0),
    partial(within, "RB", tolerance=0.1, offset=0.5, settle=1.0, timeout=2.0),
    partial(partial(within, "RB"), tolerance=0.1, offset=0.5, settle=1.0, timeout=2.0),
    partial(wait_for_readback, readback_pv="RB", tolerance=0.1, offset=0.5, settle=1.0, count_down=2.0),
]


@pytest.mark.parametrize("validator", OURS, ids=["within", "partial", "partial of partial", "wait_for_readback"])
def test_ours_are_recognised_in_every_form(validator: Any) -> None:
    assert adapt(validator) == AllOf((Within("RB", 0.1, 0.5, 1.0, 2.0),))


def test_all_of_is_flat_and_of_ours_alone() -> None:
    both = all_of(within("A", tolerance=1.0), all_of(reaches("B", 1), within("C", tolerance=2.0)))
    assert [part.pv for part in both.parts] == ["A", "B", "C"] and adapt(both) is both
    with pytest.raises(ValueError, match="all_of takes"):
        all_of(lambda **words: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="waits for nothing"):
        all_of()


def foreign(set_pv: str, set_value: float, context: Any, timeout: float, more: int = 1) -> None:
    """The public call convention, with a word more that has a default."""


@pytest.mark.parametrize(
    "validator",
    [foreign, partial(foreign, more=2), lambda **words: None, print],
    ids=["plain", "partial", "any", "builtin"],
)
def test_anybody_elses_is_left_as_it_is(validator: Any) -> None:
    if validator is print:
        # A builtin has a signature too; this one takes none of the four words.
        with pytest.raises(ValueError, match="print cannot be called"):
            adapt(validator)
    else:
        assert adapt(validator) is validator


def test_its_name_is_that_of_the_function() -> None:
    assert name_of(partial(partial(foreign, more=1), timeout=2)) == "foreign"

    class Check:
        def __call__(self, **words: Any) -> None: ...

    assert name_of(Check()) == "Check"


# -- called by hand, with anybody's context ----------------------------------------------------------------------


class Context:
    """No p4p and no Control: a get that gives what it was told to give."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, float]] = []

    def get(self, name: str, timeout: float) -> Any:
        self.asked.append((name, timeout))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class FloatLike:
    """As p4p's values are: a number under ``.real``."""

    def __init__(self, real: float) -> None:
        self.real = real


@pytest.mark.parametrize("form", [float, FloatLike], ids=["float", "float-like"])
def test_by_hand_it_polls_until_it_has_arrived(form: Any) -> None:
    context = Context(form(0.0), TimeoutError("slow"), PvNotConnected("RB", "gone"), form(0.95))
    value = wait_for_readback(
        set_pv="SP", set_value=1.0, context=context, timeout=3.0, readback_pv="RB", tolerance=0.1, count_down=10.0
    )
    assert value == 0.95 and context.asked == [("RB", 3.0)] * 4


def test_by_hand_it_fails_in_its_time() -> None:
    began = clock.monotonic()
    with pytest.raises(ValueError, match=r"RB wanted 1 \+-0\.1, last seen 0, waited 0\.3 s"):
        within("RB", tolerance=0.1, timeout=0.3)(set_pv="SP", set_value=1.0, context=Context(0.0), timeout=3.0)
    assert 0.3 <= clock.monotonic() - began < 3.0


def test_by_hand_it_waits_for_a_flag_to_rise() -> None:
    context = Context(*[0.0] * 2, *[1.0] * 2, 0.0)
    assert reaches("ST", 0, settle=0.0, rise=20.0)(set_pv="SP", set_value=1.0, context=context, timeout=3.0) == 0.0
    assert len(context.asked) == 5
    began = clock.monotonic()
    reaches("ST", 0, settle=0.0, rise=0.4)(set_pv="SP", set_value=1.0, context=Context(0.0), timeout=3.0)
    assert clock.monotonic() - began == pytest.approx(0.4, abs=1e-6)
    with pytest.raises(ValueError, match="the time for ST to rise is a number >= 0"):
        reaches("ST", 0, rise=-1.0)


def test_times_may_be_quantities_and_minus_one_is_for_ever() -> None:
    assert within("RB", tolerance=0.1, timeout=2 * unit.minute, settle=50 * unit.ms) == within(
        "RB", tolerance=0.1, timeout=120.0, settle=0.05
    )
    assert reaches("ST", 1, timeout=-1).timeout == within("RB", tolerance=0.1, timeout=-1).timeout == -1
    watch = Watch(within("RB", tolerance=0.1, timeout=-1), "SP", 1.0, 3.0)
    watch.arm()
    assert watch.time_left() == math.inf and not watch.expired()
    with pytest.raises(ValueError, match="a time is"):
        within("RB", tolerance=0.1, timeout=3 * unit.meter)
