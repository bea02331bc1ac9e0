"""What the record of a run costs, and how quickly it is found again.

``FULL=1`` in the environment asks among ten million lines in place of one (some minutes, 3 GB).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from badger_k2eg.core.model import Outcome, PutResult, PvAddress, Reading, SetReport
from badger_k2eg.core.records import Record, RecordKind
from badger_k2eg.journal import Journal, JournalSettings, Query
from badger_k2eg.run.recorder import Recorder

from .board import Board, Figure, is_full
from .rounds import take_turns

GROUP = "journal"
OPERATION_TARGET_MS = 1.0
"""For each PV of a set of 100."""
QUERY_TARGET_MS = 100.0

_PVS = [f"QUAD:LI{sector}:{number}:BCTRL" for sector in range(10) for number in range(100)]
_BATCH = 1000
_RUNS = 100


@pytest.mark.parametrize("count", [1, 100, 1000])
def test_cost_of_a_pv_operation(board: Board, tmp_path: Path, count: int) -> None:
    """As a set records it: what is asked, each attempt, what became of each, and a read of each."""
    journal = Journal(tmp_path)
    recorder = Recorder(journal, journal.new_run_id())
    recorder.evaluation = 1
    reading = Reading(1.25, units="kG", timestamp_ns=time.time_ns())
    results = [
        PutResult(pv, 1.25, Outcome.APPLIED, attempts=1, seconds=0.01, before=reading, readback=reading)
        for pv in _PVS[:count]
    ]
    addresses = {pv: PvAddress.parse(pv) for pv in _PVS[:count]}
    report = SetReport(tuple(results))
    asked = {result.pv: result.asked for result in results}

    def one_set() -> None:
        recorder.set_began(asked)
        # All of them at once, as a parallel set does.
        recorder.puts_attempted({addresses[result.pv]: result for result in results})
        recorder.set_finished(report)
        recorder.read_finished(dict.fromkeys(asked, reading))

    rounds = 3 if board.short else max(10, 2000 // count)
    taken = take_turns({"journal": one_set}, rounds)["journal"]
    journal.close()
    board.add(
        Figure(
            GROUP,
            f"per PV of a set and a read of {count} PVs",
            taken.median * 1e3 / count,
            "ms",
            target=OPERATION_TARGET_MS if count == 100 else None,
            samples=rounds,
            more={"set_ms": taken.median * 1e3, "longest_set_ms": taken.most * 1e3},
        )
    )


@pytest.fixture(scope="module")
def lines() -> int:
    if is_full():
        return 10_000_000
    return 50_000 if os.environ.get("BENCH", "") == "short" else 1_000_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, lines: int) -> Iterator[Journal]:
    """A journal of so many lines in a hundred runs, without an index yet."""
    journal = Journal(tmp_path_factory.mktemp("journal"), JournalSettings(keep_size=None))
    for number in range(_RUNS):
        run = f"20260101-{number:06d}"
        begin = journal.write(Record(kind=RecordKind.RUN_BEGIN, run=run)).start
        for first in range(0, lines // _RUNS, _BATCH):
            evaluation = first // _BATCH + 1
            journal.write(
                *(
                    Record(
                        kind=RecordKind.PUT,
                        run=run,
                        evaluation=evaluation,
                        pv=_PVS[(first + row) % len(_PVS)],
                        asked=1.25,
                        outcome=Outcome.APPLIED,
                        attempt=1,
                        duration=0.01,
                    )
                    for row in range(_BATCH)
                )
            )
        journal.write(Record(kind=RecordKind.RUN_END, run=run, begin=begin, name="success"))
    yield journal
    journal.close()
    for path in journal.directory.iterdir():
        path.unlink()  # gigabytes, which pytest would keep


@pytest.mark.timeout(3600)
def test_reindex(board: Board, large: Journal, lines: int) -> None:
    began = time.perf_counter()
    count = large.reindex()
    seconds = time.perf_counter() - began
    assert count > lines
    more = {"seconds": seconds, "lines": count}
    board.add(Figure(GROUP, f"reindex of {lines:,} lines", count / seconds / 1e3, "thousand lines/s", more=more))


@pytest.mark.timeout(3600)
def test_query(board: Board, large: Journal, lines: int) -> None:
    """The first 1,000 rows, by what a user knows of them; the index is there."""
    assert next(large.records(Query(limit=1))).line == 1  # makes the index, where it is asked for alone
    middle = lines // 2
    run = f"20260101-{_RUNS // 2:06d}"
    queries = {
        "a range of lines": Query(first=middle, end=middle + 5000, limit=1000),
        "a PV": Query(pvs=(_PVS[7],), limit=1000),
        "PVs by pattern": Query(pvs=("QUAD:LI3:*",), limit=1000),
        "a run": Query(run=run, limit=1000),
        "a PV in a run": Query(run=run, pvs=(_PVS[7],), limit=1000),
        "the newest": Query(limit=1000, newest_first=True),
    }

    def way(query: Query) -> Callable[[], object]:
        return lambda: sum(1 for _ in large.records(query))

    ways = {name: way(query) for name, query in queries.items()}
    assert all(ask() for ask in ways.values())
    taken = take_turns(ways, 3 if board.short else 15)
    for name, series in taken.items():
        figure = Figure(
            GROUP,
            f"first 1,000 rows of {lines:,} by {name}",
            series.median * 1e3,
            "ms",
            target=QUERY_TARGET_MS,
            samples=len(series.seconds),
            more={"longest_ms": series.most * 1e3},
        )
        board.add(figure)
