"""The index: thrown away, damaged, locked, stale or of another version, the answers are the same."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.core.records import Record, RecordKind, to_line
from badger_k2eg.errors import JournalError
from badger_k2eg.journal import Journal, Query
from badger_k2eg.journal.segments import listed

K = RecordKind
Make = Callable[..., Journal]


def answers(journal: Journal) -> tuple[Any, ...]:
    return (
        [record.line for record in journal.records()],
        [record.line for record in journal.records(Query(pvs=("Q:*",)))],
        [(run.id, run.event.start, run.event.end, run.reason) for run in journal.runs()],
        [(event.kind, event.start, event.end) for event in journal.events()],
    )


@pytest.fixture
def filled(open_journal: Make, record_run: Callable[..., str]) -> tuple[Any, ...]:
    record_run("one")
    record_run("two", end=None)
    return answers(open_journal())


@pytest.fixture
def index(folder: Path) -> Path:
    return folder / "index.sqlite3"


def test_deleted_it_is_made_again(
    open_journal: Make, filled: tuple[Any, ...], index: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index.unlink()
    journal = open_journal()
    assert answers(journal) == filled
    assert index.is_file()
    index.unlink()  # and once more, under who has it open
    journal.write(Record(kind=K.NOTE))
    assert answers(journal)[2] == filled[2] and answers(journal)[3][:-1] == filled[3]
    assert index.is_file() and not caplog.records


def test_reindexed_it_gives_the_same_answers(open_journal: Make, filled: tuple[Any, ...]) -> None:
    journal = open_journal()
    assert journal.reindex() == len(filled[0])
    assert answers(journal) == filled


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"this is no database, but long enough to look like one" * 50),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + os.urandom(path.stat().st_size - 4096)),
        lambda path: path.write_bytes(b""),
    ],
    ids=["rubbish", "cut", "random pages", "empty"],
)
def test_damaged_it_is_made_anew_with_one_warning_at_most(
    open_journal: Make,
    filled: tuple[Any, ...],
    index: Path,
    spoil: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(index)
    assert answers(open_journal()) == filled
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 1
    assert sqlite3.connect(index).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_of_another_version_it_is_made_anew_in_silence(
    open_journal: Make, filled: tuple[Any, ...], index: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE meta SET value = 'of tomorrow'")
    database.close()
    assert answers(open_journal()) == filled
    assert not caplog.records


def test_locked_every_segment_is_read_instead_with_one_warning(
    open_journal: Make,
    filled: tuple[Any, ...],
    index: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("badger_k2eg.journal.index._PATIENCE", 0.1)
    holder = sqlite3.connect(index, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        journal = open_journal()
        assert answers(journal) == filled
        (warning,) = caplog.records
        assert "is locked); every segment is read instead" in warning.getMessage()
        assert journal.index_path is None
        line = journal.write(Record(kind=K.NOTE, message="more")).start
        assert [record.line for record in journal.records(Query(first=line))] == [line], "it follows what is written"
    finally:
        holder.close()


def test_in_a_directory_that_is_only_read_it_is_kept_in_the_users_cache(
    open_journal: Make, filled: tuple[Any, ...], folder: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.unlink()
    monkeypatch.setattr("badger_k2eg.journal.settings.os.access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    journal = open_journal()
    assert answers(journal) == filled
    assert journal.index_path is not None and journal.index_path.parent == folder.parent / "cache" / "badger-k2eg"
    assert journal.index_path.is_file() and not index.exists()


def test_it_never_uses_wal(open_journal: Make, filled: tuple[Any, ...], index: Path) -> None:
    assert sqlite3.connect(index).execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert not list(index.parent.glob("*-wal"))


def test_what_others_write_is_found_and_what_is_removed_is_forgotten(open_journal: Make, folder: Path) -> None:
    reader, writer = open_journal(), open_journal(segment_size=500)
    for _ in range(10):
        writer.write(Record(kind=K.NOTE, message="x" * 100))
        assert [record.line for record in reader.records()][-1] == writer.write(Record(kind=K.NOTE)).start - 1
    first = listed(folder)[0]
    first.path.unlink()
    assert next(reader.records()).line == listed(folder)[0].first


def test_a_torn_line_is_not_seen_until_it_is_whole(open_journal: Make, folder: Path) -> None:
    journal = open_journal()
    journal.write(Record(kind=K.NOTE))
    text = to_line(Record(kind=K.NOTE, line=3, message="later"))
    path = listed(folder)[0].path
    for piece, seen in ((text[:10], 2), (text[10:-1], 2), (text[-1:], 3)):
        with path.open("ab") as file:
            file.write(piece)
        assert len(list(journal.records())) == seen


# -- changed by hand -------------------------------------------------------------------------------------------------


def warned(caplog: pytest.LogCaptureFixture) -> str:
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return warning.getMessage()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"asked":1.25', b'"asked":1.26', "line 7 was edited by hand: its checksum does not match"),
        (b'"asked":1.25', b'"asked":111.25', "line 7 was edited by hand: its checksum does not match"),
        (b'{"v":1,"line":7', b'{{"v":1,"line":7', "line 7 is not a record: torn, or edited by hand"),
    ],
    ids=["same length", "longer", "no JSON"],
)
def test_a_line_edited_by_hand_is_told_in_one_line(
    open_journal: Make,
    filled: tuple[Any, ...],
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    old: bytes,
    new: bytes,
    said: str,
) -> None:
    path = listed(folder)[0].path
    text = path.read_bytes()
    path.write_bytes(text.replace(old, new, 1))
    found = list(open_journal().records())
    assert warned(caplog) == f"{path}: {said}"
    assert [record.intact for record in found].count(False) == ("checksum" in said)
    lines = [record.line for record in found]
    assert lines == [line for line in filled[0] if line != 7 or "checksum" in said]


def test_lines_taken_out_and_put_in_by_hand_are_told(
    open_journal: Make, filled: tuple[Any, ...], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = listed(folder)[0].path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:8] + lines[10:]))
    assert len(list(open_journal().records())) == len(lines) - 2
    assert warned(caplog) == f"{path}: line 9 is missing, as are all up to 10"
    caplog.clear()
    path.write_bytes(b"".join([*lines[:8], lines[3], *lines[8:]]))
    assert len(list(open_journal().records())) == len(lines)
    assert warned(caplog) == f"{path}: line 9 repeats line 4"


def test_an_event_that_began_before_a_changed_segment_keeps_its_end(
    open_journal: Make, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal(segment_size=400)
    begin = journal.write(Record(kind=K.RUN_BEGIN, run="r")).start
    for number in range(6):
        journal.write(Record(kind=K.NOTE, message=f"note {number} {'x' * 100}"))
    end = journal.write(Record(kind=K.RUN_END, run="r", begin=begin, name="success")).start
    before = journal.events(("run",))
    assert (before[0].start, before[0].end) == (begin, end + 1)
    path = listed(folder)[2].path
    path.write_bytes(path.read_bytes().replace(b"note", b"NOTE"))
    assert journal.events(("run",)) == before
    assert "edited by hand" in warned(caplog)


def test_a_journal_of_a_newer_version_is_one_line(open_journal: Make, folder: Path) -> None:
    open_journal().write(Record(kind=K.NOTE))
    path = listed(folder)[0].path
    with path.open("ab") as file:
        file.write(to_line(Record(kind=K.NOTE, line=3)).replace(b'"v":1', b'"v":9'))
    with pytest.raises(JournalError) as error:
        list(open_journal().records())
    said = f"{path}: a newer version of badger-k2eg wrote it (schema 9, and this version knows 1); update this one"
    assert str(error.value) == said


def test_an_archive_is_a_journal_of_its_own(open_journal: Make, filled: tuple[Any, ...], folder: Path) -> None:
    journal = open_journal()
    moved = journal.archive(force=True)
    assert [path.parent for path in moved] == [folder / "archive"]
    assert journal.runs() == []
    there = Journal(folder / "archive")
    assert answers(there)[2] == filled[2]
    there.close()
    assert journal.write(Record(kind=K.NOTE)).start > filled[0][-1]


def test_while_a_run_goes_on_nothing_is_archived(open_journal: Make, filled: tuple[Any, ...], folder: Path) -> None:
    with pytest.raises(JournalError, match="run two is still going: archive after its end"):
        open_journal().archive()
    assert not (folder / "archive").exists()


def test_a_copy_elsewhere_gives_the_same_answers(filled: tuple[Any, ...], folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    copy = Journal(tmp_path / "copy")
    assert answers(copy) == filled
    copy.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_through_an_index_of_its_own(
    open_journal: Make, filled: tuple[Any, ...], folder: Path
) -> None:
    journal = open_journal()
    assert answers(journal) == filled
    child = os.fork()
    if child == 0:
        journal.write(Record(kind=K.NOTE, message="of the child"))
        same = answers(journal)[2] == filled[2] and journal.index_path == folder / "index.sqlite3"
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [record.message for record in journal.records()][-1] == "of the child"


def test_a_journal_that_is_not_there_leaves_nothing_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    journal = Journal(tmp_path / "none")
    assert journal.runs() == [] and list(journal.records()) == [] and journal.reindex() == 0
    assert list(tmp_path.iterdir()) == []
