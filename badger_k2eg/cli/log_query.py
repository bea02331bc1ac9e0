"""``badger-k2eg log show``, ``query``, ``follow``: lines of the journal, for people or as JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..core.records import Level
from ..journal import Query
from . import journal_output as text
from .console import Console, say
from .signals import ended_by_signals


@click.command()
@click.argument("run_text", metavar="RUN", default="last")
@click.option("--eval", "evaluation", type=click.IntRange(1), help="only this evaluation, with all its lines")
@click.option("--operator", is_flag=True, help="only what concerns an operator: no samples, no single readings")
@text.journal_option
@text.json_option
def show(run_text: str, evaluation: int | None, operator: bool, place: Path | None, as_json: bool) -> None:
    """Print a run (the newest by default), or everything about one of its evaluations.

    RUN is an id, its unique beginning, a name, or last.
    """
    with text.opened(place) as journal:
        run = journal.run(run_text)
        if evaluation is not None:
            run.evaluation(evaluation)
        level = Level.INFO if operator else None
        records = run.records(Query(evaluation=evaluation, level=level))
        if as_json:
            for record in records:
                text.print_json(text.as_json(record), lines=True)
            return
        out = Console()
        end = "open" if run.event.end is None else run.event.end
        out.print(f"run {run.id} {run.name}".rstrip(), style="bold")
        out.print(f"{run.state}, lines {run.event.start} to {end}, by {run.first.user}@{run.first.host}")
        for record in records:
            out.print(text.line_text(record, run=False))


@click.command()
@text.query_options
@click.option("--limit", type=click.IntRange(1), help="maximum number of lines")
@click.option("--newest", is_flag=True, help="newest line first")
@text.journal_option
@text.json_option
def query(place: Path | None, as_json: bool, limit: int | None, newest: bool, **words: Any) -> None:
    """Print the lines that match the options, in the order of their numbers."""
    with text.opened(place) as journal:
        out = Console()
        records = journal.records(text.asked(journal, words, limit=limit, newest_first=newest))
        count = 0
        for count, record in enumerate(records, 1):  # noqa: B007 - counted for the end
            if as_json:
                text.print_json(text.as_json(record), lines=True)
            else:
                out.print(text.line_text(record))
        if not count and not as_json:
            say("no line", err=True)


@click.command()
@text.query_options
@click.option(
    "--tail", type=click.IntRange(0), default=10, show_default=True, help="number of earlier lines to print first"
)
@text.journal_option
@text.json_option
def follow(place: Path | None, as_json: bool, tail: int, **words: Any) -> None:
    """Print lines as they are written, until Ctrl-C; wait for a journal that does not exist yet."""
    with ended_by_signals() as ended, text.opened(place) as journal:
        out = Console()
        asked = text.asked(journal, words)
        for record in journal.follow(asked, tail=tail, ended=ended.is_set):
            if as_json:
                text.print_json(text.as_json(record), lines=True)
            else:
                out.print(text.line_text(record))
            sys.stdout.flush()
