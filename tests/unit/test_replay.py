"""A recorded run in the machine's place: which point stands for what is put, and what it gives."""

from __future__ import annotations

import math

import pytest

from badger_k2eg.backends.replay import Matching, Recording, ReplayBackend
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Kind, Limits, Outcome, PvAddress, PvType, Reading, Severity
from badger_k2eg.core.records import Record, RecordKind, from_line, to_line
from badger_k2eg.errors import NoSuchRecord, PvInvalid, PvNotConnected, PvTimeout, ReplayMismatch
from badger_k2eg.journal.reading_fields import told, told_error, update_of

SECOND = 1_000_000_000
QUAD = Reading(
    1.0, PvType(Kind.FLOAT), 5 * SECOND, units="A", limits=Limits(0.0, 5.0), precision=3, description="a quadrupole"
)


def line(kind: RecordKind, seconds: float = 0.0, **fields: object) -> Record:
    return Record(kind=kind, run="r1", time_ns=int(seconds * SECOND), **fields)  # type: ignore[arg-type]


def a_point(number: int, quad: float, size: float, **setpoint: object) -> list[Record]:
    at = 10.0 * number
    ended = {"outcome": Outcome.APPLIED} | setpoint
    return [
        line(RecordKind.EVALUATION_BEGIN, at, evaluation=number),
        line(RecordKind.SETPOINT, at, evaluation=number, pv="QUAD", asked=quad, **ended),
        line(RecordKind.READ, at + 1, evaluation=number, pv="SIZE", **told(Reading(size, units="mm", user_tag=7))),
        line(RecordKind.READ, at + 1, evaluation=number, name="mean size", value=size * 2),
    ]


def a_run(*points: list[Record]) -> Recording:
    baseline = line(RecordKind.BASELINE, 1.0, pv="QUAD", **told(QUAD, profile=True))
    begin = line(RecordKind.RUN_BEGIN, 0.0, data={"environment": {"name": "e"}})
    lines = [begin, baseline, *(record for point in points for record in point)]
    # Through their text, as a journal gives them.
    return Recording("r1", [from_line(to_line(record)) for record in lines])


def put(backend: ReplayBackend, **values: float) -> list[Outcome]:
    answers = backend.put_many({PvAddress.parse(pv): value for pv, value in values.items()}, Deadline(1.0))
    return [answer.outcome for answer in answers.values()]


def get(backend: ReplayBackend, pv: str) -> object:
    address = PvAddress.parse(pv)
    return backend.get_many([address], Deadline(1.0))[address]


def test_a_reading_comes_back_from_its_line_whole() -> None:
    text = to_line(line(RecordKind.BASELINE, pv="QUAD", **told(QUAD, profile=True)))
    assert update_of(from_line(text)) == QUAD


def test_an_error_comes_back_from_its_line() -> None:
    for error in (PvTimeout("X", "no answer"), PvInvalid("X", "never processed")):
        found = update_of(from_line(to_line(line(RecordKind.READ, pv="X", **told_error(error)))))
        assert type(found) is type(error) and str(found) == str(error)


def test_the_same_points_give_the_same_readings() -> None:
    backend = ReplayBackend(a_run(a_point(1, 1.5, 0.3), a_point(2, 2.5, 0.2)))
    assert get(backend, "QUAD") == QUAD
    for quad, size in ((2.5, 0.2), (1.5, 0.3)):
        assert put(backend, QUAD=quad) == [Outcome.APPLIED]
        assert get(backend, "SIZE") == Reading(size, PvType(), units="mm", user_tag=7)
        assert backend.observed("mean size").value == size * 2  # type: ignore[union-attr]
        echo = get(backend, "QUAD")
        assert isinstance(echo, Reading) and (echo.value, echo.units, echo.limits) == (quad, "A", QUAD.limits)


def test_a_point_that_came_twice_gives_each_of_its_readings_in_turn() -> None:
    backend = ReplayBackend(a_run(a_point(1, 1.5, 0.3), a_point(2, 1.5, 0.31), a_point(3, 2.0, 0.1)))
    seen = []
    for _ in range(3):
        put(backend, QUAD=1.5)
        seen.append((get(backend, "SIZE").value, get(backend, "SIZE").value))  # type: ignore[attr-defined]
    assert seen == [(0.3, 0.3), (0.31, 0.31), (0.31, 0.31)]


def test_strict_says_what_differs() -> None:
    backend = ReplayBackend(a_run(a_point(1, 1.5, 0.3), a_point(2, 2.5, 0.2)))
    put(backend, QUAD=2.4)
    with pytest.raises(ReplayMismatch, match=r"nearest is evaluation 2, distance 0\.1: QUAD = 2\.4 \(recorded: 2\.5\)"):
        backend.point()
    assert isinstance(get(backend, "SIZE"), PvNotConnected)
    put(backend, OTHER=1.0)
    with pytest.raises(ReplayMismatch, match="never set OTHER"):
        backend.point()


def test_nearest_gives_the_nearest_and_its_distance() -> None:
    backend = ReplayBackend(a_run(a_point(1, 1.0, 0.3), a_point(2, 3.0, 0.2)), Matching.NEAREST)
    put(backend, QUAD=2.5)
    assert get(backend, "SIZE").value == 0.2  # type: ignore[attr-defined]
    assert backend.last_match is not None
    assert backend.last_match.point.number == 2 and math.isclose(backend.last_match.distance, 0.25)


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.UNKNOWN, Outcome.NOT_SENT])
def test_what_was_not_applied_is_not_applied_again(outcome: Outcome) -> None:
    backend = ReplayBackend(a_run(a_point(1, 1.5, 0.3, outcome=outcome, message="so it was")))
    ended = backend.expect({"QUAD": 1.5})
    assert ended["QUAD"].message == "so it was"
    before = get(backend, "QUAD")
    assert put(backend, QUAD=1.5) == [outcome]
    after = get(backend, "QUAD")
    # What was refused is as it was before, which makes it a refusal here too; of the others nothing is known.
    assert after == before if outcome is Outcome.REFUSED else isinstance(after, PvTimeout)


def test_what_was_blocked_is_no_point() -> None:
    blocked = line(RecordKind.SETPOINT, 12.0, evaluation=1, pv="QUAD", asked=99.0, outcome=Outcome.BLOCKED)
    recording = a_run([*a_point(1, 1.5, 0.3), blocked])
    assert recording.points[0].setpoints == {"QUAD": 1.5}


def test_an_evaluation_in_which_nothing_was_sent_is_none() -> None:
    begin = line(RecordKind.EVALUATION_BEGIN, 20.0, evaluation=2)
    blocked = line(RecordKind.SETPOINT, 21.0, evaluation=2, pv="QUAD", asked=99.0, outcome=Outcome.BLOCKED)
    recording = a_run([*a_point(1, 1.5, 0.3), begin, blocked], a_point(3, 2.0, 0.1))
    assert [point.number for point in recording.points] == [1, 3]


def test_what_was_restored_at_the_end_is_no_point() -> None:
    back = line(RecordKind.SETPOINT, 20.0, evaluation=1, pv="QUAD", asked=1.0, outcome=Outcome.APPLIED)
    restore = [line(RecordKind.RESTORE_BEGIN, 19.0), back, line(RecordKind.RESTORE_END, 21.0)]
    assert a_run([*a_point(1, 1.5, 0.3), *restore]).points[0].setpoints == {"QUAD": 1.5}


def test_time_plays_it_back_at_its_speed_whatever_is_put() -> None:
    backend = ReplayBackend(a_run(a_point(1, 1.5, 0.3), a_point(2, 2.5, 0.2)), Matching.TIME, speed=200.0)
    seen: list[object] = []
    watcher = backend.monitor(PvAddress.parse("SIZE"), lambda update: seen.append(update.value))  # type: ignore[union-attr]
    put(backend, QUAD=4.0)
    end = clock.monotonic() + 10.0
    while seen[-1] != 0.2 and clock.monotonic() < end:
        clock.sleep(0.01)
    assert seen == [0.3, 0.2] and get(backend, "QUAD").value is not None  # type: ignore[attr-defined]
    watcher.close()
    backend.close()


def test_a_monitor_hears_of_each_point_that_is_read() -> None:
    backend = ReplayBackend(a_run(a_point(1, 1.5, 0.3), a_point(2, 2.5, 0.2)))
    seen: list[object] = []
    watcher = backend.monitor(PvAddress.parse("SIZE"), seen.append)
    for quad in (1.5, 2.5):
        put(backend, QUAD=quad)
        backend.point()
    watcher.close()
    put(backend, QUAD=1.5)
    backend.point()
    assert isinstance(seen[0], PvNotConnected) and [r.value for r in seen[1:]] == [0.3, 0.2]  # type: ignore[attr-defined]


def test_an_unrecorded_pv_is_named_with_the_run() -> None:
    backend = ReplayBackend(a_run(a_point(1, 1.5, 0.3)))
    put(backend, QUAD=1.5)
    assert str(get(backend, "GONE")) == "GONE: run r1 did not record it"


def test_severity_comes_back() -> None:
    bad = line(RecordKind.READ, 12.0, evaluation=1, pv="SIZE", **told(Reading(0.1, severity=Severity.MAJOR)))
    backend = ReplayBackend(a_run([*a_point(1, 1.5, 0.3), bad]))
    put(backend, QUAD=1.5)
    assert get(backend, "SIZE").severity is Severity.MAJOR  # type: ignore[attr-defined]


def test_a_run_that_set_nothing_cannot_be_replayed() -> None:
    with pytest.raises(NoSuchRecord, match="run r1 set nothing"):
        a_run()
