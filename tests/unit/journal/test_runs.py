"""Runs as the journal has them, and finding lines: by whatever a user knows of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome
from badger_k2eg.core.records import Level, Record, RecordKind
from badger_k2eg.errors import NoSuchRecord
from badger_k2eg.journal import Journal, Query, query

from .conftest import put

K = RecordKind


@pytest.fixture
def run(record_run: Callable[..., str]) -> str:
    return record_run("20260101-120000-aaaa")


def test_a_run_has_its_times_range_reason_and_origin(journal: Journal, run: str) -> None:
    before = clock.time_ns()
    found = journal.run(run)
    lines = list(found.records())
    assert (found.event.start, found.event.end) == (lines[0].line, lines[-1].line + 1)
    assert (found.reason, found.state, found.open, found.alive) == ("success", "success", False, False)
    assert found.ended_ns is not None and found.started_ns <= found.ended_ns <= before
    assert (found.name, found.manifest, found.evaluation_count) == ("morning", {"environment": "demo"}, 3)


def test_events_hold_exact_half_open_ranges(journal: Journal, run: str) -> None:
    lines = {record.line: record for record in journal.records()}
    for event in journal.events(("run", "evaluation", "set")):
        assert event.end is not None
        assert lines[event.start].kind == f"{event.kind}.begin"
        assert lines[event.end - 1].kind == f"{event.kind}.end"
        assert lines[event.end - 1].begin == event.start
    inner = next(line for line, record in lines.items() if record.kind is K.PUT)
    assert [event.kind for event in journal.around(inner)] == ["run", "evaluation", "set"]
    assert journal.around(1) == []


def test_a_crashed_run_is_open_and_its_end_closes_what_is_in_it(journal: Journal, record_run: Any) -> None:
    record_run("crashed", end=None)
    run = journal.run("crashed")
    assert (run.open, run.alive, run.state, run.ended_ns) == (True, True, "open", None)
    inner = journal.write(Record(kind=K.EVALUATION_BEGIN, run="crashed", evaluation=4)).start
    assert [event.start for event in journal.events(only_open=True)] == [run.event.start, inner]
    end = journal.write(Record(kind=K.RUN_END, run="crashed", begin=run.event.start, name="lost")).start
    assert journal.events(only_open=True) == []
    assert {event.start: event.end for event in journal.events()}[inner] == end + 1
    assert journal.run("crashed").state == "lost"


def test_an_open_run_whose_process_is_gone_has_crashed(journal: Journal) -> None:
    journal.write(Record(kind=K.RUN_BEGIN, run="gone", process=2**22 + 1))
    journal.write(Record(kind=K.RUN_BEGIN, run="far", host="elsewhere"))
    assert (journal.run("gone").alive, journal.run("gone").state) == (False, "crashed")
    assert (journal.run("far").alive, journal.run("far").state) == (None, "open")


def test_a_run_is_found_by_what_is_unique_of_it(journal: Journal, record_run: Any) -> None:
    for name in ("20260101-120000-aaaa", "20260101-130000-bbbb", "20260202-120000-cccc"):
        record_run(name, 1)
    assert journal.run("202602").id == "20260202-120000-cccc"
    assert journal.run("last").id == "20260202-120000-cccc"
    journal.write(Record(kind=K.RENAME, run="20260101-130000-bbbb", name="golden"))
    assert journal.run("golden").id == "20260101-130000-bbbb"
    for text, said in (
        ("202601", "'202601' matches 2 runs: 20260101-120000-aaaa, 20260101-130000-bbbb"),
        ("20260101-12000-aaaa", "there is no run '20260101-12000-aaaa'; did you mean '20260101-120000-aaaa'?"),
        ("", "there is no run ''; the newest is 20260202-120000-cccc"),
        ("morning", "'morning' matches 2 runs: 20260101-120000-aaaa, 20260202-120000-cccc"),
    ):
        with pytest.raises(NoSuchRecord) as error:
            journal.run(text)
        assert str(error.value) == said


def test_an_empty_journal_has_no_run(journal: Journal) -> None:
    with pytest.raises(NoSuchRecord, match="there is no run 'last': the journal has no run yet"):
        journal.run("last")


def test_evaluations_baseline_and_setpoints(journal: Journal, run: str) -> None:
    found = journal.run(run)
    first, second, third = found.evaluations()
    assert (first.number, first.ok, first.asked, first.readings) == (
        1,
        True,
        {"Q:1": 1.25, "Q:2": 1.25},
        {"BEAM": 10.0},
    )
    assert not third.ok and [(r.pv, r.outcome) for r in third.failed] == [("Q:2", Outcome.REFUSED)]
    assert second.end is not None and second.end <= third.start
    assert {pv: (record.value, record.unit) for pv, record in found.baseline().items()} == {
        "Q:1": (0.5, "kG"),
        "Q:2": (0.5, "kG"),
    }
    assert found.setpoints(0) == {"Q:1": 0.5, "Q:2": 0.5}
    assert found.setpoints(2) == {"Q:1": 2.25, "Q:2": 2.25}
    assert found.setpoints() == {"Q:1": 3.25, "Q:2": 2.25}
    with pytest.raises(NoSuchRecord, match="has no evaluation 4; it has 1 to 3"):
        found.setpoints(4)


def test_what_was_last_written_counts_what_may_have_been(journal: Journal) -> None:
    def begin(**setpoints: float) -> int:
        return journal.write(Record(kind=K.SET_BEGIN, run="r", data={"setpoints": setpoints})).start

    journal.write(Record(kind=K.RUN_BEGIN, run="r"))
    call = begin(A=1.0, B=1.0, C=1.0)
    journal.write(put("r", 1, "A", 1.0), put("r", 1, "B", 1.0, Outcome.UNKNOWN), put("r", 1, "C", 1.0, Outcome.REFUSED))
    journal.write(Record(kind=K.SETPOINT, run="r", pv="B", asked=1.0, outcome=Outcome.APPLIED))
    journal.write(Record(kind=K.SET_END, run="r", begin=call))
    begin(A=2.0, D=2.0)
    # And then it was killed: D may have been sent once more.
    journal.write(put("r", 2, "D", 2.0, Outcome.NOT_SENT))
    written = journal.run("r").history().last_written
    assert {pv: (record.asked, record.outcome) for pv, record in written.items()} == {
        "A": (2.0, Outcome.UNKNOWN),
        "B": (1.0, Outcome.APPLIED),
        # A server may say no, and have written all the same.
        "C": (1.0, Outcome.REFUSED),
        "D": (2.0, Outcome.UNKNOWN),
    }


def test_the_slowest_pv_comes_first(journal: Journal, run: str) -> None:
    assert journal.run(run).latencies() == {
        "Q:1": pytest.approx([0.1, 0.2, 0.3]),
        "Q:2": [0.01, 0.01],
    }


def test_what_is_said_afterwards(journal: Journal, run: str) -> None:
    for record in (
        Record(kind=K.TAG, run=run, name="charge", value=0.25),
        Record(kind=K.TAG, run=run, name="operator", value="Ada"),
        Record(kind=K.TAG, run=run, name="charge", value=0.5),
        Record(kind=K.TAG, run=run, name="operator"),
        Record(kind=K.NOTE, run=run, message="good beam"),
        Record(kind=K.RENAME, run=run, name="golden"),
        Record(kind=K.LINK, run=run, data={"parent": "before"}),
        Record(kind=K.BEST, run=run, evaluation=2),
    ):
        journal.write(record)
    found = journal.run(run)
    assert (found.tags, found.name, found.parent, found.best) == ({"charge": 0.5}, "golden", "before", 2)
    assert [(note.message, bool(note.user)) for note in found.notes] == [("good beam", True)]


# -- marks -----------------------------------------------------------------------------------------------------------


def test_marks_of_ones_own(journal: Journal) -> None:
    start = journal.begin_mark("fault")
    journal.begin_mark("shot")
    journal.write(Record(kind=K.NOTE))
    ended = journal.end_mark("fault")
    assert (ended.start, ended.end) == (start, start + 4)
    for name, said in (("shto", "did you mean 'shot'?"), ("fault", "open ones are shot")):
        with pytest.raises(NoSuchRecord) as error:
            journal.end_mark(name)
        assert str(error.value) == f"no mark {name!r} is open; {said}"


# -- queries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"first": 3, "end": 5}, lambda r: 3 <= r.line < 5),
        ({"pvs": ("Q:1",)}, lambda r: r.pv == "Q:1"),
        ({"pvs": ("Q:*", "BEAM")}, lambda r: r.pv is not None),
        ({"pvs": ("Q:[2-9]",)}, lambda r: r.pv == "Q:2"),
        ({"run": "a", "evaluation": 2}, lambda r: r.run == "a" and r.evaluation == 2),
        ({"level": Level.WARNING}, lambda r: r.outcome == "refused"),
        ({"level": Level.INFO}, lambda r: r.kind is not K.READ),
        ({"outcomes": (Outcome.REFUSED, Outcome.UNKNOWN)}, lambda r: r.outcome == "refused"),
        ({"kinds": (K.PUT, K.READ)}, lambda r: r.kind in (K.PUT, K.READ)),
        ({"exclude": (K.PUT, K.READ)}, lambda r: r.kind not in (K.PUT, K.READ)),
        ({"host": "elsewhere"}, lambda r: r.host == "elsewhere"),
        ({"user": "ada"}, lambda r: r.user == "ada"),
        ({"process": 77}, lambda r: r.process == 77),
        ({"since_ns": 10, "until_ns": 20}, lambda r: 10 <= r.time_ns < 20),
        (
            {"kinds": (K.PUT,), "run": "b", "pvs": ("Q:1",), "first": 10},
            lambda r: (r.kind, r.run, r.pv) == (K.PUT, "b", "Q:1") and r.line >= 10,
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_every_filter_gives_just_its_lines(
    journal: Journal, record_run: Any, words: dict[str, Any], expected: Callable[[Record], bool]
) -> None:
    record_run("a")
    record_run("b")
    journal.write(Record(kind=K.EVENT, host="elsewhere", user="ada", process=77, time_ns=15))
    everything = list(journal.records())
    found = list(journal.records(Query(**words)))
    assert found == [record for record in everything if expected(record)]
    assert 0 < len(found) < len(everything)
    backwards = list(journal.records(Query(**words, newest_first=True)))
    assert backwards == found[::-1]
    assert list(journal.records(Query(**words, limit=1))) == found[:1]


def test_more_lines_than_a_page(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("badger_k2eg.journal.lookup._PAGE", 7)
    journal.write(*[Record(kind=K.NOTE)] * 50)
    assert [r.line for r in journal.records()] == list(range(1, 52))
    assert [r.line for r in journal.records(Query(limit=20))] == list(range(1, 21))
    assert [r.line for r in journal.records(Query(newest_first=True))] == list(range(51, 0, -1))


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"pvs": ("Q:11",)}, "no line of the journal has the PV 'Q:11'; did you mean 'Q:1'?"),
        ({"host": "mars"}, "no line of the journal has the host 'mars'"),
        ({"user": "nobody-at-all"}, "no line of the journal has the user 'nobody-at-all'"),
    ],
)
def test_a_name_that_never_was_is_an_error(journal: Journal, run: str, ask: dict[str, Any], said: str) -> None:
    with pytest.raises(NoSuchRecord) as error:
        list(journal.records(Query(**ask)))
    assert str(error.value) == said


def test_words_of_a_user() -> None:
    assert query.kinds(["put", "run"]) == (K.PUT, K.RUN_BEGIN, K.RUN_END)
    assert query.outcomes(["not-sent", "APPLIED"]) == (Outcome.NOT_SENT, Outcome.APPLIED)
    assert query.level("Warning") is Level.WARNING
    for function, word, said in (
        (query.kinds, ["putt"], "there is no kind of line 'putt'; did you mean 'put'?"),
        (query.outcomes, ["aplied"], "there is no outcome 'aplied'; did you mean 'applied'?"),
        (query.level, "loud", "there is no level 'loud'; levels are debug, info, warning, error"),
    ):
        with pytest.raises(NoSuchRecord) as error:
            function(word)  # type: ignore[operator]
        assert str(error.value) == said


NOW = datetime(2026, 11, 21, 12, 30).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21 12:00", datetime(2026, 11, 21, 12).timestamp()),
        ("2026-11-21T12:00:00.5", datetime(2026, 11, 21, 12).timestamp() + 0.5),
        ("2026-11-21T12:00:00+00:00", 1795262400),
        ("2026-11-20", datetime(2026, 11, 20).timestamp()),
        ("9:15", datetime(2026, 11, 21, 9, 15).timestamp()),
        ("09:15:30", datetime(2026, 11, 21, 9, 15, 30).timestamp()),
        ("today", datetime(2026, 11, 21).timestamp()),
        ("Yesterday", datetime(2026, 11, 20).timestamp()),
        ("90min", NOW - 5400),
        ("2 h ago", NOW - 7200),
        ("1.5d", NOW - 129600),
        ("now", NOW),
    ],
)
def test_points_in_time(text: str, expected: float) -> None:
    assert query.moment(text, NOW) == pytest.approx(expected * 1e9, abs=1e3)


@pytest.mark.parametrize("text", ["tomorrow-ish", "", "25:00", "12:61", "2026-13-01", "5 parsecs ago"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(NoSuchRecord, match="is not a time; write 2026-11-21 12:00"):
        query.moment(text)


# -- following -------------------------------------------------------------------------------------------------------


def _take(lines: Iterator[Record], count: int) -> list[int]:
    return [next(lines).line for _ in range(count)]


def test_following_begins_before_the_first_run(open_journal: Callable[..., Journal]) -> None:
    seen: list[int] = []
    lines = open_journal().follow(deadline=Deadline(20.0))
    follower = threading.Thread(target=lambda: seen.extend(_take(lines, 2)), daemon=True)
    follower.start()
    clock.sleep(0.4)
    assert not seen
    open_journal().write(Record(kind=K.RUN_BEGIN, run="r"))
    follower.join(10.0)
    assert seen == [1, 2]


def test_following_goes_over_segments(open_journal: Callable[..., Journal]) -> None:
    reader, writer = open_journal(), open_journal(segment_size=300)
    for _ in range(4):
        last = writer.write(Record(kind=K.NOTE, message="x" * 200)).start
    lines = reader.follow(tail=3, deadline=Deadline(20.0))
    assert _take(lines, 3) == [last - 2, last - 1, last]
    more = [number for _ in range(5) for number in writer.write(Record(kind=K.NOTE, message="x" * 200))]
    assert more[-1] > last + 5
    assert _take(lines, more[-1] - last) == list(range(last + 1, more[-1] + 1))


def test_following_ends_on_cancel(journal: Journal) -> None:
    deadline = Deadline()
    deadline.cancel()
    assert list(journal.follow(deadline=deadline)) == []


# -- one PV, however it is called -------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["Q:1", "Q:1.VAL", "Q:1.", "ca://Q:1", "pva://Q:1.{}", "Q:?.VAL", "Q:[1-1]"])
def test_a_pv_is_found_by_any_spelling(asked: str, journal: Journal) -> None:
    for pv in ("Q:1", "Q:1.VAL", "pva://Q:1", "Q:1.HIHI", "Q:12", "Q[1]"):
        journal.write(Record(kind=K.READ, pv=pv, value=1.0))
    assert [record.pv for record in journal.records(Query(pvs=(asked,)))] == ["Q:1", "Q:1.VAL", "pva://Q:1"]


def test_brackets_ask_for_the_pv_of_that_name(journal: Journal) -> None:
    for pv in ("Q1", "Q[1]", "Q[1].VAL"):
        journal.write(Record(kind=K.READ, pv=pv, value=1.0))
    assert [record.pv for record in journal.records(Query(pvs=("Q[1]",)))] == ["Q[1]", "Q[1].VAL"]
    with pytest.raises(NoSuchRecord, match=r"did you mean 'Q\[1\]'"):
        list(journal.records(Query(pvs=("Q[2]",))))


def test_a_run_tells_of_a_pv_by_the_name_of_its_baseline(journal: Journal) -> None:
    begin = journal.write(Record(kind=K.RUN_BEGIN, run="one"), required=True).start
    told = {"name": "alias", "pv": "ALIAS", "data": {"record": "X"}}
    journal.write(Record(kind=K.BASELINE, run="one", pv="pva://X.VAL", value=0.5))
    journal.write(put("one", 1, "X", 1.0), Record(kind=K.EVENT, run="one", **told), put("one", 1, "ALIAS", 2.0))
    validators = {"setpoints": {"X.": 3.0}, "validators": {"X.": "v"}}
    journal.write(Record(kind=K.SET_BEGIN, run="one", data=validators))
    journal.write(Record(kind=K.RUN_END, run="one", begin=begin, name="success"), sync=True)
    run = journal.run("one")
    assert run.setpoints() == {"pva://X.VAL": 2.0} and list(run.baseline()) == ["pva://X.VAL"]
    assert {pv: record.asked for pv, record in run.history().last_written.items()} == {"pva://X.VAL": 3.0}
    assert run.history().validators == {"pva://X.VAL": "v"}
