"""``badger-k2eg log``: the journal, line by line. Owns the names of its commands; each is in a file of its own."""

from __future__ import annotations

import click

from .lazy_group import Lazy

_COMMANDS = {
    "archive": (".log_admin", "Move closed segments to another place; line numbers go on."),
    "browse": (".log_browse", "Page through the journal: search, jump from event to event."),
    "follow": (".log_query", "Print lines as they are written."),
    "mark": (".log_admin", "Begin or end a stretch of one's own: a shot, a fault."),
    "query": (".log_query", "Print the lines that a question asks for."),
    "reindex": (".log_admin", "Throw the index away and make it anew."),
    "show": (".log_query", "Print a run, or the whole story of one evaluation."),
    "tui": (".log_tui_command", "Page through the journal in a window of the terminal (extra tui)."),
}


@click.command(cls=Lazy, table=_COMMANDS)
def log() -> None:
    """Look into the journal: what was done to the machine, line by line."""
