"""A run as a picture: objectives, with the best so far, above the variables. Needs no display, and no machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .runner import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Objectives that get a panel of their own.
_PANELS = 4


def plot_run(
    evaluations: Sequence[Evaluation],
    file: Path,
    *,
    title: str,
    ranges: Mapping[str, Sequence[float]],
    target: float | None = None,
) -> Path:
    """Draw a run and save it.

    :param evaluations: one or more.
    :param file: where to; its ending says the format. Its folder is made.
    :param ranges: of each variable, ``(low, high)``; variables are drawn as fractions of it where there are several
        ranges.
    :param target: drawn as a line.
    :returns: the file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    objectives = list(evaluations[0].objectives)[:_PANELS]
    figure = Figure(figsize=(8, 2.6 * (len(objectives) + 1)), layout="constrained")
    *above, below = figure.subplots(len(objectives) + 1, 1, sharex=True)
    for axes, name in zip(above, objectives, strict=True):
        _objective(axes, evaluations, name)
        axes.set_ylabel(name)
    if target is not None:
        above[0].axhline(target, color="gray", linestyle="--", linewidth=1, label="target")
    above[0].set_title(title)
    above[0].legend(fontsize="small")
    _variables(below, evaluations, ranges)
    below.set_xlabel("evaluation")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    return file


def _objective(axes: Axes, evaluations: Sequence[Evaluation], name: str) -> None:
    for feasible, marker, label in ((True, "o", "each evaluation"), (False, "x", "a constraint does not hold")):
        chosen = [each for each in evaluations if each.feasible == feasible]
        if chosen:
            numbers = [each.number for each in chosen]
            axes.plot(numbers, [each.objectives[name] for each in chosen], marker, markersize=5, label=label)
    # An evaluation is marked as the best one only where there is such a thing.
    best, line = math.nan, []
    for each in evaluations:
        best = each.objectives[name] if each.best else best
        line.append(best)
    if not math.isnan(best):
        axes.step([each.number for each in evaluations], line, where="post", label="best so far")


def _variables(axes: Axes, evaluations: Sequence[Evaluation], ranges: Mapping[str, Sequence[float]]) -> None:
    numbers = [each.number for each in evaluations]
    together = len({tuple(limits) for limits in ranges.values()}) == 1
    for name in evaluations[0].variables:
        values = [each.variables[name] for each in evaluations]
        if not together and name in ranges:
            low, high = ranges[name]
            values = [(value - low) / (high - low) for value in values]
        axes.plot(numbers, values, ".-", linewidth=1, label=name)
    axes.set_ylabel("variables" if together else "variables (of their range)")
    axes.legend(fontsize="small", ncols=2)
