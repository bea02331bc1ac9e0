"""``Pages``: going through a journal screen by screen: forward, back, to a line, an event, a word. Shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..core.records import Record, to_line
from .journal import Journal
from .lookup import Event
from .query import Query

#: Events that one goes from one to the next by; a journal may have very many sets.
_STEPS = ("run", "evaluation", "restore", "mark", "event", "torn", "lost")


class Pages:
    """Where one is in a journal, and how to go on.

    :param query: which lines there are at all.
    :ivar lines: the lines of this page.
    :ivar height: the most of them.
    """

    def __init__(self, journal: Journal, query: Query, height: int) -> None:
        """Begin with the first page."""
        self.height = height
        self._journal = journal
        self._query = replace(query, limit=None, newest_first=False)
        self.lines: list[Record] = []
        self.start()

    @property
    def here(self) -> int:
        """The number of the first line of the page; 0 where there is none."""
        return self.lines[0].line if self.lines else 0

    def start(self) -> bool:
        """Go to the first page."""
        return self._show(self._take(self._query))

    def end(self) -> bool:
        """Go to the last page."""
        return self._show(self._take(replace(self._query, newest_first=True))[::-1])

    def forward(self) -> bool:
        """Go to the next page; False where there is none."""
        after = self.lines[-1].line + 1 if self.lines else 0
        return self._show(self._take(replace(self._query, first=max(after, self._query.first or 0))))

    def back(self) -> bool:
        """Go to the page before; False where there is none."""
        end = min(self.here, self._query.end or self.here)
        return self._show(self._take(replace(self._query, end=end, newest_first=True))[::-1])

    def to_line(self, line: int) -> bool:
        """Go to a line, or the next one that there is."""
        return self._show(self._take(replace(self._query, first=max(line, self._query.first or 0))))

    def next_event(self) -> Event | None:
        """Go to the event after the first line of the page; None where there is none."""
        return self._to_event([event for event in self._events() if event.start > self.here][:1])

    def previous_event(self) -> Event | None:
        """Go to the event before the first line of the page; None where there is none."""
        return self._to_event([event for event in self._events() if event.start < self.here][-1:])

    def search(self, words: str, *, backwards: bool = False) -> bool:
        """Go to the next line, after the first one of the page, that has these words anywhere, whatever their case."""
        wanted = words.casefold()
        for record in self._after(backwards):
            if wanted in to_line(record).decode(errors="replace").casefold():
                return self.to_line(record.line)
        return False

    def _after(self, backwards: bool) -> Iterator[Record]:
        if backwards:
            return self._journal.records(replace(self._query, end=self.here, newest_first=True))
        return self._journal.records(replace(self._query, first=self.here + 1))

    def _events(self) -> list[Event]:
        return self._journal.events(_STEPS, run=self._query.run)

    def _to_event(self, found: list[Event]) -> Event | None:
        return found[0] if found and self.to_line(found[0].start) else None

    def _take(self, query: Query) -> list[Record]:
        return list(self._journal.records(replace(query, limit=self.height)))

    def _show(self, lines: list[Record]) -> bool:
        if lines or not self.lines:
            self.lines = lines
        return bool(lines)
