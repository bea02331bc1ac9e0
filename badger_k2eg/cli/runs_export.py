"""``badger-k2eg runs export``, ``verify``, ``plot``: a run as one file, its verification, and as a plot."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ..badger_app.evaluation import Evaluation
from ..badger_app.plot import plot_run
from ..core.errors import MissingExtra, NoSuchRecord, SettingsError
from ..journal import RecordedRun
from ..journal import export as exports
from ..journal.naming import file_name
from . import journal_output as text
from .console import say

#: Number of setpoints that can be told apart in one panel.
_MOST = 12
#: Larger than any real value; a plot cannot show it.
_HUGE = 1e300


@click.command()
@click.argument("run_text", metavar="RUN")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file; by default RUN.zip in this directory",
)
@click.option("--force", is_flag=True, help="overwrite an existing file")
@text.journal_option
@text.json_option
def export(run_text: str, output: Path | None, force: bool, place: Path | None, as_json: bool) -> None:
    """Write a run into one zip file: its lines, tables (CSV), attached files, a manifest, checksums."""
    with text.opened(place) as journal:
        run = journal.run(run_text)
        file = output or Path(f"{file_name(run.id)}.zip")
        if file.exists() and not force:
            raise SettingsError(f"{file} exists; --force overwrites it, --output names another")
        exports.export(journal, run, file)
    size = file.stat().st_size
    if as_json:
        text.print_json({"run": run.id, "file": str(file), "bytes": size})
    else:
        say(f"run {run.id}: {file}, {size} bytes")


@click.command()
@click.argument("what", metavar="RUN|FILE.zip")
@text.journal_option
@text.json_option
def verify(what: str, place: Path | None, as_json: bool) -> int:
    """Check a run in the journal, or an export, against its checksums; the exit code is 1 if something is wrong."""
    if what.endswith(".zip"):
        checked, wrong = what, exports.verify_export(Path(what))
    else:
        with text.opened(place) as journal:
            run = journal.run(what)
            checked, wrong = f"run {run.id}", exports.verify_run(journal, run)
    if as_json:
        text.print_json({"checked": checked, "whole": not wrong, "wrong": wrong})
    else:
        for line in wrong:
            say(f"{checked}: {line}", err=True)
        if not wrong:
            say(f"{checked}: whole")
    return 1 if wrong else 0


@click.command()
@click.argument("run_text", metavar="RUN", default="last")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file; by default RUN.png in this directory",
)
@click.option("--of", "names", multiple=True, metavar="NAME", help="a reading to plot; by default the first four")
@text.journal_option
@text.json_option
def plot(run_text: str, output: Path | None, names: tuple[str, ...], place: Path | None, as_json: bool) -> None:
    """Plot a run: what was read above what was set, by evaluation."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("a picture", "demo")
    with text.opened(place) as journal:
        run = journal.run(run_text)
        evaluations = drawable(run, names)
        file = output or Path(f"{file_name(run.id)}.png")
        ranges = _ranges(evaluations)
        plot_run(evaluations, file, title=f"{run.id} {run.name}".rstrip(), ranges=ranges)
    if as_json:
        text.print_json({"run": run.id, "file": str(file)})
    else:
        say(f"run {run.id}: {file}")


def drawable(run: RecordedRun, names: Iterable[str] = ()) -> list[Evaluation]:
    """Return the evaluations of a run that have numbers to plot.

    :param names: the readings; by default all.
    :raises NoSuchRecord: when there is nothing to plot.
    """
    recorded = run.evaluations()
    read = list(dict.fromkeys(name for each in recorded for name, _ in _numbers(each.readings)))
    for name in names:
        if name not in read:
            raise NoSuchRecord(f"run {run.id} has no reading {name!r}; it has {', '.join(read) or 'none'}")
    chosen = list(names) or read
    if not chosen:
        raise NoSuchRecord(f"run {run.id} has no evaluation in which a number was read: nothing to plot")
    asked = list(dict.fromkeys(pv for each in recorded for pv, _ in _numbers(each.asked)))[:_MOST]
    bests = set(run.bests)
    return [
        Evaluation(
            number=each.number,
            variables={pv: dict(_numbers(each.asked)).get(pv, math.nan) for pv in asked},
            objectives={name: dict(_numbers(each.readings)).get(name, math.nan) for name in chosen},
            best=each.number in bests,
            was_set=None if run.unguarded else not run.manifest.get("read_only"),
        )
        for each in recorded
    ]


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    found = ((k, v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool))
    return [(k, float(v)) for k, v in found if abs(v) < _HUGE]


def _ranges(evaluations: list[Evaluation]) -> dict[str, tuple[float, float]]:
    """Return the range of each setpoint, so that setpoints of several units fit into one panel."""
    ranges = {}
    for name in evaluations[0].variables:
        values = [each.variables[name] for each in evaluations if not math.isnan(each.variables[name])]
        low, high = min(values), max(values)
        ranges[name] = (low, high) if high > low else (low - 0.5, low + 0.5)
    return ranges
