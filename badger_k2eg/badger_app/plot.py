"""A run as a picture: objectives, with the best so far, above the variables. Needs no display, and no machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.printable import plain_labels, printable
from .evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

#: Objectives that get a panel of their own.
_PANELS = 4


@plain_labels()
def plot_run(
    evaluations: Sequence[Evaluation],
    file: Path,
    *,
    title: str,
    ranges: Mapping[str, Sequence[float]],
    target: float | None = None,
    front: Sequence[Evaluation] = (),
) -> Path:
    """Draw a run and save it.

    :param evaluations: one or more.
    :param file: the picture; its suffix is the format. Its folder is made.
    :param ranges: of each variable, ``(low, high)``; if they differ, variables are drawn as fractions of their ranges.
    :param target: drawn as a line.
    :param front: of two objectives: drawn in a panel of its own, one objective over the other.
    :returns: the file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    objectives = list(evaluations[0].objectives)[:_PANELS]
    has_front = bool(front) and len(evaluations[0].objectives) == 2
    rows = len(objectives) + 1 + has_front
    figure = Figure(figsize=(8, 2.6 * rows), layout="constrained")
    panels = [figure.add_subplot(rows, 1, 1)]
    panels += [figure.add_subplot(rows, 1, row, sharex=panels[0]) for row in range(2, len(objectives) + 2)]
    *above, below = panels
    if has_front:
        _front(figure.add_subplot(rows, 1, rows), evaluations, front)
    for axes, name in zip(above, objectives, strict=True):
        _objective(axes, evaluations, name)
        axes.set_ylabel(printable(name))
    if target is not None:
        above[0].axhline(target, color="gray", linestyle="--", linewidth=1, label="target")
    above[0].set_title(printable(title))
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
    # With several objectives, or in read-only, no evaluation is marked as the best.
    best, line = math.nan, []
    for each in evaluations:
        best = each.objectives[name] if each.best else best
        line.append(best)
    if not math.isnan(best):
        axes.step([each.number for each in evaluations], line, where="post", label="best so far")


def _front(axes: Axes, evaluations: Sequence[Evaluation], front: Sequence[Evaluation]) -> None:
    first, second = evaluations[0].objectives
    for points, style, label in (
        (evaluations, "o", "each evaluation"),
        (front, "o-", "front: nothing beats these in both"),
    ):
        values = [(each.objectives[first], each.objectives[second]) for each in points]
        axes.plot(*zip(*values, strict=True), style, markersize=5, linewidth=1, label=label)
    axes.set(xlabel=printable(first), ylabel=printable(second))
    axes.legend(fontsize="small")


def _variables(axes: Axes, evaluations: Sequence[Evaluation], ranges: Mapping[str, Sequence[float]]) -> None:
    numbers = [each.number for each in evaluations]
    lines: list[Line2D] = []
    together = len({tuple(limits) for limits in ranges.values()}) == 1
    for name in evaluations[0].variables:
        values = [each.variables[name] for each in evaluations]
        if not together and name in ranges:
            low, high = ranges[name]
            values = [(value - low) / (high - low) for value in values]
        lines += axes.plot(numbers, values, ".-", linewidth=1)
    asked = "variables, not set" if evaluations[0].was_set is False else "variables"
    axes.set_ylabel(asked if together else f"{asked} (of their range)")
    if lines:
        # Given explicitly: by default a legend leaves out names that begin with a _.
        axes.legend(lines, list(map(printable, evaluations[0].variables)), fontsize="small", ncols=2)
