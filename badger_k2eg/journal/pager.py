"""``Pages``: navigation in a journal by pages: forward, back, to a line, an event, a word. Displays nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..core.records import Record, to_line
from .journal import Journal
from .lookup import Event
from .query import Query

#: Kinds of events to step through; not sets, of which there may be very many.
_STEPS = ("run", "evaluation", "restore", "mark", "event", "torn", "lost")


class Pages:
    """A position in a journal, and the moves from it. A move returns False or None, and stays, if there is no target.

    :param query: which lines to page through.
    :ivar lines: the lines of the present page.
    :ivar height: how many lines a page has at most.
    """

    def __init__(self, journal: Journal, query: Query, height: int) -> None:
        """Start at the first page."""
        self.height = height
        self._journal = journal
        self._query = replace(query, limit=None, newest_first=False)
        self.lines: list[Record] = []
        self.start()

    @property
    def here(self) -> int:
        """The number of the page's first line; 0 if it has none."""
        return self.lines[0].line if self.lines else 0

    def start(self) -> bool:
        """Go to the first page."""
        return self._show(self._take(self._query))

    def end(self) -> bool:
        """Go to the last page."""
        return self._show(self._take(replace(self._query, newest_first=True))[::-1])

    def forward(self) -> bool:
        """Go to the next page."""
        after = self.lines[-1].line + 1 if self.lines else 0
        return self._show(self._take(replace(self._query, first=max(after, self._query.first or 0))))

    def back(self) -> bool:
        """Go to the previous page."""
        end = min(self.here, self._query.end or self.here)
        return self._show(self._take(replace(self._query, end=end, newest_first=True))[::-1])

    def to_line(self, line: int) -> bool:
        """Go to a line, or to the next one that exists."""
        return self._show(self._take(replace(self._query, first=max(line, self._query.first or 0))))

    def next_event(self) -> Event | None:
        """Go to the first event after the page's first line."""
        return self._to_event([event for event in self._events() if event.start > self.here][:1])

    def previous_event(self) -> Event | None:
        """Go to the last event before the page's first line."""
        return self._to_event([event for event in self._events() if event.start < self.here][-1:])

    def search(self, words: str, *, backwards: bool = False) -> bool:
        """Go to the next line after the page's first one that contains a text, in any case."""
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
