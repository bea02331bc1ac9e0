"""What the commands on the journal share: options, and lines of the journal as text or as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from ..core.errors import NoSuchRecord
from ..core.printable import json_text
from ..core.records import Level, Record, RecordKind, encode
from ..journal import Journal, Query, query
from .console import Text

F = TypeVar("F", bound=Callable[..., Any])

_STYLES = {Level.DEBUG: "dim", Level.INFO: "", Level.WARNING: "yellow", Level.ERROR: "bold red"}
_LONGEST = 60

journal_option = click.option(
    "--journal",
    "place",
    type=click.Path(path_type=Path, file_okay=False),
    help="directory of a journal (an archive, a copy) to use in place of your own",
)
json_option = click.option("--json", "as_json", is_flag=True, help="print JSON in place of text")


@contextmanager
def opened(place: Path | None) -> Iterator[Journal]:
    """Open a journal.

    :raises NoSuchRecord: when the directory that is named does not exist.
    """
    if place is not None and not place.is_dir():
        raise NoSuchRecord(f"{place}: no such directory")
    journal = Journal.open() if place is None else Journal(place.absolute())
    try:
        yield journal
    finally:
        journal.close()


def print_json(value: Any, *, lines: bool = False) -> None:
    """Print strict JSON; with ``lines`` on a single line, as one of a stream."""
    click.echo(json_text(encode(value), indent=None if lines else 1))


def as_json(record: Record) -> dict[str, Any]:
    """Return a line for programs: its own JSON, and always its level."""
    found = {**record.as_dict(), "level": record.own_level.name.lower()}
    return found if record.intact else {**found, "intact": False}


# -- which lines ------------------------------------------------------------------------------------------------------


def query_options(command: F) -> F:
    """Add the options that select lines."""
    options = (
        click.option("--run", "run_text", metavar="RUN", help="an id, its unique beginning, a name, or last"),
        click.option("--eval", "evaluation", type=click.IntRange(1), help="number of an evaluation"),
        click.option("--pv", "pvs", multiple=True, metavar="PV", help="a PV, or a pattern: 'QUAD:*'; may be repeated"),
        click.option("--since", metavar="TIME", help="2026-11-21 12:00, 12:00, yesterday, 90min, 2h"),
        click.option("--until", metavar="TIME", help="the same; this moment itself is excluded"),
        click.option("--lines", metavar="A:B", help="lines from A up to, not including, B; A: and :B too"),
        click.option("--level", metavar="LEVEL", help="the lowest level: debug, info, warning, error"),
        click.option("--outcome", "outcomes", multiple=True, metavar="OUTCOME", help="applied, refused, unknown, ..."),
        click.option(
            "--type", "--kind", "kinds", multiple=True, metavar="TYPE", help="put, read, run, evaluation, note, ..."
        ),
        click.option("--exclude", multiple=True, metavar="TYPE", help="leave out lines of this type"),
        click.option("--host", metavar="HOST", help="written on this host"),
        click.option("--user", metavar="USER", help="written by this user"),
        click.option("--process", type=int, metavar="PID", help="written by this process"),
        click.option("--operator", is_flag=True, help="only what concerns an operator: no samples, no single readings"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def asked(journal: Journal, words: dict[str, Any], **more: Any) -> Query:
    """Return the query that the options ask for.

    :raises NoSuchRecord: for an unknown word.
    """
    level = query.level(words["level"]) if words["level"] else None
    if words["operator"]:
        level = max(level or Level.INFO, Level.INFO)
    first, end = _range(words["lines"])
    return Query(
        first=first,
        end=end,
        since_ns=query.moment(words["since"]) if words["since"] else None,
        until_ns=query.moment(words["until"]) if words["until"] else None,
        run=journal.run(words["run_text"]).id if words["run_text"] else None,
        evaluation=words["evaluation"],
        pvs=tuple(words["pvs"]),
        level=level,
        outcomes=query.outcomes(words["outcomes"]),
        kinds=query.kinds(words["kinds"]),
        exclude=query.kinds(words["exclude"]),
        host=words["host"],
        user=words["user"],
        process=words["process"],
        **more,
    )


def _range(text: str | None) -> tuple[int | None, int | None]:
    if not text:
        return None, None
    first, colon, end = text.partition(":")
    try:
        low, high = int(first) if first else None, int(end) if end else None
    except ValueError:
        raise NoSuchRecord(f"--lines {text}: write A:B, A: or :B, with numbers of lines") from None
    # A single number is that line.
    return (low, high) if colon else (low, (low or 0) + 1)


# -- text for people --------------------------------------------------------------------------------------------------


def moment(time_ns: int | None, *, date: bool = True) -> str:
    """Return a time as text: local, with milliseconds."""
    if time_ns is None:
        return ""
    form = "%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S"
    return f"{time.strftime(form, time.localtime(time_ns // 10**9))}.{time_ns // 10**6 % 1000:03d}"


def span(began_ns: int, ended_ns: int | None) -> str:
    """Return a duration as text."""
    if ended_ns is None:
        return ""
    seconds = (ended_ns - began_ns) * 1e-9
    if abs(seconds) < 1:
        return f"{seconds * 1e3:.0f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if abs(seconds) < 7200 else f"{seconds / 3600:.1f} h"


def value_text(value: Any, unit: str | None = None) -> str:
    """Return a value as a short text."""
    if isinstance(value, np.ndarray):
        text = f"array of {'x'.join(map(str, value.shape))} {value.dtype}"
    elif isinstance(value, bool) or not isinstance(value, float):
        text = str(value)
    else:
        text = f"{value:.6g}"
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"{text} {unit}" if unit and value is not None else text


def damage(lines: Sequence[int]) -> str:
    """Return which lines have a wrong checksum, in words; an empty text if there are none."""
    shown = ", ".join(map(str, lines[:3])) + (", …" if len(lines) > 3 else "")
    return f"damaged: line{'s' if len(lines) > 1 else ''} {shown}" if lines else ""


def line_text(record: Record, *, run: bool = True) -> Text:
    """Return a line as text.

    :param run: whether the text names the run.
    """
    where = f"{record.run or ''}" if run else ""
    if record.evaluation is not None:
        where += f"#{record.evaluation}"
    parts = [f"{record.line:>8}", moment(record.time_ns), f"{record.kind.value:<16}"]
    return Text("  ".join([*parts, *([where] if where else []), what(record)]).rstrip(), _STYLES[record.own_level])


def what(record: Record) -> str:
    """Return what a line tells, without its number, time, kind and run."""
    return "  ".join(_words(record))


def _words(record: Record) -> Iterator[str]:
    if record.name:
        yield f"{record.name} = {record.value}" if record.kind is RecordKind.TAG else record.name
    if record.pv is not None:
        text = record.pv
        if record.asked is not None:
            text += f" = {value_text(record.asked)}"
        if record.value is not None:
            text += f" ({value_text(record.value, record.unit)})" if record.asked is not None else (
                f" {value_text(record.value, record.unit)}"
            )  # fmt: skip
        yield text
    elif record.value is not None and record.kind is not RecordKind.TAG:
        yield value_text(record.value, record.unit)
    if record.severity:
        yield f"severity {('', 'MINOR', 'MAJOR', 'INVALID')[record.severity] if record.severity < 4 else '?'}"
    if record.outcome is not None:
        yield record.outcome.upper() + (f", attempt {record.attempt}" if (record.attempt or 1) > 1 else "")
    if record.duration is not None:
        yield f"{record.duration * 1e3:.1f} ms"
    if record.kind is RecordKind.SETPOINT and record.data and "before" in record.data:
        yield f"was {value_text(record.data['before'], record.unit)}"
    if record.kind is RecordKind.SET_BEGIN and record.data:
        yield f"{len(record.part('setpoints'))} setpoints"
    if record.message:
        yield record.message
    if not record.intact:
        yield "[edited by hand]"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, with linear interpolation."""
    return float(np.percentile(values, percent))
