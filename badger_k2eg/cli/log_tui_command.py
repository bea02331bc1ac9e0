"""``badger-k2eg log tui``: the journal in a window of the terminal. Needs the extra ``tui``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click

from ..core.errors import MissingExtra
from . import journal_output as text


@click.command()
@text.query_options
@text.journal_option
def tui(place: Path | None, **words: Any) -> None:
    """Page through the journal in a window of the terminal: filter, details, events."""
    if importlib.util.find_spec("textual") is None:
        raise MissingExtra("the window in the terminal", "tui")
    from .log_tui import LogWindow

    with text.opened(place) as journal:
        LogWindow(journal, text.asked(journal, words)).run()
