"""Fresh after set, and sampling, over both transports: a readback that updates late, a counter, a silent record."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from badger_k2eg.control import Control, connect
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import ReadTimeout
from badger_k2eg.testing.soft_ioc import SoftIoc
from badger_k2eg.tuning import Expression, Observable, Sampler

LATE = 0.6
"""Seconds by which the readback follows its setpoint."""


@pytest.fixture(params=["pva", "ca"])
def control(request: pytest.FixtureRequest, soft_ioc: SoftIoc) -> Iterator[Control]:
    pytest.importorskip({"pva": "p4p", "ca": "caproto"}[request.param], reason="pip install 'badger-k2eg[ca,pva]'")
    backend = connect(request.param)
    made = Control(backend, Settings(timeout=10.0))
    settle = made.get([soft_ioc.pv("SETTLE")])
    made.set({soft_ioc.pv("SETTLE"): LATE})
    yield made
    made.set(settle)
    made.close()
    backend.close()


@pytest.fixture
def sampler(control: Control) -> Iterator[Sampler]:
    sampler = Sampler(control)
    yield sampler
    sampler.close()


def moved(control: Control, setpoint: str, value: float) -> float:
    """Set, and give the instant at which the set had ended."""
    control.set({setpoint: value})
    return time.monotonic()


def test_a_pv_that_updates_late_is_waited_for(control: Control, sampler: Sampler, soft_ioc: SoftIoc) -> None:
    setpoint, readback = soft_ioc.pv("SP:010"), soft_ioc.pv("RB:010")
    late = {"late": Observable(readback), "now": Observable(readback, fresh=False)}
    for value in (3.5, -2.0):
        before = sampler.measure({"now": late["now"]})["now"].value
        since = moved(control, setpoint, value)
        # What it reads just now is still from before the move.
        assert control.get([readback])[readback] == before != value
        sample = sampler.measure({"late": late["late"]}, since=since)["late"]
        assert sample.value == value
        assert time.monotonic() - since > LATE / 2


def test_the_time_to_settle_counts_as_before(control: Control, sampler: Sampler, soft_ioc: SoftIoc) -> None:
    setpoint, readback = soft_ioc.pv("SP:011"), soft_ioc.pv("RB:011")
    sampler.measure({"x": Observable(readback, fresh=False)})
    # The second time its value stays the same, and only its time tells that it was processed.
    for _ in range(2):
        since = moved(control, setpoint, 4.0) + 4 * LATE
        # Its update comes within the time to settle: it is not of the machine as it will be measured.
        with pytest.raises(ReadTimeout, match=r"no update came since the move; it reads 4\.0"):
            sampler.measure({"x": Observable(readback, timeout=0.3)}, since=since)


def test_a_record_whose_value_stays_the_same_counts_by_its_time(
    control: Control, sampler: Sampler, soft_ioc: SoftIoc
) -> None:
    setpoint, readback = soft_ioc.pv("SP:012"), soft_ioc.pv("RB:012")
    stamps = []
    for _ in range(2):
        since = moved(control, setpoint, 1.25)
        sample = sampler.measure({"x": Observable(readback)}, since=since)["x"]
        assert sample.value == 1.25
        stamps.append(sample.readings[0].timestamp_ns)
    assert stamps[1] > stamps[0]


def test_samples_are_distinct_updates_from_after_the_move(
    control: Control, sampler: Sampler, soft_ioc: SoftIoc
) -> None:
    count = soft_ioc.pv("COUNT")
    sampler.measure({"n": Observable(count, fresh=False)})
    since = moved(control, soft_ioc.pv("FREE"), 1.0)
    present = control.get([count])[count]
    measured = sampler.measure(
        {
            "first": Observable(count, samples=5, reduce="min"),
            "middle": Observable(count, samples=5, reduce="median"),
            "last": Observable(count, samples=5, reduce="last"),
            "twice": Expression("2 * n", n=Observable(count, samples=5, reduce="max")),
        },
        since=since,
    )
    counted = [reading.value for reading in measured["first"].readings]
    # The counter may have gone on once between the end of the set and the look at it.
    assert counted == sorted(set(counted))
    assert len(counted) == 5
    assert counted[0] >= present - 1
    assert [measured[name].value for name in ("first", "middle", "last")] == [counted[0], counted[2], counted[4]]
    assert measured["twice"].value == 2 * counted[4]


def test_too_few_in_time_are_an_error_or_a_marked_partial(sampler: Sampler, soft_ioc: SoftIoc) -> None:
    count, silent = soft_ioc.pv("COUNT"), soft_ioc.pv("STATIC")
    with pytest.raises(ReadTimeout, match=r"\d+ of 1000 updates came since the move"):
        sampler.measure({"n": Observable(count, samples=1000, timeout=0.5)})
    sample = sampler.measure({"n": Observable(count, samples=1000, at_least=1, timeout=0.5)})["n"]
    assert sample.partial
    assert 1 <= len(sample.readings) < 1000
    with pytest.raises(ReadTimeout, match=f"{silent}: no update came since the move; it reads 7.0") as caught:
        sampler.measure({"s": Observable(silent, timeout=0.3), "n": Observable(count)})
    assert list(caught.value.partial) == ["n"]
