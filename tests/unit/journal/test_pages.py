"""Going through a journal screen by screen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from badger_k2eg.core.records import RecordKind
from badger_k2eg.journal import Journal, Query
from badger_k2eg.journal.pager import Pages


@pytest.fixture
def pages(journal: Journal, record_run: Callable[..., str]) -> Pages:
    record_run("one")
    record_run("two")
    return Pages(journal, Query(), 5)


def test_pages_forward_and_back(pages: Pages) -> None:
    assert [record.line for record in pages.lines] == [1, 2, 3, 4, 5]
    assert pages.forward() and pages.here == 6
    assert pages.back() and pages.here == 1
    assert not pages.back() and pages.here == 1
    assert pages.end() and len(pages.lines) == 5
    last = pages.lines[-1].line
    assert not pages.forward() and pages.lines[-1].line == last
    assert pages.to_line(7) and pages.here == 7
    assert not pages.to_line(10_000) and pages.here == 7
    assert pages.start() and pages.here == 1


def test_from_event_to_event(pages: Pages) -> None:
    seen = []
    while (event := pages.next_event()) is not None:
        assert pages.here == event.start
        seen.append((event.kind, event.run, event.evaluation))
    assert seen == [
        (kind, run, number)
        for run in ("one", "two")
        for kind, number in (("run", None), ("evaluation", 1), ("evaluation", 2), ("evaluation", 3))
    ]
    back = pages.previous_event()
    assert back is not None and (back.run, back.evaluation, pages.here) == ("two", 2, back.start)
    pages.start()
    assert pages.previous_event() is None


def test_search_goes_on_in_both_directions(pages: Pages) -> None:
    def found() -> tuple[RecordKind, int | None]:
        return pages.lines[0].kind, pages.lines[0].evaluation

    assert pages.search("REFUSED") and found() == (RecordKind.PUT, 3)
    first = pages.here
    assert pages.search("refused") and pages.here > first
    assert not pages.search("refused")
    assert pages.search("refused", backwards=True) and pages.here == first
    assert not pages.search("elephant") and pages.here == first


def test_within_a_query(journal: Journal, pages: Pages) -> None:
    filtered = Pages(journal, Query(pvs=("BEAM",), run="two"), 2)
    assert [record.evaluation for record in filtered.lines] == [1, 2]
    assert filtered.forward() and [record.evaluation for record in filtered.lines] == [3]
    assert not Pages(journal, Query(run="three"), 5).lines
