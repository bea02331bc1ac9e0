"""The tables of the index, and ``Indexing``, which enters the lines of a segment into them."""

from __future__ import annotations

import os
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import JournalError
from ..core.records import BadLine, Level, NewerSchema, Record, RecordKind, from_dict, glance
from .segments import Segment

if TYPE_CHECKING:
    import sqlite3

#: ``bytes`` is how far a segment was read; size, mtime and the last bytes show whether it is still the same.
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE segments (id INTEGER PRIMARY KEY, name TEXT UNIQUE, first INTEGER, lines INTEGER, bytes INTEGER,"
    " size INTEGER, mtime INTEGER, tail BLOB, damage TEXT)",
    "CREATE TABLE names (id INTEGER PRIMARY KEY, role TEXT, text TEXT, UNIQUE (role, text))",
    "CREATE TABLE records (line INTEGER PRIMARY KEY, time INTEGER, kind INTEGER, level INTEGER, run INTEGER,"
    " evaluation INTEGER, pv INTEGER, outcome INTEGER, host INTEGER, user INTEGER, process INTEGER,"
    " segment INTEGER, offset INTEGER, size INTEGER)",
    # [start, end) are lines; an open event has no end. An event of one line ends with it.
    'CREATE TABLE events (start INTEGER PRIMARY KEY, "end" INTEGER, kind TEXT, name TEXT, run TEXT,'
    " evaluation INTEGER, began INTEGER, ended INTEGER, reason TEXT)",
)
#: Created after the tables are filled for the first time: that is several times faster.
SECONDARY = (
    "CREATE INDEX by_time ON records (time)",
    "CREATE INDEX by_run ON records (run, line) WHERE run IS NOT NULL",
    "CREATE INDEX by_pv ON records (pv, line) WHERE pv IS NOT NULL",
    "CREATE INDEX by_trouble ON records (line) WHERE level >= 30",
    "CREATE INDEX events_by_run ON events (run, kind)",
    "CREATE INDEX events_by_kind ON events (kind, start)",
    'CREATE INDEX events_open ON events (kind) WHERE "end" IS NULL',
)

KINDS = {kind.value: number for number, kind in enumerate(RecordKind)}
_LEVELS = {level.name.lower(): level.value for level in Level}
#: Kinds of lines that are events of one line.
_SINGLE = {
    RecordKind.NOTE,
    RecordKind.TAG,
    RecordKind.RENAME,
    RecordKind.LINK,
    RecordKind.ATTACH,
    RecordKind.BEST,
    RecordKind.EVENT,
    RecordKind.TORN,
    RecordKind.LOST,
}
_EVENTS = {kind.value for kind in RecordKind if kind in _SINGLE or kind.endswith((".begin", ".end"))}
_DETAIL = {RecordKind.READ.value, RecordKind.SAMPLE.value}
_INSERT = f"INSERT OR IGNORE INTO records VALUES ({','.join('?' * 14)})"
_BATCH = 20_000
_BLOCK = 1 << 20


def stored(value: Any) -> Any:
    """Escape a text that SQLite cannot hold: lone surrogates, which come from names in bytes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class Indexing:
    """Enters segments into the tables, inside one transaction.

    :param whole: whether every line number must exist; an export has only those of one run.
    """

    def __init__(self, database: sqlite3.Connection, *, whole: bool = True) -> None:
        """Load the names that the tables have."""
        self._whole = whole
        #: The first fault found in the segment.
        self._damage: str | None = None
        self._database = database
        rows = database.execute("SELECT role, text, id FROM names")
        self._names: dict[tuple[str, Any], int] = {(role, text): key for role, text, key in rows}
        self._rows: list[tuple[Any, ...]] = []
        self._expected = 0
        #: A line that is not a record; the next one shows whether its writer died in it.
        self._unread: int | None = None

    def take(self, segment: Segment, key: int | None, offset: int) -> None:
        """Enter the complete lines of a segment, from an offset on.

        :param key: its id; None if it is new.
        :raises JournalError: when a newer version wrote it.
        :raises FileNotFoundError: when it no longer exists.
        """
        with segment.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if key is None:
                values = (segment.path.name, segment.first)
                key = self._database.execute(
                    "INSERT INTO segments (name, first, lines, bytes, tail) VALUES (?, ?, 0, 0, x'')", values
                ).lastrowid
            elif status.st_size == offset:
                return
            (lines,) = self._database.execute("SELECT lines FROM segments WHERE id = ?", (key,)).fetchone()
            self._expected, self._unread, self._damage = segment.first + lines, None, None
            file.seek(offset)
            rest = b""
            # No further than the size seen above: what is written later has a later mtime.
            while block := file.read(min(_BLOCK, status.st_size - offset - len(rest))):
                *whole, rest = (rest + block).split(b"\n")
                for text, after in zip_longest(whole, whole[1:]):
                    self._line(segment.path, key, offset, text, after)
                    offset += len(text) + 1
            self._flush()
            self._tell_unread(segment.path, None)
            tail = os.pread(file.fileno(), min(offset, 32), max(0, offset - 32))
        self._database.execute(
            "UPDATE segments SET lines = ?, bytes = ?, size = ?, mtime = ?, tail = ?,"
            " damage = coalesce(damage, ?) WHERE id = ?",
            (self._expected - segment.first, offset, status.st_size, status.st_mtime_ns, tail, self._damage, key),
        )

    def _line(self, path: Path, segment: int | None, offset: int, text: bytes, after: bytes | None) -> None:
        try:
            found, intact = glance(text)
            line, kind = found["line"], found["kind"]
            if line > self._expected and self._whole and self._goes_on(after):
                raise ValueError("the next line continues as if it had the right number")
            number, _ = KINDS[kind], found["time"]
            if not intact:
                from_dict(found)
        except NewerSchema as error:
            raise JournalError(f"{path}: a newer version of badger-k2eg wrote it ({error}); update this one") from None
        except (BadLine, KeyError, TypeError, ValueError, AttributeError, OverflowError):
            self._tell_unread(path, None)
            self._unread = self._expected
            self._expected += 1
            return
        self._tell_unread(path, kind)
        if not intact:
            self._tell(path, "was edited by hand: its checksum does not match")
            line = self._expected
        elif line < self._expected:
            self._tell(path, f"repeats line {line}")
            return
        elif line > self._expected and self._whole:
            self._tell(path, f"is missing, as are all up to {line - 1}")
        self._expected = line + 1
        level = _LEVELS.get(found.get("level", ""), 10 if kind in _DETAIL else 20)
        get, name = found.get, self._name
        self._rows.append(
            (line, found["time"], number, level, name("run", get("run")), get("evaluation"), name("pv", get("pv")),
             name("outcome", get("outcome")), name("host", get("host")), name("user", get("user")), get("process"),
             segment, offset, len(text))
        )  # fmt: skip
        if len(self._rows) >= _BATCH:
            self._flush()
        if kind in _EVENTS:
            self._event(path, line, found)

    def _goes_on(self, after: bytes | None) -> bool:
        """Whether a line has the number after the next, so that the number of the line before it is wrong."""
        try:
            return after is not None and glance(after)[0]["line"] == self._expected + 1
        except (BadLine, NewerSchema, KeyError):
            return False

    def _tell_unread(self, path: Path, follower: str | None) -> None:
        line, self._unread = self._unread, None
        if line is not None and follower != RecordKind.TORN:
            self._tell(path, "is not a record: torn, or edited by hand", line)

    def _tell(self, path: Path, words: str, line: int | None = None) -> None:
        self._damage = self._damage or f"{path}: line {line or self._expected} {words}"

    def _name(self, role: str, text: Any) -> int | None:
        if text is None:
            return None
        text = stored(text)
        if (role, text) not in self._names:
            sql = "INSERT INTO names (role, text) VALUES (?, ?)"
            self._names[role, text] = self._database.execute(sql, (role, text)).lastrowid or 0
        return self._names[role, text]

    def _flush(self) -> None:
        self._database.executemany(_INSERT, self._rows)
        self._rows.clear()

    # -- events ---------------------------------------------------------------------------------------------------

    def _event(self, path: Path, line: int, found: dict[str, Any]) -> None:
        try:
            record = from_dict(found)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            self._tell(path, f"was edited by hand: {error}")
            return
        stem, _, end = record.kind.partition(".")
        if stem == "segment":
            return
        if end == "end":
            self._end(line, record)
            return
        name = record.name
        single = end != "begin"
        values = (
            line, line + 1 if single else None, stem, stored(name), stored(record.run), record.evaluation,
            record.time_ns, record.time_ns if single else None,
        )  # fmt: skip
        self._database.execute("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)", values)

    def _end(self, line: int, record: Record) -> None:
        """Close an event; the end of a run closes what is still open in it."""
        # Only of the same kind and run: an edited end must not close something else.
        sql = 'UPDATE events SET "end" = ?, ended = ?, reason = ? WHERE start = ? AND kind = ? AND run IS ?'
        kind = record.kind.partition(".")[0]
        values = (line + 1, record.time_ns, stored(record.name), record.begin, kind, stored(record.run))
        self._database.execute(sql, values)
        if record.kind is RecordKind.RUN_END:
            self._database.execute(
                'UPDATE events SET "end" = ?, ended = ? WHERE run = ? AND "end" IS NULL AND kind != \'mark\'',
                (line + 1, record.time_ns, stored(record.run)),
            )
