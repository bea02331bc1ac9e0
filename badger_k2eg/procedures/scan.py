"""``scan``: moves knobs over a grid of points, and measures observables at each."""

from __future__ import annotations

import importlib.util
import itertools
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..control import Control
from ..core import clock
from ..core.errors import MissingExtra, SetpointBlocked
from ..core.printable import plain_labels, printable
from ..tuning import Knob, Measurable, Mover, Observable, Sample, Sampler, Skew
from .progress import progress

logger = logging.getLogger("badger_k2eg")


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The points of a scan, and what was measured at each.

    :ivar knobs: the names of the knobs, the slowest first.
    :ivar points: the value of each knob, in the order of measuring.
    :ivar samples: what was measured at each point, by name.
    """

    knobs: tuple[str, ...]
    points: tuple[Mapping[str, float], ...]
    samples: tuple[Mapping[str, Sample], ...]

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """Return the values of a knob or an observable, point by point.

        :raises KeyError: for an unknown name.
        """
        if name in self.knobs:
            return np.array([point[name] for point in self.points])
        return np.array([sample[name].value for sample in self.samples])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each point: what was set, and what was measured."""
        return [
            {**point, **{name: sample.value for name, sample in samples.items()}}
            for point, samples in zip(self.points, self.samples, strict=True)
        ]

    def plot(self, file: str | Path) -> Path:
        """Draw it into a file: a line for each observable over one knob, a map over two.

        :raises MissingExtra: when matplotlib is not installed.
        """
        if importlib.util.find_spec("matplotlib") is None:
            raise MissingExtra("a plot", "demo")
        return self._draw(Path(file))

    @plain_labels()
    def _draw(self, file: Path) -> Path:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        names = list(self.samples[0]) if self.samples else []
        figure = Figure(figsize=(7.0, 0.5 + 2.8 * max(1, len(names))), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, name in zip(figure.subplots(max(1, len(names)), squeeze=False)[:, 0], names, strict=False):
            x, values = self.column(self.knobs[-1]), self.column(name)
            axes.set_xlabel(printable(self.knobs[-1]))
            if len(self.knobs) == 1:
                axes.plot(x, values, "o-")
                axes.set_ylabel(printable(name))
            else:
                drawn = axes.tripcolor(x, self.column(self.knobs[0]), values) if len(x) > 3 else None
                axes.set_ylabel(printable(self.knobs[0]))
                if drawn is not None:
                    figure.colorbar(drawn, ax=axes, label=printable(name))
        figure.savefig(file, dpi=110)
        return file


def scan(
    control: Control,
    knobs: Mapping[str, Knob | str],
    grid: Mapping[str, Sequence[float]],
    measures: Mapping[str, Measurable | str],
    *,
    restore: bool = True,
    skew: Skew | None = None,
) -> ScanResult:
    """Move one or more knobs over a grid, and measure at each point.

    The last knob moves fastest, to and fro: the shortest path through the grid. Nothing is set if any point is out of
    bounds.

    :param knobs: what is moved, by name; a text is a PV without a readback.
    :param grid: the values of each, in the setpoint's unit.
    :param measures: what is measured, by name; a text is a PV whose next update after the move counts.
    :param restore: whether to set the knobs back to where they were; not after a cancel, which sends nothing more.
    :param skew: how far apart in time the observables of one point may be.
    :raises SetpointBlocked: for a point out of bounds, before anything is set.
    :raises SetError, ReadError: when a point fails; the knobs are set back if ``restore``.
    """
    declared = {name: knob_of(knob) for name, knob in knobs.items()}
    wanted = {name: Observable(what) if isinstance(what, str) else what for name, what in measures.items()}
    if set(grid) != set(declared) or not all(len(values) for values in grid.values()):
        raise ValueError(f"a scan needs values for each knob, {', '.join(declared)}, not {dict(grid)!r}")
    mover = Mover(control)
    check_bounds(mover, {declared[name]: values for name, values in grid.items()})
    values = control.get([knob.setpoint for knob in declared.values()])
    before = {name: values[knob.setpoint] for name, knob in declared.items()}
    points = list(_way(grid))
    samples: list[Mapping[str, Sample]] = []
    sampler = Sampler(control)
    try:
        for number, point in enumerate(points, 1):
            mover.move(point, declared)
            samples.append(sampler.measure(wanted, since=clock.monotonic(), skew=skew))
            progress(number, len(points), _line(point, samples[-1]))
    except CancelledError:
        raise
    except Exception:
        if restore:
            _put_back(mover, declared, before)
        raise
    finally:
        sampler.close()
    if restore:
        mover.move(before, declared)
    return ScanResult(tuple(grid), tuple(points), tuple(samples))


def knob_of(knob: Knob | str) -> Knob:
    """Return a knob; a text is a PV without a readback."""
    return Knob(knob) if isinstance(knob, str) else knob


def check_bounds(mover: Mover, values: Mapping[Knob, Sequence[float]]) -> None:
    """Check every value before the first one is set.

    :raises SetpointBlocked: naming the first value out of its knob's bounds.
    :raises ReadError: when a record that has the bounds does not answer.
    """
    limits = mover.bounds.find(values)
    for knob, wanted in values.items():
        for value in wanted:
            if value not in limits[knob.setpoint]:
                raise SetpointBlocked(
                    f"nothing was set: {value:g} is outside the bounds of {knob.setpoint}, {limits[knob.setpoint]}"
                )


def _way(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    names = list(grid)
    points: list[dict[str, float]] = []
    for turn, slow in enumerate(itertools.product(*(grid[name] for name in names[:-1]))):
        fast = grid[names[-1]] if turn % 2 == 0 else grid[names[-1]][::-1]
        points += [dict(zip(names, (*slow, value), strict=True)) for value in fast]
    return points


def _line(point: Mapping[str, float], samples: Mapping[str, Sample]) -> str:
    set_to = ", ".join(f"{name} = {value:g}" for name, value in point.items())
    return f"{set_to}: " + ", ".join(f"{name} {_shown(sample.value)}" for name, sample in samples.items())


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _put_back(mover: Mover, knobs: Mapping[str, Knob], before: Mapping[str, float]) -> None:
    try:
        mover.move(before, knobs)
    except Exception:  # the error that stopped the scan is the one to raise; this one must not hide it
        logger.exception("the knobs of the scan could not be set back")
