"""``Index``: finds lines quickly. It is built from the segments, and can be deleted at any time.

One SQLite file, with a rollback journal (WAL does not work on network file systems). If it is missing, stale, damaged
or of another version, it is rebuilt; if that fails (locked, disk full), it is built in memory for this process, which
takes time and gives the same answers. What a line means is defined in ``core/records.py``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..core import fork
from ..core.records import RecordKind
from . import segments
from .index_tables import SCHEMA, SECONDARY, Indexing, stored
from .segments import Segment

T = TypeVar("T")

logger = logging.getLogger("badger_k2eg")

#: Seconds to wait for another process that updates the same index.
_PATIENCE = 2.0
# A kind is stored as its position in this list.
VERSION = "1 " + " ".join(RecordKind)

#: Connections inherited by a fork: never used and never closed, because their locks are the parent's.
_inherited: list[sqlite3.Connection] = []


class _OtherVersionError(sqlite3.DatabaseError):
    """The tables were made by another version of this package."""


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a line in its segment."""

    line: int
    path: Path
    offset: int
    size: int


class Index:
    """Finds lines of the journal in one directory. Safe to use from many threads.

    :param path: returns the file to keep it in; None keeps it in memory.
    :param whole: whether every line number must exist; an export has only those of one run.
    """

    def __init__(self, directory: Path, path: Callable[[], Path] | None, *, whole: bool = True) -> None:
        """Remember the paths; nothing is opened yet."""
        self._directory = directory
        self._locate = path
        self._place: Path | None = None
        self._whole = whole
        self._database: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._in_memory = path is None
        self._lock = fork.Lock()
        self._warned: set[str] = set()
        fork.register(self)

    def before_fork(self) -> None:
        """Do nothing: the lock waits until no thread is inside."""

    def after_fork_in_parent(self) -> None:
        """Do nothing: nothing was closed."""

    def after_fork_in_child(self) -> None:
        """Set the parent's connection aside; the next question opens a new one."""
        if self._database is not None:
            _inherited.append(self._database)
            self._database = None

    # -- asking ---------------------------------------------------------------------------------------------------

    def ask(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Bring the index up to date, and return the rows of a query.

        :raises JournalError: for a journal of a newer version.
        """
        return self._run(lambda database: database.execute(sql, list(map(stored, values))).fetchall())

    def places(self, sql: str, values: Sequence[Any] = ()) -> list[Place]:
        """Return the lines of a query that selects line, segment, offset and size."""

        def look(database: sqlite3.Connection) -> list[Place]:
            paths = {key: self._directory / name for key, name in database.execute("SELECT id, name FROM segments")}
            return [
                Place(row[0], paths[row[1]], row[2], row[3]) for row in database.execute(sql, list(map(stored, values)))
            ]

        return self._run(look)

    def rebuild(self) -> int:
        """Delete the index and build it from the segments.

        :returns: how many lines it has.
        """
        with self._lock:
            self._drop()
        return int(self.ask("SELECT count(*) FROM records")[0][0])

    @property
    def path(self) -> Path | None:
        """The file that it is kept in; None while it is in memory."""
        return None if self._in_memory else self._path

    @property
    def _path(self) -> Path:
        if self._place is not None:
            return self._place
        assert self._locate is not None  # noqa: S101 - asked for only where it is kept in a file
        place = self._locate()
        if self._directory.is_dir():
            # Once: the file system of a directory is read from the table of mounts.
            self._place = place
        return place

    def close(self) -> None:
        """Close the file; the next question opens it again."""
        with self._lock:
            self._close()

    def _run(self, look: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if not self._directory.is_dir():
                # There is nothing to find, and nothing may be left on disk.
                with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as nothing:
                    self._create(nothing)
                    return look(nothing)
            for attempt in range(3):
                try:
                    database = self._open()
                    self._update(database)
                    for (damage,) in database.execute("SELECT damage FROM segments WHERE damage IS NOT NULL"):
                        self._warn(damage)
                    return look(database)
                except sqlite3.DatabaseError as error:
                    self._close()
                    if attempt == 2:
                        raise
                    self._recover(error, last=attempt == 1)
        raise AssertionError("unreachable")

    # -- opening --------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._in_memory:
            return self._database or self._made(":memory:")
        path = self._path
        if self._database is not None:
            if _identity(path) == self._identity:
                return self._database
            # Deleted or rebuilt by another process: SQLite would go on with the old file.
            self._close()
        with contextlib.suppress(OSError):  # SQLite reports what is wrong
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                # With the permissions of the directory, like the segments.
                path.touch()
                path.chmod(path.parent.stat().st_mode & 0o666 | 0o600)
        self._identity = _identity(path)
        return self._made(path)

    def _made(self, path: Path | str) -> sqlite3.Connection:
        database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        self._database = database
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("PRAGMA synchronous = NORMAL")
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if tables:
            with contextlib.suppress(sqlite3.OperationalError):
                if database.execute("SELECT value FROM meta WHERE key = 'version'").fetchall() == [(VERSION,)]:
                    return database
            raise _OtherVersionError
        return database

    def _create(self, database: sqlite3.Connection) -> bool:
        """Create the tables, inside a transaction; return whether they were missing."""
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return False
        for statement in SCHEMA:
            database.execute(statement)
        database.execute("INSERT INTO meta VALUES ('version', ?)", (VERSION,))
        return True

    def _recover(self, error: sqlite3.DatabaseError, *, last: bool) -> None:
        """Drop an index that cannot be used, or go on in memory."""
        held = isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error)
        if held or last:
            self._warn(f"the index {self._path} cannot be used ({error}); every segment is read instead")
            self._in_memory = True
        else:
            if not isinstance(error, _OtherVersionError):
                self._warn(f"the index {self._path} is damaged ({error}); it is rebuilt")
            self._drop()

    def _drop(self) -> None:
        self._close()
        self._in_memory = self._locate is None
        if self._in_memory:
            return
        with contextlib.suppress(OSError):
            for ending in ("", "-journal"):
                Path(f"{self._path}{ending}").unlink(missing_ok=True)

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)

    # -- following the segments -----------------------------------------------------------------------------------

    def _update(self, database: sqlite3.Connection) -> None:
        """Add new lines, forget removed segments, and read changed ones again."""
        found = segments.listed(self._directory)
        made = bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone())
        if made and not self._news(database, found):
            return
        database.execute("BEGIN IMMEDIATE")
        try:
            fresh = self._create(database)
            self._forget(database, found)
            known = {row[0]: row[1:] for row in database.execute("SELECT name, id, bytes FROM segments")}
            indexing = Indexing(database, whole=self._whole)
            for segment in found:
                with contextlib.suppress(FileNotFoundError):  # retired meanwhile
                    key, offset = known.get(segment.path.name, (None, 0))
                    indexing.take(segment, key, offset)
            if fresh:
                for statement in SECONDARY:
                    database.execute(statement)
            database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise

    def _news(self, database: sqlite3.Connection, found: Iterable[Segment]) -> bool:
        known = {row[0]: row[1:] for row in database.execute("SELECT name, size, mtime FROM segments")}
        present = {}
        for segment in found:
            with contextlib.suppress(FileNotFoundError):
                status = segment.path.stat()
                present[segment.path.name] = (status.st_size, status.st_mtime_ns)
        return present != known

    def _forget(self, database: sqlite3.Connection, found: Sequence[Segment]) -> None:
        """Drop segments that no longer exist, and everything from the first one that was changed by hand."""
        present = {segment.path.name: segment for segment in found}
        changed: int | None = None
        rows = database.execute("SELECT id, name, first, lines, bytes, size, mtime, tail FROM segments ORDER BY first")
        for key, name, first, lines, *known in rows.fetchall():
            if name not in present:
                for table, column in (("records", "line"), ("events", "start")):
                    database.execute(
                        f"DELETE FROM {table} WHERE {column} >= ? AND {column} < ?", (first, first + lines)
                    )
                database.execute("DELETE FROM segments WHERE id = ?", (key,))
            elif changed is None and not _is_same(present[name].path, *known):
                changed = first
        if changed is not None:
            database.execute("DELETE FROM records WHERE line >= ?", (changed,))
            database.execute("DELETE FROM events WHERE start >= ?", (changed,))
            database.execute('UPDATE events SET "end" = NULL, ended = NULL, reason = NULL WHERE "end" > ?', (changed,))
            database.execute("DELETE FROM segments WHERE first >= ?", (changed,))


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_same(path: Path, known: int, size: int, mtime: int, tail: bytes) -> bool:
    """Whether a segment is unchanged or has only grown; ``known`` bytes of it are in the index."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size <= size:
                return (status.st_size, status.st_mtime_ns) == (size, mtime)
            return os.pread(file.fileno(), len(tail), known - len(tail)) == tail
    except FileNotFoundError:
        return True
