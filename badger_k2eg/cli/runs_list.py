"""``badger-k2eg runs list``, ``show``: recorded runs, as tables for people or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..core.errors import NoSuchRecord
from ..core.suggestions import did_you_mean
from ..journal import RecordedRun, query
from ..journal.export import about, time_text
from ..journal.query import TagFilter, all_fit
from . import journal_output as text
from .console import Console, Table, Text, say

_STATES = ("success", "stopped", "failed", "lost", "open", "crashed")
_STYLES = {"failed": "red", "lost": "red", "crashed": "red", "stopped": "yellow", "open": "green"}
_SLOWEST = 10
#: Columns of setpoints, and of readings, that a terminal bears; --json has all.
_COLUMNS = 6


@click.command("list")
@click.option("--tag", "tags", multiple=True, metavar="COND", help="NAME, NAME=TEXT, NAME=0.2..0.5, NAME>0.2")
@click.option("--since", metavar="TIME", help="begun at that time or later")
@click.option("--until", metavar="TIME", help="begun before that time")
@click.option("--state", "states", multiple=True, metavar="STATE", help=f"one of {', '.join(_STATES)}")
@click.option("--host", help="run on this host")
@click.option("--user", help="run by this user")
@click.option("--limit", type=click.IntRange(1), help="the newest so many")
@text.journal_option
@text.json_option
def list_(
    tags: tuple[str, ...],
    since: str | None,
    until: str | None,
    states: tuple[str, ...],
    host: str | None,
    user: str | None,
    limit: int | None,
    place: Path | None,
    as_json: bool,
) -> None:
    """List runs, the newest last."""
    filters = [TagFilter.parse(words) for words in tags]
    for state in states:
        if state not in _STATES:
            raise NoSuchRecord(f"there is no state {state!r}; {did_you_mean(state, _STATES, 'states')}")
    first = query.moment(since) if since else None
    end = query.moment(until) if until else None
    with text.opened(place) as journal:
        found = [
            run
            for run in journal.runs()
            if (first is None or run.started_ns >= first)
            and (end is None or run.started_ns < end)
            and (not states or run.state in states or (run.open and "open" in states))
            and (host is None or run.first.host == host)
            and (user is None or run.first.user == user)
            and all_fit(filters, run.tags)
        ][-(limit or 0) :]
        if as_json:
            text.print_json([_listed(run) for run in found])
        elif found:
            Console().print(_table(found))
        else:
            say(f"no run in {journal.directory}", err=True)


def _listed(run: RecordedRun) -> dict[str, Any]:
    found = about(run)
    found.update(state=run.state, lines=[run.event.start, run.event.end])
    for key in ("format", "schema", "package", "exported", "manifest", "notes"):
        del found[key]
    return found


def _table(found: list[RecordedRun]) -> Table:
    table = Table(header_style="bold")
    for heading in ("run", "name", "begun", "took", "evaluations", "best", "ended", "by", "tags"):
        table.add_column(heading, justify="right" if heading in ("took", "evaluations", "best") else "left")
    for run in found:
        tags = ", ".join(f"{name}={text.value_text(value)}" for name, value in run.tags.items())
        table.add_row(
            Text(run.id),
            Text(run.name),
            text.moment(run.started_ns)[:-4],
            text.span(run.started_ns, run.ended_ns),
            str(run.evaluation_count),
            "" if run.best is None else str(run.best),
            Text("open (crashed)" if run.state == "crashed" else run.state, _STYLES.get(run.state, "")),
            Text(f"{run.first.user}@{run.first.host}"),
            Text(tags),
        )
    return table


@click.command()
@click.argument("run_text", metavar="RUN", default="last")
@text.journal_option
@text.json_option
def show(run_text: str, place: Path | None, as_json: bool) -> None:
    """Show a run: what it was, its evaluations, its baseline, and how long its PVs took."""
    with text.opened(place) as journal:
        run = journal.run(run_text)
        if as_json:
            text.print_json(_whole(run))
            return
        out = Console()
        _summary(out, run)
        evaluations = run.evaluations()
        if evaluations:
            _print_evaluations(out, run)
        _print_setpoints(out, run)
        _print_latencies(out, run)


def _whole(run: RecordedRun) -> dict[str, Any]:
    history = run.history()
    return {
        **about(run),
        **_listed(run),
        "evaluations": [
            {
                "number": each.number,
                "began": time_text(each.began_ns),
                "ended": None if each.ended_ns is None else time_text(each.ended_ns),
                "lines": [each.start, each.end],
                "ok": each.ok,
                "asked": each.asked,
                "readings": each.readings,
                "failed": [text.as_json(record) for record in each.failed],
                "damaged": each.damaged,
            }
            for each in run.evaluations()
        ],
        "baseline": {pv: text.as_json(record) for pv, record in history.baseline.items()},
        "last_written": {pv: text.as_json(record) for pv, record in history.last_written.items()},
        "latencies": {
            pv: {"count": len(seconds), **{f"p{p}": text.percentile(seconds, p) for p in (50, 95, 99)}}
            for pv, seconds in run.latencies().items()
        },
        "attachments": [record.data for record in run.attachments],
    }


def _summary(out: Console, run: RecordedRun) -> None:
    out.print(Text(f"run {run.id}  {run.name}".rstrip(), "bold"))
    if not run.first.intact:
        out.print(Text(f"  {text.damage([run.first.line])}: what follows may not be what was", "red"))
    took = text.span(run.started_ns, run.ended_ns)
    end = "" if run.event.end is None else str(run.event.end)
    facts = {
        "begun": text.moment(run.started_ns),
        "ended": f"{text.moment(run.ended_ns)}  {run.state}  {took}" if not run.open else run.state,
        "by": f"{run.first.user}@{run.first.host}, process {run.first.process}",
        "lines": f"{run.event.start}:{end}",
        **{name: _named(run.manifest.get(name)) for name in ("routine", "environment", "generator", "interface")},
        "best": "" if run.best is None else f"evaluation {run.best}",
        "unguarded": run.unguarded,
        "continues": run.parent or "",
        "tags": ", ".join(f"{name}={text.value_text(value)}" for name, value in run.tags.items()),
        "files": ", ".join(record.name or "" for record in run.attachments),
    }
    for name, value in facts.items():
        if value:
            out.print(Text(f"  {name:<12} {value}"))
    for note in run.notes:
        out.print(Text(f"  {'note':<12} {text.moment(note.time_ns)[:-4]} {note.user}: {note.message}"))


def _named(value: Any) -> str:
    """Write what a manifest says of a part: its name, where it has one."""
    found = value.get("name") if isinstance(value, dict) else value
    return "" if found is None else text.value_text(found)


def _print_evaluations(out: Console, run: RecordedRun) -> None:
    evaluations = run.evaluations()
    asked = list(dict.fromkeys(pv for each in evaluations for pv in each.asked))
    read = list(dict.fromkeys(name for each in evaluations for name in each.readings))
    hidden = max(0, len(asked) - _COLUMNS) + max(0, len(read) - _COLUMNS)
    asked, read = asked[:_COLUMNS], read[:_COLUMNS]
    table = Table(title="evaluations", title_justify="left", header_style="bold")
    table.add_column("", justify="right")
    for name in (*asked, *read):
        table.add_column(Text(name), justify="right")
    table.add_column("took", justify="right")
    table.add_column("")
    for each in evaluations:
        values = [each.asked.get(pv) for pv in asked] + [each.readings.get(name) for name in read]
        cells = ["" if value is None else text.value_text(value) for value in values]
        wrong = ", ".join(f"{record.pv} {record.outcome or 'failed'}" for record in each.failed)
        last = wrong or ("best" if each.number == run.best else "" if each.end is not None else "open")
        style = "red" if each.damaged else "yellow" if wrong else "green" if last == "best" else ""
        last = ", ".join(filter(None, (last, text.damage(each.damaged))))
        table.add_row(
            str(each.number), *map(Text, cells), text.span(each.began_ns, each.ended_ns), Text(last), style=style
        )
    if hidden:
        table.caption = f"and {hidden} more setpoints and readings: --json has all"
    out.print(table)


def _print_setpoints(out: Console, run: RecordedRun) -> None:
    history = run.history()
    baseline, written = history.baseline, history.last_written
    if not baseline and not written:
        return
    table = Table(title="setpoints", title_justify="left", header_style="bold")
    for heading in ("PV", "before", "last written", "outcome"):
        table.add_column(heading, justify="left" if heading in ("PV", "outcome") else "right")
    for pv in dict.fromkeys([*baseline, *written]):
        before, last = baseline.get(pv), written.get(pv)
        unit = None if before is None else before.unit
        read = "" if before is None else text.value_text(before.value, unit) if before.value is not None else "no value"
        damaged = text.damage(sorted({line.line for line in (before, last) if line is not None and not line.intact}))
        table.add_row(
            pv,
            read,
            "" if last is None else text.value_text(last.asked, unit),
            ", ".join(filter(None, ("" if last is None else str(last.outcome), damaged))),
            style="red" if damaged else "",
        )
    out.print(table)


def _print_latencies(out: Console, run: RecordedRun) -> None:
    latencies = run.latencies()
    if not latencies:
        return
    table = Table(title="how long a set took, the slowest first", title_justify="left", header_style="bold")
    for heading in ("PV", "sets", "median", "95 %", "99 %", "longest"):
        table.add_column(heading, justify="left" if heading == "PV" else "right")
    for pv, seconds in list(latencies.items())[:_SLOWEST]:
        parts = [text.percentile(seconds, percent) for percent in (50, 95, 99, 100)]
        table.add_row(Text(pv), str(len(seconds)), *(f"{part * 1e3:.1f} ms" for part in parts))
    if len(latencies) > _SLOWEST:
        table.caption = f"and {len(latencies) - _SLOWEST} faster ones"
    out.print(table)
