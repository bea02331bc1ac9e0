"""A run as a picture: objectives, with the best so far, above the variables. Needs no display, and no machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    direction: int | None,
    ranges: Mapping[str, Sequence[float]],
    target: float | None = None,
    units: Mapping[str, str] | None = None,
) -> Path:
    """Draw a run and save it.

    :param evaluations: one or more.
    :param file: where to; its ending says the format. Its folder is made.
    :param direction: 1 where large is good, -1 where small is, None where there is no best one.
    :param ranges: of each variable, ``(low, high)``; variables are drawn as fractions of it where there are several
        ranges.
    :param target: drawn as a line.
    :param units: of objectives, for the labels.
    :returns: the file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    objectives = list(evaluations[0].objectives)[:_PANELS]
    figure = Figure(figsize=(8, 2.6 * (len(objectives) + 1)), layout="constrained")
    *above, below = figure.subplots(len(objectives) + 1, 1, sharex=True)
    for axes, name in zip(above, objectives, strict=True):
        _objective(axes, evaluations, name, direction)
        axes.set_ylabel(f"{name} ({units[name]})" if units and units.get(name) else name)
    if target is not None:
        above[0].axhline(target, color="gray", linestyle="--", linewidth=1, label="target")
    above[0].set_title(title)
    if direction is not None or not all(each.feasible for each in evaluations):
        above[0].legend(fontsize="small")
    _variables(below, evaluations, ranges)
    below.set_xlabel("evaluation")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    return file


def _objective(axes: Axes, evaluations: Sequence[Evaluation], name: str, direction: int | None) -> None:
    for feasible, marker, label in ((True, "o", "each evaluation"), (False, "x", "a constraint does not hold")):
        chosen = [each for each in evaluations if each.feasible == feasible]
        if chosen:
            numbers = [each.number for each in chosen]
            axes.plot(numbers, [each.objectives[name] for each in chosen], marker, markersize=5, label=label)
    best = [each.objectives[name] if each.best else None for each in evaluations]
    if direction is not None and any(value is not None for value in best):
        so_far: list[Any] = list(accumulate(best, lambda before, now: before if now is None else now))
        line = [float("nan") if value is None else value for value in so_far]
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
