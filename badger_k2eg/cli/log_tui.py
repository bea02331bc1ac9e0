"""The full-screen view of ``badger-k2eg log tui``. Only this module imports textual; it pages by ``journal.pager``."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widgets import DataTable, Footer, Header, Input, Static

from ..core.errors import ControlError
from ..core.printable import json_text, printable
from ..core.records import Level, Record
from ..journal import Event, Journal, Query
from ..journal.pager import Pages
from . import journal_output as text
from .console import Text

_HEIGHT = 200
_GUTTER = {"run": "R", "evaluation": "E", "set": "s", "restore": "U", "mark": "M"}


class LogWindow(App[None]):
    """A view with lines on the left, the line under the cursor in full on the right, and a filter for PVs below.

    :param query: selects the lines that can be shown.
    """

    TITLE = "badger-k2eg log"
    CSS = "DataTable { width: 3fr; } #details { width: 1fr; padding: 0 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("space", "page_forward", "next page"),
        ("b", "page_back", "back"),
        ("right_square_bracket", "next_event", "] next event"),
        ("left_square_bracket", "previous_event", "[ previous event"),
        ("g", "page_first", "first"),
        ("G", "page_last", "last"),
        ("o", "operator", "samples on/off"),
        ("slash", "filter", "/ filter"),
        ("q", "quit", "end"),
    ]

    def __init__(self, journal: Journal, query: Query) -> None:
        """Show nothing yet."""
        super().__init__()
        self._journal = journal
        self._query = query
        self._pages = Pages(journal, query, _HEIGHT)

    def compose(self) -> ComposeResult:
        """Lay the window out."""
        yield Header()
        with Horizontal():
            yield DataTable(cursor_type="row", zebra_stripes=True)
            yield Static(id="details", markup=False)
        yield Input(placeholder="PVs: QUAD:* (Enter applies it, empty removes it)")
        yield Footer()

    def on_mount(self) -> None:
        """Show the last page."""
        self.query_one(DataTable).add_columns("", "line", "time", "kind", "what", "run")
        self.query_one(DataTable).focus()
        self._pages.end()
        self._show()

    # -- keys -----------------------------------------------------------------------------------------------------

    def action_page_forward(self) -> None:
        """Go to the next page."""
        self._after(self._pages.forward())

    def action_page_back(self) -> None:
        """Go to the previous page."""
        self._after(self._pages.back())

    def action_page_first(self) -> None:
        """Go to the first page."""
        self._after(self._pages.start())

    def action_page_last(self) -> None:
        """Go to the last page."""
        self._after(self._pages.end())

    def action_next_event(self) -> None:
        """Go to the next event."""
        self._after(self._pages.next_event() is not None)

    def action_previous_event(self) -> None:
        """Go to the previous event."""
        self._after(self._pages.previous_event() is not None)

    def action_operator(self) -> None:
        """Hide samples and single readings, or show them."""
        self._take(replace(self._query, level=None if self._query.level else Level.INFO))

    def action_filter(self) -> None:
        """Move to the filter."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Apply a filter."""
        words = tuple(word.strip() for word in event.value.split(",") if word.strip())
        self._take(replace(self._query, pvs=words))
        self.query_one(DataTable).focus()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the line under the cursor in full."""
        if 0 <= event.cursor_row < len(self._pages.lines):
            record = self._pages.lines[event.cursor_row]
            self.query_one("#details", Static).update(json_text(text.as_json(record), indent=1))

    # -- showing --------------------------------------------------------------------------------------------------

    def _take(self, query: Query) -> None:
        try:
            pages = Pages(self._journal, query, _HEIGHT)
        except ControlError as error:
            self.notify(printable(error), severity="error", markup=False)
            return
        here, self._query, self._pages = self._pages.here, query, pages
        pages.to_line(here)
        self._show()

    def _after(self, moved: bool) -> None:
        if moved:
            self._show()
        else:
            self.bell()

    def _show(self) -> None:
        table = self.query_one(DataTable)
        table.clear()
        for record in self._pages.lines:
            table.add_row(*_cells(record))
        first, last = self._pages.here, self._pages.lines[-1].line if self._pages.lines else 0
        around: list[Event] = self._journal.around(first) if first else []
        inside = "  ".join(f"{event.kind} {event.evaluation or event.run or event.name or ''}" for event in around)
        self.sub_title = printable(f"lines {first} to {last}  {inside}") if last else "no line"


def _cells(record: Record) -> tuple[str | Text, ...]:
    stem, _, end = record.kind.partition(".")
    gutter = {"begin": "┌", "end": "└"}.get(end, "") + (_GUTTER.get(stem, "") if end else "")
    run = f"{record.run or ''}" + (f"#{record.evaluation}" if record.evaluation else "")
    return gutter, str(record.line), text.moment(record.time_ns), record.kind.value, Text(text.what(record)), Text(run)
