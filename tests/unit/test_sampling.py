"""What counts as a fresh sample, and how samples become one number; on a machine in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Severity
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import CallCancelled, InvalidReading, ReadTimeout
from badger_k2eg.testing.virtual_clock import VirtualClock
from badger_k2eg.tuning import Buffer, Expression, Observable, Sampler
from badger_k2eg.tuning.formula import Formula
from badger_k2eg.tuning.observables import reducer


@pytest.fixture
def sampler(memory_context: MemoryBackend) -> Iterator[Sampler]:
    memory_context.add("SIZE", 1.0)
    memory_context.add("X", 3.0)
    memory_context.add("WAVE", [1.0, 2.0, 3.0])
    sampler = Sampler(Control(memory_context, Settings(timeout=0.5)))
    yield sampler
    sampler.close()


def beam(memory: MemoryBackend, pv: str, values: list[object], every: float = 0.03, first: float = 0.03) -> None:
    """Post values one after the other, from now on."""
    for number, value in enumerate(values):
        memory.later(first + number * every, lambda value=value: memory.post(pv, value))


def test_what_was_there_before_does_not_count(sampler: Sampler, memory_context: MemoryBackend) -> None:
    with pytest.raises(ReadTimeout, match="SIZE: no update came since the move; it reads 1.0"):
        sampler.measure({"size": Observable("SIZE")})
    beam(memory_context, "SIZE", [2.0])
    assert sampler.measure({"size": Observable("SIZE")})["size"].value == 2.0


def test_an_update_before_the_end_of_the_move_does_not_count(sampler: Sampler, memory_context: MemoryBackend) -> None:
    sampler.measure({"size": Observable("SIZE", fresh=False)})
    beam(memory_context, "SIZE", [10.0, 20.0, 30.0, 40.0, 50.0], every=0.05, first=0.05)
    since = clock.monotonic() + 0.12
    assert sampler.measure({"size": Observable("SIZE")}, since=since)["size"].value >= 30.0


def test_an_update_between_move_and_measuring_counts(sampler: Sampler, memory_context: MemoryBackend) -> None:
    sampler.measure({"size": Observable("SIZE", fresh=False)})
    since = clock.monotonic()
    memory_context.post("SIZE", 7.0)
    assert sampler.measure({"size": Observable("SIZE")}, since=since)["size"].value == 7.0


def test_a_record_that_posts_nothing_counts_by_its_time(sampler: Sampler, memory_context: MemoryBackend) -> None:
    """A record whose value stays the same posts no update, and is processed all the same."""
    sampler.measure({"size": Observable("SIZE", fresh=False)})
    pv = memory_context._pvs["SIZE"]

    def process_in_silence() -> None:
        watchers, pv.watchers = pv.watchers, []
        memory_context.post("SIZE", 1.0)
        pv.watchers = watchers

    memory_context.later(0.15, process_in_silence)
    assert sampler.measure({"size": Observable("SIZE")})["size"].value == 1.0


def test_samples_are_distinct_updates(sampler: Sampler, memory_context: MemoryBackend) -> None:
    beam(memory_context, "SIZE", [1.0, 1.0, 4.0])
    sample = sampler.measure({"size": Observable("SIZE", samples=3, reduce="mean")})["size"]
    assert sample.value == 2.0
    assert len({reading.timestamp_ns for reading in sample.readings}) == 3


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("mean", 2.5), ("median", 2.0), ("min", 1.0), ("max", 5.0), ("last", 2.0), ("std", 1.5), ("percentile 50", 2.0)],
)
def test_reducers(sampler: Sampler, memory_context: MemoryBackend, reduce: str, expected: float) -> None:
    beam(memory_context, "SIZE", [2.0, 1.0, 5.0, 2.0], every=0.01)
    value = sampler.measure({"size": Observable("SIZE", samples=4, reduce=reduce)})["size"].value
    assert value == pytest.approx(expected)
    assert type(value) is float


def test_too_few_is_an_error_or_a_marked_partial(sampler: Sampler, memory_context: MemoryBackend) -> None:
    beam(memory_context, "SIZE", [2.0, 4.0])
    with pytest.raises(ReadTimeout, match="2 of 5 updates came"):
        sampler.measure({"size": Observable("SIZE", samples=5)})
    beam(memory_context, "SIZE", [2.0, 4.0])
    sample = sampler.measure({"size": Observable("SIZE", samples=5, at_least=2)})["size"]
    assert (sample.value, sample.partial) == (3.0, True)


def test_the_others_are_in_partial(sampler: Sampler, memory_context: MemoryBackend) -> None:
    beam(memory_context, "X", [5.0])
    with pytest.raises(ReadTimeout, match="NOWHERE") as caught:
        sampler.measure({"x": Observable("X"), "gone": Observable("NOWHERE")})
    assert caught.value.partial == {"x": 5.0}
    assert list(caught.value.errors) == ["gone"]


def test_an_invalid_update_is_none(sampler: Sampler, memory_context: MemoryBackend) -> None:
    memory_context.later(0.03, lambda: memory_context.post("SIZE", 9.0, severity=Severity.INVALID, message="READ"))
    with pytest.raises(InvalidReading, match="INVALID"):
        sampler.measure({"size": Observable("SIZE")})


def test_what_never_changes_is_read_as_it_is(sampler: Sampler) -> None:
    assert sampler.measure({"x": Observable("X", fresh=False)})["x"].value == 3.0


def test_an_array_is_reduced_or_left(sampler: Sampler, memory_context: MemoryBackend) -> None:
    beam(memory_context, "WAVE", [[2.0, 4.0, 6.0]])
    samples = sampler.measure({"mean": Observable("WAVE"), "all": Observable("WAVE", reduce="none")})
    assert samples["mean"].value == 4.0
    np.testing.assert_array_equal(samples["all"].value, [2.0, 4.0, 6.0])


def test_buffers_of_a_group_lose_the_same_points(sampler: Sampler, memory_context: MemoryBackend) -> None:
    for name in ("A", "B"):
        memory_context.add(name, [0.0] * 5)
    memory_context.add("RATE", 1, choices=("0 Hz", "100 Hz"))
    nan = math.nan
    beam(memory_context, "A", [[9.0, 1.0, 2.0, nan, 6.0]], first=0.1)
    beam(memory_context, "B", [[9.0, nan, 10.0, 20.0, 30.0]], first=0.1)
    samples = sampler.measure(
        {
            "a": Buffer("A", points=4, rate="RATE", group="shots"),
            "b": Buffer("B", points=4, rate="RATE", group="shots"),
            "alone": Buffer("A", points=4, rate=100.0, reduce="max"),
        }
    )
    assert (samples["a"].value, samples["b"].value) == (4.0, 20.0)
    assert samples["alone"].value == 6.0


def test_a_buffer_waits_until_the_beam_has_filled_it(sampler: Sampler, memory_context: MemoryBackend) -> None:
    memory_context.add("A", [0.0, 0.0])
    beam(memory_context, "A", [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], every=0.1, first=0.05)
    # Two points at 10 Hz: what comes before 0.2 s has at least one of them from before.
    assert sampler.measure({"a": Buffer("A", points=2, rate=10.0)})["a"].value == 3.0


def test_a_buffer_without_beam_or_too_short(sampler: Sampler, memory_context: MemoryBackend) -> None:
    memory_context.add("RATE", 0, choices=("0 Hz", "100 Hz"))
    with pytest.raises(InvalidReading, match="the beam rate is '0 Hz'"):
        sampler.measure({"w": Buffer("WAVE", points=2, rate="RATE")})
    beam(memory_context, "WAVE", [[1.0, 2.0, 3.0]], first=0.1)
    with pytest.raises(InvalidReading, match="3 points, and 7 are needed"):
        sampler.measure({"w": Buffer("WAVE", points=7, rate=100.0)})


def test_an_expression_of_pvs(sampler: Sampler, memory_context: MemoryBackend) -> None:
    beam(memory_context, "SIZE", [4.0])
    beam(memory_context, "X", [9.0])
    wave = Observable("WAVE", fresh=False, reduce="none")
    emittance = Expression("sqrt(x * size) + rms(w)", x="X", size=Observable("SIZE"), w=wave)
    assert sampler.measure({"e": emittance})["e"].value == pytest.approx(6.0 + math.sqrt(14.0 / 3.0))


def test_cancel_ends_the_wait(sampler: Sampler, virtual_clock: VirtualClock) -> None:
    deadline = Deadline()
    virtual_clock.later(0.1, deadline.cancel)
    began = clock.monotonic()
    with pytest.raises(CallCancelled):
        sampler.measure({"size": Observable("SIZE", timeout=30.0)}, deadline=deadline)
    assert clock.monotonic() - began == pytest.approx(0.1, abs=1e-6)


def test_close_ends_every_subscription(sampler: Sampler, memory_context: MemoryBackend) -> None:
    sampler.measure({"x": Observable("X", fresh=False)})
    assert memory_context._pvs["X"].watchers
    sampler.close()
    # Kept for the next call of the same Control, and no longer than that.
    sampler._control.close()
    assert not memory_context._pvs["X"].watchers


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Observable("X", samples=0), "samples"),
        (lambda: Observable("X", samples=2, at_least=3), "at_least"),
        (lambda: Observable("X", reduce="average"), "no reducer 'average'"),
        (lambda: Buffer("X", points=3, rate=0.0), "rate"),
        (lambda: Expression("a + b", a="X"), "unknown name b"),
        (lambda: Expression("exec(a)", a="X"), "unknown name exec"),
        (lambda: Expression("a(1)", a="X"), "not a call"),
        (lambda: Expression("a.real", a="X"), "Attribute"),
        (lambda: Expression("'text'"), "not a number"),
        (lambda: Expression("a +", a="X"), "not a formula"),
        (lambda: reducer("percentile 101"), "no reducer"),
        (lambda: Observable("X", sample=3), "Observable X: there is no 'sample'; did you mean 'samples'?"),
        (lambda: Buffer("X", 5, rat=1.0), "Buffer X: there is no 'rat'; did you mean 'rate'?"),
        (lambda: Observable("X", samples="3"), "X: samples must be a whole number >= 1, not '3'"),
        (lambda: Observable("X", timeout="3"), "X: the timeout must be a number of seconds, not '3'"),
        (lambda: Observable(3), "a PV must be a text, not 3"),
        (lambda: Buffer("X", 5, rate=None), "rate"),
        (lambda: Expression("x", x="A", sample=3), "sample must be a PV, an Observable or a Buffer, not 3"),
        (lambda: Expression("x", x="A", z="B"), "formula 'x' has no z"),
        (lambda: Expression("sqrt", x="A"), "unknown name sqrt"),
        (lambda: Expression(3, x="A"), "a formula must be a text, not 3"),
    ],
)
def test_a_wrong_declaration_says_so(wrong: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-x ** 2", -9.0),
        ("x if x > 2 else 0", 3.0),
        ("max(x, 5) % 4", 1),
        ("hypot(x, 4)", 5.0),
        ("pi * 0 + x // 2", 1.0),
    ],
)
def test_formulas(text: str, value: float) -> None:
    assert Formula(text, {"x"})(x=3.0) == pytest.approx(value)
