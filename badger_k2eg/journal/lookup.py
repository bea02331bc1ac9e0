"""``Reader``: finds lines and events of a journal through its index, and reads lines from its segments."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import NoSuchRecord
from ..core.pv_names import fits, is_pattern, own_name
from ..core.records import BadLine, NewerSchema, Record, RecordKind, from_line
from ..core.suggestions import close_to
from .index_tables import KINDS
from .query import Query

if TYPE_CHECKING:
    from .index import Index, Place

_PAGE = 5000


@dataclass(frozen=True, slots=True)
class Event:
    """A range of lines: a run, an evaluation, a set, a restore, a mark; or one line that annotates a run.

    :ivar kind: ``run``, ``evaluation``, ``set``, ``restore``, ``mark``; ``note``, ``tag``, ``best`` and so on.
    :ivar start: its first line.
    :ivar end: the line after its last; None while it is open, or its writer died in it.
    :ivar began_ns: nanoseconds since the Unix epoch.
    :ivar reason: the name given at its end.
    """

    start: int
    end: int | None
    kind: str
    name: str | None
    run: str | None
    evaluation: int | None
    began_ns: int
    ended_ns: int | None
    reason: str | None

    @property
    def open(self) -> bool:
        """Whether no line has ended it."""
        return self.end is None


class Reader:
    """Returns the lines and events of a journal. Safe to use from many threads.

    :param index: of the same journal.
    """

    def __init__(self, index: Index) -> None:
        """Keep the index."""
        self.index = index

    def records(self, query: Query, *, strict: bool = True) -> Iterator[Record]:
        """Yield the lines that a query asks for, in the order of their numbers.

        :param strict: whether a name that is nowhere in the journal is an error.
        :raises NoSuchRecord: for a name (PV, host, user) that no line has, with a suggestion.
        :raises JournalError: when a newer version wrote a line.
        """
        if strict:
            self._check_names(query)
        for place, text in self.texts(query):
            yield _record(place, text)

    def texts(self, query: Query) -> Iterator[tuple[Place, bytes]]:
        """Yield the same lines as they are in their segments, without newlines."""
        left, pvs = query.limit, self._pvs(query.pvs) if query.pvs else None
        while left is None or left > 0:
            page = _PAGE if left is None else min(_PAGE, left)
            places = self._places(query, pvs, page)
            yield from _read(places)
            if len(places) < page:
                return
            left = None if left is None else left - len(places)
            last = places[-1].line
            query = replace(query, end=last) if query.newest_first else replace(query, first=last + 1)

    def events(
        self, kinds: Sequence[str] = (), *, run: str | None = None, name: str | None = None, only_open: bool = False
    ) -> list[Event]:
        """Return events in the order of their first lines."""
        conditions, values = ["1"], list[Any]()
        if kinds:
            conditions.append(f"kind IN ({_marks(kinds)})")
            values += kinds
        for column, value in (("run", run), ("name", name)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        if only_open:
            conditions.append('"end" IS NULL')
        return self._events(" AND ".join(conditions), values)

    def around(self, line: int) -> list[Event]:
        """Return the events that contain a line, the outermost first; an open one contains all later lines."""
        return self._events('start <= ? AND ("end" > ? OR "end" IS NULL)', (line, line))

    def _events(self, condition: str, values: Sequence[Any]) -> list[Event]:
        columns = 'start, "end", kind, name, run, evaluation, began, ended, reason'
        return [
            Event(*row)
            for row in self.index.ask(f"SELECT {columns} FROM events WHERE {condition} ORDER BY start", values)
        ]

    # -- lines ----------------------------------------------------------------------------------------------------

    def _pvs(self, patterns: Sequence[str]) -> list[int]:
        """Return the index's ids of the PVs that match, in any spelling."""
        known = self.index.ask("SELECT id, text FROM names WHERE role = 'pv'")
        return [number for number, text in known if any(fits(own_name(text), pattern) for pattern in patterns)]

    def _places(self, query: Query, pvs: Sequence[int] | None, limit: int) -> list[Place]:
        condition, values = _where(query)
        if pvs is not None:
            condition += f" AND pv IN ({','.join(map(str, pvs))})"
        order = "DESC" if query.newest_first else "ASC"
        sql = f"SELECT line, segment, offset, size FROM records WHERE {condition} ORDER BY line {order} LIMIT ?"
        return self.index.places(sql, [*values, limit])

    def _check_names(self, query: Query) -> None:
        asked: list[tuple[str, str, str | None]] = [("pv", "PV", pv) for pv in query.pvs if not is_pattern(pv)]
        asked += [("host", "host", query.host), ("user", "user", query.user)]
        for role, what, name in asked:
            if not name:
                continue
            known = [row[0] for row in self.index.ask("SELECT text FROM names WHERE role = ?", (role,))]
            if name not in known and not (role == "pv" and own_name(name) in map(own_name, known)):
                close = close_to(name, known)
                hint = f"; did you mean {close!r}?" if close else ""
                raise NoSuchRecord(f"no line of the journal has the {what} {name!r}{hint}")


def _where(query: Query) -> tuple[str, list[Any]]:
    conditions, values = ["1"], list[Any]()

    def also(condition: str, *given: Any) -> None:
        conditions.append(condition)
        values.extend(given)

    for condition, value in (
        ("line >= ?", query.first),
        ("line < ?", query.end),
        ("time >= ?", query.since_ns),
        ("time < ?", query.until_ns),
        ("level >= ?", query.level),
        ("evaluation = ?", query.evaluation),
        ("process = ?", query.process),
    ):
        if value is not None:
            also(condition, int(value))
    for column, name in (("run", query.run), ("host", query.host), ("user", query.user)):
        if name is not None:
            also(f"{column} = (SELECT id FROM names WHERE role = '{column}' AND text = ?)", name)
    if query.outcomes:
        names = f"SELECT id FROM names WHERE role = 'outcome' AND text IN ({_marks(query.outcomes)})"
        also(f"outcome IN ({names})", *query.outcomes)
    if query.kinds:
        also(f"kind IN ({_marks(query.kinds)})", *(KINDS[kind] for kind in query.kinds))
    if query.exclude:
        also(f"kind NOT IN ({_marks(query.exclude)})", *(KINDS[kind] for kind in query.exclude))
    return " AND ".join(conditions), values


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _opened(path: Path, stack: contextlib.ExitStack) -> int | None:
    try:
        return stack.enter_context(path.open("rb", buffering=0)).fileno()
    except FileNotFoundError:  # retired or archived meanwhile
        return None


def _read(places: Sequence[Place]) -> Iterator[tuple[Place, bytes]]:
    with contextlib.ExitStack() as stack:
        handles: dict[Path, int | None] = {}
        for place in places:
            if place.path not in handles:
                handles[place.path] = _opened(place.path, stack)
            if (handle := handles[place.path]) is not None:
                yield place, os.pread(handle, place.size, place.offset)


def _record(place: Place, text: bytes) -> Record:
    try:
        record = from_line(text)
    except (BadLine, NewerSchema) as error:
        words = f"line {place.line} of {place.path} cannot be read: {error}"
        return Record(kind=RecordKind.TORN, line=place.line, message=words, intact=False)
    # The place decides: the number in the line may have been edited by hand.
    return record if record.line == place.line else replace(record, line=place.line)
