"""A scan: knobs over a grid of points, observables at each."""

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
    """What was measured at which point.

    :ivar knobs: names of what was turned, the slowest first.
    :ivar points: what each was set to, in the order in which it was done.
    :ivar samples: what was measured there, by name.
    """

    knobs: tuple[str, ...]
    points: tuple[Mapping[str, float], ...]
    samples: tuple[Mapping[str, Sample], ...]

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """Give the values of a knob or an observable, point by point.

        :raises KeyError: for an unknown name.
        """
        if name in self.knobs:
            return np.array([point[name] for point in self.points])
        return np.array([sample[name].value for sample in self.samples])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dict for each point: what was set, and what was measured."""
        return [
            {**point, **{name: sample.value for name, sample in samples.items()}}
            for point, samples in zip(self.points, self.samples, strict=True)
        ]

    def plot(self, file: str | Path) -> Path:
        """Draw it: a line for each observable over one knob, a map over two.

        :raises MissingExtra: where matplotlib is not installed.
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
    """Turn one knob, or two and more, over a grid, and measure at each point.

    The last knob moves fastest, to and fro: the shortest way through the grid. No point is gone to when one of them is
    out of bounds.

    :param knobs: what is turned, by name; a text is a PV without a readback.
    :param grid: the values of each, in the setpoint's unit.
    :param measures: what is measured, by name; a text is a PV, of which the next update after the move counts.
    :param restore: whether the knobs are put back where they were; not after a cancel, which sends nothing more.
    :param skew: how far apart in time the observables of one point may be.
    :raises SetpointBlocked: for a point out of bounds, before anything is moved.
    :raises SetError, ReadError: when a point fails; the knobs are put back if asked.
    """
    declared = {name: Knob(knob) if isinstance(knob, str) else knob for name, knob in knobs.items()}
    wanted = {name: Observable(what) if isinstance(what, str) else what for name, what in measures.items()}
    if set(grid) != set(declared) or not all(len(values) for values in grid.values()):
        raise ValueError(f"a scan needs values for each knob: {', '.join(declared)}; not {dict(grid)!r}")
    mover = Mover(control)
    check_bounds(mover, {declared[name]: values for name, values in grid.items()})
    before = control.get([knob.setpoint for knob in declared.values()])
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
        mover.move({name: before[knob.setpoint] for name, knob in declared.items()}, declared)
    return ScanResult(tuple(grid), tuple(points), tuple(samples))


def check_bounds(mover: Mover, values: Mapping[Knob, Sequence[float]]) -> None:
    """Look at every value before the first is set.

    :raises SetpointBlocked: naming the first that is out of its knob's bounds.
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
        mover.move({name: before[knob.setpoint] for name, knob in knobs.items()}, knobs)
    except Exception:  # what stopped the scan is the error to be told; this one must not hide it
        logger.exception("the knobs of the scan could not be put back")
