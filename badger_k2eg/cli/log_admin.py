"""``badger-k2eg log mark``, ``reindex``, ``archive``: changes to a journal."""

from __future__ import annotations

import time
from pathlib import Path

import click

from . import journal_output as text
from .console import say


@click.command()
@click.argument("what", type=click.Choice(["begin", "end"]))
@click.argument("name")
@text.journal_option
@text.json_option
def mark(what: str, name: str, place: Path | None, as_json: bool) -> None:
    """Mark the beginning or the end of an interval: a shot, a fault."""
    with text.opened(place) as journal:
        if what == "begin":
            start, end = journal.begin_mark(name), None
            words = f"mark {name} begins with line {start}"
        else:
            event = journal.end_mark(name)
            start, end = event.start, event.end
            words = f"mark {name} has lines {start} to {end}: badger-k2eg log query --lines {start}:{end}"
    if as_json:
        text.print_json({"name": name, "start": start, "end": end})
    else:
        say(words)


@click.command()
@text.journal_option
@text.json_option
def reindex(place: Path | None, as_json: bool) -> None:
    """Rebuild the index from the segments."""
    with text.opened(place) as journal:
        began = time.monotonic()
        lines = journal.reindex()
        seconds = time.monotonic() - began
        path = journal.index_path
    if as_json:
        text.print_json({"lines": lines, "seconds": seconds, "index": None if path is None else str(path)})
    else:
        say(f"{lines} lines in {seconds:.1f} s: {path or 'in memory only'}")


@click.command()
@click.option(
    "--to", "target", type=click.Path(path_type=Path), help="the directory; by default archive/ in the journal"
)
@click.option("--force", is_flag=True, help="even during a run, whose lines are then split between the two")
@text.journal_option
@text.json_option
def archive(target: Path | None, force: bool, place: Path | None, as_json: bool) -> None:
    """Move closed segments to another directory, a journal of its own; line numbers continue."""
    with text.opened(place) as journal:
        moved = journal.archive(target, force=force)
        where = target or journal.directory / "archive"
    if as_json:
        text.print_json({"archive": str(where), "segments": [path.name for path in moved]})
    else:
        say(f"{len(moved)} segments moved to {where}; read them with --journal {where}")
