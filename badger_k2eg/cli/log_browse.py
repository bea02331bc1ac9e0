"""``badger-k2eg log browse``, ``tui``: the journal page by page, with single keys or in a full-screen view."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..core.errors import MissingExtra, NoSuchRecord
from ..journal.pager import Pages
from . import journal_output as text
from .console import Console, say

_HELP = "space next, b back, ] [ next/previous event, / search, n N again, : line, g first, G last, q ends"
_MARGIN = 3


@click.command()
@text.query_options
@text.journal_option
def browse(place: Path | None, **words: Any) -> None:
    """Page through the journal; search in it, jump from event to event."""
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to read keys from; use log query to print lines")
    with text.opened(place) as journal:
        height = max(5, shutil.get_terminal_size().lines - _MARGIN)
        pages = Pages(journal, text.asked(journal, words), height)
        if not pages.lines:
            say("no line", err=True)
            return
        _Browser(pages).run()


@click.command()
@text.query_options
@text.journal_option
def tui(place: Path | None, **words: Any) -> None:
    """Page through the journal in a full-screen view of the terminal: filter, details, events."""
    if importlib.util.find_spec("textual") is None:
        raise MissingExtra("the window in the terminal", "tui")
    from .log_tui import LogWindow

    with text.opened(place) as journal:
        LogWindow(journal, text.asked(journal, words)).run()


class _Browser:
    """The loop that reads keys until q."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._words = ""
        self._out = Console()
        self._keys: dict[str, tuple[Callable[[], Any], str]] = {
            " ": (pages.forward, "this is the end"),
            "\r": (pages.forward, "this is the end"),
            "\n": (pages.forward, "this is the end"),
            "b": (pages.back, "this is the beginning"),
            "g": (pages.start, "no line"),
            "G": (pages.end, "no line"),
            "]": (pages.next_event, "no event after this"),
            "[": (pages.previous_event, "no event before this"),
            "/": (self._search, "not found"),
            "n": (lambda: self._again(backwards=False), "not found"),
            "N": (lambda: self._again(backwards=True), "not found"),
            ":": (self._line, "no such line"),
        }

    def run(self) -> None:
        """Show a page after every key that moves to one."""
        self._show()
        while True:
            try:
                key = click.getchar()
            except (EOFError, KeyboardInterrupt):
                return
            if key in ("q", ""):
                return
            go, otherwise = self._keys.get(key, (lambda: False, _HELP))
            if go():
                self._show()
            else:
                say(otherwise)

    def _show(self) -> None:
        for record in self._pages.lines:
            self._out.print(text.line_text(record), no_wrap=True, overflow="ellipsis", crop=True, soft_wrap=False)
        say(f"-- lines {self._pages.here} to {self._pages.lines[-1].line} -- {_HELP}")

    def _search(self) -> bool:
        self._words = click.prompt("search", default="", show_default=False)
        return self._again(backwards=False)

    def _again(self, *, backwards: bool) -> bool:
        return bool(self._words) and self._pages.search(self._words, backwards=backwards)

    def _line(self) -> bool:
        words = click.prompt("line", default="", show_default=False)
        try:
            return self._pages.to_line(int(words))
        except (ValueError, NoSuchRecord):
            return False
