"""A full disk, a place that cannot be written, a lock that is held: an error where it matters, else a warning."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from badger_k2eg.core.records import Record, RecordKind
from badger_k2eg.errors import JournalWriteError
from badger_k2eg.journal import Journal
from badger_k2eg.journal.segments import listed

from .segment_lines import SAY, lines_of, numbers, rows_fit

K = RecordKind


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes: for a write, that is a full disk.

    Only inside: what the test session itself writes may be a long file, too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_is_an_error_for_a_baseline_and_leaves_nothing_of_it(journal: Journal, folder: Path) -> None:
    journal.write(SAY)
    path = listed(folder)[0].path
    before = path.read_bytes()
    baseline = [Record(kind=K.BASELINE, pv=f"Q:{number}", value=1.0) for number in range(20)]
    # For a part of what comes.
    with (
        room(len(before) + 300),
        pytest.raises(JournalWriteError, match=f"the journal in {folder} cannot be written: File too large"),
    ):
        journal.write(*baseline, required=True, sync=True)
    assert path.read_bytes() == before
    assert journal.write(*baseline, required=True) == range(3, 23)


def test_later_the_run_goes_on_with_one_warning_and_the_journal_resumes(
    journal: Journal, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal.write(SAY)
    size = listed(folder)[0].path.stat().st_size
    with caplog.at_level(logging.INFO, logger="badger_k2eg"):
        with room(size + 10):
            for _ in range(3):
                assert journal.write(SAY, SAY) == range(0)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "its lines are lost until it can be" in caplog.text
        assert journal.write(SAY) == range(4, 5)
    assert caplog.records[-1].getMessage().endswith("can be written again; 6 lines were lost")
    lost = lines_of(folder)[2]
    assert (lost.kind, lost.line, lost.data) == (K.LOST, 3, {"lines": 6})
    assert numbers(folder) == [1, 2, 3, 4]


def test_by_setting_every_line_is_required(open_journal: Callable[..., Journal], folder: Path) -> None:
    journal = open_journal(on_error="raise")
    journal.write(SAY)
    size = listed(folder)[0].path.stat().st_size
    with room(size + 10), pytest.raises(JournalWriteError, match="File too large"):
        journal.write(SAY)


def test_no_room_from_the_start(journal: Journal, folder: Path) -> None:
    with room(10), pytest.raises(JournalWriteError, match="File too large"):
        journal.write(SAY, required=True)
    assert journal.write(SAY, required=True).start == 1
    assert rows_fit(folder) and numbers(folder) == [1]


def test_a_torn_line_that_cannot_be_closed_for_want_of_room_is_closed_later(
    open_journal: Callable[..., Journal], folder: Path
) -> None:
    journal = open_journal()
    journal.write(SAY)
    path = listed(folder)[0].path
    with path.open("ab") as file:
        file.write(b'{"v":1,"line":3,"ti')
    size = path.stat().st_size
    for _ in range(2):
        with room(size + 20), pytest.raises(JournalWriteError):
            journal.write(SAY, required=True)
    assert journal.write(SAY) == range(5, 6)
    assert [record.kind for record in journal.records()] == [K.SEGMENT_BEGIN, K.NOTE, K.TORN, K.NOTE]


def test_without_room_for_an_index_every_segment_is_read(
    journal: Journal, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal.write(SAY, SAY)
    with room(5000):
        assert [record.line for record in journal.records()] == [1, 2, 3]
    (warning,) = caplog.records
    assert "every segment is read instead" in warning.getMessage()


def test_a_file_system_without_locks_is_refused_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object, **named: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    with pytest.raises(JournalWriteError, match=f"the journal in {folder} cannot be written: No locks available$"):
        Journal(folder).write(SAY, required=True)


def test_a_place_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = Journal(tmp_path / "file" / "journal")
    with pytest.raises(JournalWriteError, match=r"cannot be written: Not a directory$"):
        journal.write(SAY, required=True)


def test_a_writer_that_hangs_does_not_hang_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("badger_k2eg.journal.writer._PATIENCE", 0.2)
    journal = Journal(folder)
    journal.write(SAY)
    with filelock.FileLock(folder / "journal.lock"):
        with pytest.raises(JournalWriteError, match="another process has held its lock for seconds"):
            journal.write(SAY, required=True)
    assert journal.write(SAY).start == 3
    journal.close()
