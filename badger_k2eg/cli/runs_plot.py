"""``badger-k2eg runs plot``: a recorded run as a picture, drawn as ``badger-k2eg run --plot`` draws one."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ..badger_app.evaluation import Evaluation
from ..badger_app.plot import plot_run
from ..core.errors import MissingExtra, NoSuchRecord
from ..journal import RecordedRun
from ..journal.naming import file_name
from . import journal_output as text
from .console import say

#: Setpoints that can be told apart in one panel.
_MOST = 12
#: More than any machine holds, or a picture shows.
_HUGE = 1e300


@click.command()
@click.argument("run_text", metavar="RUN", default="last")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="by default RUN.png here")
@click.option("--of", "names", multiple=True, metavar="NAME", help="a reading to draw; by default the first four")
@text.journal_option
@text.json_option
def plot(run_text: str, output: Path | None, names: tuple[str, ...], place: Path | None, as_json: bool) -> None:
    """Draw a run as a picture: what was read, above what was set, by evaluation."""
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
    """Take the evaluations of a run that have numbers to be drawn.

    :param names: the readings; by default all.
    :raises NoSuchRecord: when there is nothing to be drawn.
    """
    recorded = run.evaluations()
    read = list(dict.fromkeys(name for each in recorded for name, _ in _numbers(each.readings)))
    for name in names:
        if name not in read:
            raise NoSuchRecord(f"run {run.id} has no reading {name!r}; it has {', '.join(read) or 'none'}")
    chosen = list(names) or read
    if not chosen:
        raise NoSuchRecord(f"run {run.id} has no evaluation in which a number was read: nothing to draw")
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
    """Give the range that each setpoint went over, so that setpoints of several units fit into one panel."""
    ranges = {}
    for name in evaluations[0].variables:
        values = [each.variables[name] for each in evaluations if not math.isnan(each.variables[name])]
        low, high = min(values), max(values)
        ranges[name] = (low, high) if high > low else (low - 0.5, low + 0.5)
    return ranges
