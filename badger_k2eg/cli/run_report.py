"""The output of ``badger-k2eg run``: a line before, a line for each evaluation, tables and JSON at the end.

It computes nothing that ``badger_app.headless`` does not know, and imports no Badger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import Console, ProgressColumn, Table, Task, Text

if TYPE_CHECKING:
    from ..badger_app.evaluation import Evaluation
    from ..badger_app.headless import HeadlessRun, State

#: Points of a front that are listed; the archive has all.
_LISTED = 15


class Standing(ProgressColumn):
    """A column with the best evaluation so far, and why the run stops."""

    # Drawn at each refresh, not as rarely as rich draws columns that cost more.
    max_refresh = None

    def __init__(self, run: HeadlessRun) -> None:
        self._run = run
        super().__init__()

    def render(self, task: Task) -> Text:
        """Draw the column."""
        text = Text("read-only" if self._run.read_only else "")
        if (best := self._run.best) is not None:
            text.append(f"best {_values(best.objectives)}", style="bold green")
        elif front := self._run.front:
            text.append(f"{len(front)} in the front", style="bold green")
        if self._run.stopping:
            text.append(f"  {self._run.stopping}", style="bold red")
        return text


def announce(run: HeadlessRun, console: Console) -> None:
    """Print what is about to run, and when it will end."""
    routine = run.routine
    interface = getattr(routine.environment.interface, "name", "no interface")
    console.print(f"{routine.name}: {routine.generator.name} on {routine.environment.name} through {interface}")
    console.print(f"ends {run.ends}{' (the default)' if run.is_default else ''}")
    if run.read_only:
        # What an environment moves past its interface is reported when it is seen.
        words = "nothing is set through the interface, so no point is the best one and no target counts"
        console.print(Text().append("read-only", "bold").append(f": {words}"))
    if routine.critical_constraint_names:
        names = ", ".join(routine.critical_constraint_names)
        console.print(f"critical constraints pause a run in Badger's window; here they do not: {names}")


def line(evaluation: Evaluation, most: int | None) -> Text:
    """Return one evaluation as a line."""
    number = f"{evaluation.number:{len(str(most))}d}/{most}" if most else f"{evaluation.number:3d}"
    text = Text(f"{number}  {_values(_all(evaluation))}")
    if evaluation.was_set is False:
        text.append("  not set", "yellow")
    elif evaluation.best:
        text.append("  best", "bold green")
    elif not evaluation.feasible:
        text.append("  a constraint is violated", "yellow")
    return text


def show(run: HeadlessRun, console: Console, output: Path, plot: Path | None) -> None:
    """Print how the run ended."""
    console.print(run.reason)
    if run.moved:
        console.print(run.moved, style="bold red" if run.move_failed else None)
    if run.end_error:
        console.print(f"the machine could not be read at the end: {run.end_error}", style="red")
    show_ends(run, console)
    if run.front:
        points = _spread(run.front, _LISTED)
        shown = "" if len(points) == len(run.front) else f", {len(points)} of them shown"
        console.print(f"front: {len(run.front)} of {len(run.evaluations)} evaluations are not dominated{shown}")
        console.print(_front(run, points))
    if run.archive is not None:
        console.print(f"archive: {run.archive}")
        console.print(f"         in Badger's window: badger -g -cf {output / 'badger.yaml'}")
    if (record := run.record) is not None and record.began and record.place:
        console.print(f"record: {record.id}, in {record.place}")
    if plot is not None:
        console.print(f"plot: {plot}")


def show_ends(run: HeadlessRun, console: Console) -> None:
    """Print the values at start, best point and end."""
    # The heading is a line of its own: rich folds a table's title to the width of the table.
    if run.start is not None:
        console.print(run.title)
        console.print(_table(run))


def outcome(run: HeadlessRun, code: int, error: str | None, plot: Path | None) -> dict[str, Any]:
    """Return everything about the run in the types of JSON."""
    best = run.best
    told = {
        "routine": run.routine.name,
        "environment": run.routine.environment.name,
        "generator": run.routine.generator.name,
        "read_only": run.read_only,
        "unguarded": run.unguarded,
        "exit_code": code,
        "ended": run.reason,
        "error": error,
        "machine": run.moved,
        "start": _flat(run.start),
        "best": None if best is None else best.number,
        "front": [each.number for each in run.front],
        "end": _flat(run.end),
        "evaluations": [
            {
                "number": each.number,
                "variables": each.variables,
                "objectives": each.objectives,
                "others": each.others,
                "feasible": each.feasible,
                "was_set": each.was_set,
            }
            for each in run.evaluations
        ],
        "archive": None if run.archive is None else str(run.archive),
        "run": None if run.record is None else run.record.id,
        "journal": None if run.record is None or not run.record.place else run.record.place,
        "plot": None if plot is None else str(plot),
    }
    cleaned: dict[str, Any] = _finite(told)
    return cleaned


def _table(run: HeadlessRun) -> Table:
    columns: dict[str, Mapping[str, float]] = {"start": _flat(run.start)}
    if (best := run.best) is not None:
        columns[f"best ({best.number})"] = _all(best)
    columns["end"] = _flat(run.end)
    table = Table("")
    for heading in columns:
        table.add_column(heading, justify="right")
    vocs = run.routine.vocs
    for names in (vocs.variable_names, vocs.objective_names, [*vocs.constraint_names, *vocs.observable_names]):
        for name in names:
            table.add_row(Text(name), *(_number(column.get(name)) for column in columns.values()))
        table.add_section()
    return table


def _front(run: HeadlessRun, points: Sequence[Evaluation]) -> Table:
    table = Table()
    table.add_column("evaluation", justify="right")
    vocs = run.routine.vocs
    names = [*vocs.objective_names, *vocs.variable_names]
    for name in names:
        table.add_column(Text(name), justify="right")
    for each in points:
        values = _all(each)
        table.add_row(str(each.number), *(_number(values[name]) for name in names))
    return table


def _spread(points: Sequence[Evaluation], most: int) -> list[Evaluation]:
    """Return at most so many points of a front, its ends among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _all(evaluation: Evaluation) -> dict[str, float]:
    return {**evaluation.variables, **evaluation.objectives, **evaluation.others}


def _flat(state: State | None) -> dict[str, float]:
    return {} if state is None else {**state.variables, **state.outputs}


def _values(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in values.items())


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.5g}"


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
