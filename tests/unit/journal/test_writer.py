"""Appending: numbers unique and rising whatever happens, torn lines mended, nothing half written."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from badger_k2eg.core.records import SCHEMA, Record, RecordKind, from_line, to_line
from badger_k2eg.errors import JournalWriteError
from badger_k2eg.journal import Journal, JournalSettings
from badger_k2eg.journal.segments import listed, name_of, tail_of
from badger_k2eg.journal.writer import Writer

from .segment_lines import SAY, lines_of, numbers, rows_fit

K = RecordKind


def test_a_journal_leaves_nothing_before_its_first_write(journal: Journal, folder: Path) -> None:
    assert journal.runs() == [] and list(journal.records()) == []
    assert not [path for path in folder.glob("*") if path.suffix == ".ndjson"]


def test_lines_are_numbered_from_one_and_a_batch_follows_on(journal: Journal, folder: Path) -> None:
    assert journal.write(SAY) == range(2, 3)  # 1 says who began the segment
    assert journal.write(SAY, SAY, SAY) == range(3, 6)
    assert journal.write() == range(0)
    assert numbers(folder) == [1, 2, 3, 4, 5]
    first, second, *_ = lines_of(folder)
    assert (first.kind, first.data) == (K.SEGMENT_BEGIN, {"schema": SCHEMA, "package": first.data["package"]})  # type: ignore[index]
    assert second.process == os.getpid() and second.host and second.user and second.time_ns > 1e18


def test_numbers_go_on_after_a_restart(open_journal: Callable[..., Journal], folder: Path) -> None:
    for expected in (2, 3, 4):
        journal = open_journal()
        assert journal.write(SAY).start == expected
        journal.close()
        journal.close()
    assert journal.write(SAY).start == 5, "a closed one opens again"


def test_two_journals_in_turn_never_give_a_number_twice(open_journal: Callable[..., Journal], folder: Path) -> None:
    one, other = open_journal(segment_size=600), open_journal(segment_size=600)
    given = [line for _ in range(40) for journal in (one, other, other) for line in journal.write(SAY, SAY)]
    assert given == sorted(set(given))
    assert len(listed(folder)) > 5
    assert rows_fit(folder) and numbers(folder) == list(range(1, numbers(folder)[-1] + 1))


def test_many_threads_of_one_process(journal: Journal, folder: Path) -> None:
    threads = [
        threading.Thread(target=lambda: [journal.write(SAY, SAY) for _ in range(50)], daemon=True) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert numbers(folder) == list(range(1, 402))


# -- rotation --------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000 * 10**9

    def __call__(self) -> int:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(folder: Path, clock: Clock) -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def make(**settings: object) -> Writer:
        made.append(Writer(folder, JournalSettings.model_validate(settings), clock=clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_segment_is_changed_by_size_and_by_age(writer: Callable[..., Writer], clock: Clock, folder: Path) -> None:
    write = writer(segment_size=1000, segment_age=3600).write
    write([SAY])
    clock.step(3599)
    write([SAY])
    assert len(listed(folder)) == 1
    clock.step(2)
    assert write([SAY]).start == 6, "4 closes the one segment, 5 begins the other"
    assert len(listed(folder)) == 2
    for _ in range(10):
        write([SAY])
    assert len(listed(folder)) > 2
    assert rows_fit(folder)
    assert all(segment.path.stat().st_size < 1500 for segment in listed(folder))


def test_the_clock_may_go_back(writer: Callable[..., Writer], clock: Clock, folder: Path) -> None:
    write = writer(segment_size=600, segment_age=86400).write
    for _ in range(5):
        write([SAY])
        clock.step(-5000)
    assert numbers(folder) == list(range(1, numbers(folder)[-1] + 1))
    begun = [segment.begun for segment in listed(folder)]
    assert begun == sorted(begun, reverse=True) and len(begun) > 2
    told = [record for record in lines_of(folder) if record.name == "clock"]
    assert len(told) == 4 and told[0].message == "the clock went back by 5000 s"


def test_old_segments_go_by_size_and_by_age(writer: Callable[..., Writer], clock: Clock, folder: Path) -> None:
    write = writer(segment_size=500, keep_size=2000).write
    for _ in range(100):
        write([SAY])
    sizes = [segment.path.stat().st_size for segment in listed(folder)[:-1]]
    assert 1000 < sum(sizes) <= 2000
    assert listed(folder)[0].first > 100
    for segment in listed(folder)[:-1]:
        os.utime(segment.path, (1, 1))
    aged = writer(segment_size=500, keep_days=2).write
    for _ in range(3):
        aged([SAY])
    assert all(segment.path.stat().st_mtime > 1 for segment in listed(folder))


def test_files_are_open_to_whom_the_directory_is(folder: Path, open_journal: Callable[..., Journal]) -> None:
    folder.mkdir()
    folder.chmod(0o2770)
    journal = open_journal()
    journal.write(SAY)
    assert len(list(journal.records())) == 2
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {listed(folder)[0].path.name: 0o660, "journal.lock": 0o660, "index.sqlite3": 0o660}


# -- torn lines, edited files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 20, 200])
def test_a_torn_line_is_closed_and_marked_and_nothing_of_ones_own_is_lost(
    open_journal: Callable[..., Journal], folder: Path, keep: int
) -> None:
    survivor, other = open_journal(), open_journal()
    survivor.write(SAY)
    other.write(SAY)
    path = listed(folder)[0].path
    torn = to_line(Record(kind=K.PUT, line=4, pv="Q:1", message="y" * 300))[:keep]
    with path.open("ab") as file:
        file.write(torn)
    assert survivor.write(SAY, SAY) == range(6, 8)
    records = path.read_bytes().splitlines()
    assert records[3] == torn
    mark = from_line(records[4])
    assert (mark.kind, mark.line, mark.data) == (K.TORN, 5, {"bytes": keep})
    assert mark.message == f"line 4 is torn: its writer died after {keep} bytes of it"
    assert other.write(SAY) == range(8, 9)


def test_a_line_that_lacks_only_its_newline_is_whole(open_journal: Callable[..., Journal], folder: Path) -> None:
    open_journal().write(SAY)
    path = listed(folder)[0].path
    with path.open("ab") as file:
        file.write(to_line(Record(kind=K.NOTE, line=3, message="almost"))[:-1])
    assert open_journal().write(SAY) == range(4, 5)
    assert [record.kind for record in lines_of(folder)] == [K.SEGMENT_BEGIN, K.NOTE, K.NOTE, K.NOTE]


def test_a_number_edited_by_hand_is_not_believed(open_journal: Callable[..., Journal], folder: Path) -> None:
    journal = open_journal()
    journal.write(SAY, SAY, SAY)
    path = listed(folder)[0].path
    path.write_bytes(path.read_bytes().replace(b'"line":4', b'"line":9999'))
    assert journal.write(SAY).start == 5
    path.write_bytes(path.read_bytes() + b"scribble\n\n")
    assert open_journal().write(SAY).start == 8, "each full line has a number, whatever it says"


def test_a_directory_that_is_taken_away_is_made_again(journal: Journal, folder: Path) -> None:
    last = journal.write(SAY, SAY).stop - 1
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert journal.write(SAY).start > last
    assert rows_fit(folder)


def test_lines_that_were_taken_away_are_no_reason_for_a_number_twice(journal: Journal, folder: Path) -> None:
    last = journal.write(SAY, SAY, SAY).stop - 1
    path = listed(folder)[0].path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert journal.write(SAY).start == last + 2, "one begins a segment, so that rows and numbers fit"
    assert [segment.first for segment in listed(folder)] == [1, last + 1]


def test_a_closed_segment_whose_successor_was_never_made(open_journal: Callable[..., Journal], folder: Path) -> None:
    open_journal().write(SAY)
    with listed(folder)[0].path.open("ab") as file:
        file.write(to_line(Record(kind=K.SEGMENT_END, line=3)))
    assert open_journal().write(SAY).start == 5
    (folder / name_of(6, time.time_ns())).touch()  # killed before its first line
    assert open_journal().write(SAY).start == 6
    assert rows_fit(folder)


def test_the_end_of_a_segment_is_found_behind_very_long_lines(tmp_path: Path) -> None:
    path = tmp_path / "x"
    long = Record(kind=K.SAMPLE, line=1, value=np.zeros(50_000))
    text = to_line(long) + b"bad\n" + b"z" * 200_000
    path.write_bytes(text)
    with path.open("rb") as file:
        tail = tail_of(file.fileno(), len(text))
    assert tail.last is not None
    assert (tail.last.line, tail.lines, tail.torn, tail.next_line(1)) == (1, 1, 200_000, 3)


def test_a_segment_of_a_newer_version_is_not_written_to(open_journal: Callable[..., Journal], folder: Path) -> None:
    folder.mkdir()
    newer = to_line(Record(kind=K.NOTE, line=1)).replace(b'"v":1', b'"v":2')
    (folder / name_of(1, 10**18)).write_bytes(newer)
    with pytest.raises(JournalWriteError, match=r"a newer version of badger-k2eg wrote it \(schema 2"):
        open_journal().write(SAY, required=True)
    assert listed(folder)[0].path.read_bytes() == newer


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_writes_with_a_handle_of_its_own(journal: Journal, folder: Path) -> None:
    journal.write(SAY)
    parent = journal._writer._handle
    child = os.fork()
    if child == 0:
        inherited = journal._writer._handle
        done = journal.write(SAY, SAY) == range(3, 5) and inherited is None
        os._exit(0 if done else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert journal._writer._handle == parent
    assert journal.write(SAY) == range(5, 6)
    assert [record.process == child for record in lines_of(folder)] == [False, False, True, True, False]


def _write_many(folder: Path, count: int) -> None:
    journal = Journal(folder, JournalSettings(segment_size=4000))
    for _ in range(count):
        journal.write(SAY, SAY)
    journal.close()


@pytest.mark.slow
def test_processes_write_at_once_over_many_segments(folder: Path, open_journal: Callable[..., Journal]) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(folder, 150)) for _ in range(2)]
    for process in processes:
        process.start()
    archived = 0
    while any(process.is_alive() for process in processes):
        archived += len(open_journal().archive())
    for process in processes:
        process.join(30.0)
        assert process.exitcode == 0
    found = numbers(folder / "archive") + numbers(folder)
    assert archived > 3
    assert found == list(range(1, found[-1] + 1))
    said = [record for record in lines_of(folder / "archive") + lines_of(folder) if record.kind is K.NOTE]
    assert len(said) == 600
