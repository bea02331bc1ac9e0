"""V1, V3: a reading knows its unit and time, and what is calculated from readings does too."""

from __future__ import annotations

import pickle
from datetime import datetime

import numpy as np
import pint
import pytest

from badger_k2eg.core import clock
from badger_k2eg.core.model import Kind, Limits, Reading, Severity, timestamp
from badger_k2eg.core.units import Quantity, unit

EARLY, LATE = 1_000_000_000, 2_000_000_000


def amperes(value: float = 2.0, at: int | None = EARLY, **about: object) -> Reading:
    return Reading(value, timestamp_ns=at, units="A", **about)  # type: ignore[arg-type]


def test_the_quantity_of_a_reading() -> None:
    assert amperes().quantity == 2 * unit.ampere and amperes().unit == unit.ampere
    assert Reading(np.array([1.0, 2.0]), units="mm").quantity[1] == 2 * unit.mm
    for no_number in ("text", {"a": 1}, None):
        with pytest.raises(TypeError, match="not a number"):
            _ = Reading(no_number).quantity


def test_the_unit_follows_and_the_newest_time_is_taken() -> None:
    total = amperes() + Reading(500.0, units="mA", timestamp_ns=LATE)
    assert total.value == 2.5 and total.unit == unit.ampere and total.timestamp_ns == LATE and total.timestamp == 2.0
    power = amperes() * Reading(3.0, units="V")
    assert power.quantity.to("watt").magnitude == 6.0 and power.timestamp_ns == EARLY
    assert (amperes(1.0) / Reading(500.0, units="mA")).value == 2.0, "a ratio is a plain number"


@pytest.mark.parametrize(
    ("calculate", "value"),
    [
        (lambda a: 3 * a, 6.0), (lambda a: a * 3, 6.0), (lambda a: -a, -2.0), (lambda a: abs(-a), 2.0),
        (lambda a: a + 1 * unit.ampere, 3.0), (lambda a: 1 * unit.ampere + a, 3.0), (lambda a: a - a, 0.0),
        (lambda a: np.sqrt(a * a), 2.0), (lambda a: np.maximum(a, Quantity(2500, "mA")), 2.5), (lambda a: a // 1, 2.0),
        (lambda a: np.float64(2) * a, 4.0), (lambda a: round(a * 1.26, 1), 2.5), (lambda a: sum([a, a], 0 * a), 4.0),
        (lambda a: divmod(a, 1.5)[0], 1.0),
    ],
)  # fmt: skip
def test_operators_and_functions(calculate: object, value: float) -> None:
    result = calculate(amperes())  # type: ignore[operator]
    assert isinstance(result, Reading) and result.value == pytest.approx(value)
    assert result.quantity.check("[current]") and result.timestamp_ns == EARLY


@pytest.mark.parametrize(
    "calculate",
    [lambda a: a + 1, lambda a: 1 - a, lambda a: a + Reading(1.0, units="V"), lambda a: a < Reading(1.0, units="arb"),
     lambda a: np.hypot(a, Reading(1.0)), lambda a: a + 1 * unit.meter],
)  # fmt: skip
def test_units_that_do_not_fit_raise(calculate: object) -> None:
    with pytest.raises(pint.DimensionalityError):
        calculate(amperes())  # type: ignore[operator]


def test_arrays() -> None:
    profile = Reading(np.array([1.0, 2.0, 3.0]), units="mm", timestamp_ns=EARLY)
    assert profile[1].value == 2.0 and profile[1].units == "mm" and profile[1].timestamp_ns == EARLY
    assert profile[:2].value.tolist() == [1.0, 2.0] and len(profile) == 3
    assert [float(point) for point in profile] == [1.0, 2.0, 3.0]
    for reduced, value in ((np.mean(profile), 2.0), (np.sum(profile), 6.0), (profile.quantity.max(), 3.0)):
        assert reduced == value * unit.mm
    shifted = np.array([1.0, 1.0, 2.0]) * profile + Reading(1.0, units="m", timestamp_ns=LATE)
    assert shifted.value.tolist() == [1001.0, 1002.0, 1006.0] and shifted.timestamp_ns == LATE
    assert np.concatenate([profile, shifted]).value.shape == (6,)
    assert np.add.reduce(profile).value == 6.0 and np.asarray(profile).tolist() == [1.0, 2.0, 3.0]


def test_what_describes_the_pv_is_lost_and_the_worst_severity_kept() -> None:
    pv = amperes(description="corrector", limits=Limits(-5.0, 5.0), precision=3, user_tag=7)
    bad = amperes(severity=Severity.MAJOR, message="HIHI", user_tag=7)
    result = pv + bad
    assert (result.description, result.limits, result.precision) == ("", Limits(), None)
    assert (result.severity, result.message, result.pulse_id) == (Severity.MAJOR, "HIHI", 7)
    assert (pv + amperes(user_tag=8)).pulse_id is None
    assert (pv * 2).type.kind is Kind.FLOAT


def test_comparisons_and_equality() -> None:
    assert amperes() < amperes(3.0) and not amperes() > amperes(3.0)
    assert amperes() == 2.0 and amperes() == Quantity(2000, "mA") and amperes() != 3.0 and amperes() != "2.0"
    assert amperes() == amperes() and amperes() != amperes(at=LATE), "of two readings all is compared"
    assert bool(amperes()) and not amperes(0.0) and int(amperes(2.7)) == 2
    assert len({amperes(), amperes()}) == 1


def test_without_units_it_is_plain_arithmetic() -> None:
    one, two = Reading(2.0, timestamp_ns=LATE), Reading(3, timestamp_ns=EARLY)
    result = one * two + 1
    assert (result.value, result.units, result.timestamp_ns) == (7.0, "", LATE)
    assert (Reading(1.0) + 1).timestamp_ns is None


def test_a_time_of_its_own_wins() -> None:
    given = timestamp(5, "2009-09-01 12:34 UTC")
    assert given.value == 5 and given.timestamp_ns == 1251808440 * 10**9
    total = timestamp(amperes() + amperes(at=LATE), "2009-09-01T12:34:00.25Z")
    assert total.timestamp_ns == 1251808440_250_000_000 and total.units == "ampere"
    assert timestamp(3 * unit.mm, 12.5).timestamp_ns == 12_500_000_000
    assert timestamp([1, 2], datetime(2009, 9, 1)).timestamp == datetime(2009, 9, 1).timestamp()
    with pytest.raises(ValueError, match="yesterday"):
        timestamp(5, "yesterday")


def test_a_plain_value_takes_now() -> None:

    before = clock.time_ns()
    assert before <= timestamp(5).timestamp_ns <= clock.time_ns()  # type: ignore[operator]


def test_a_result_survives_a_pickle() -> None:
    result = amperes() * Reading(1.0, units="arb")
    assert pickle.loads(pickle.dumps(result)) == result
