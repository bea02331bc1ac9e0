"""Declarations of what is measured: ``Observable``, ``Buffer``, ``Expression``. Pure; nothing here reaches a PV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from ..core.model import Reading
from ..core.suggestions import declaration, is_number
from .formula import Formula

_BY_NAME: dict[str, Callable[[Any], Any]] = {
    "mean": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
    "std": np.std,
    "last": lambda values: np.asarray(values)[-1],
    "none": lambda values: values,
}


def reducer(name: str) -> Callable[[Any], Any]:
    """Return a reducer: mean, median, min, max, std (of the population), last, none, ``percentile 90``.

    :raises ValueError: for an unknown name, listing the known ones.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    word, _, number = str(name).partition(" ")
    if word == "percentile":
        try:
            q = float(number)
        except ValueError:
            q = -1.0
        if 0.0 <= q <= 100.0:
            return partial(np.percentile, q=q)
    raise ValueError(f"there is no reducer {name!r}; there are {', '.join(_BY_NAME)} and 'percentile Q' (0 to 100)")


@declaration
@dataclass(frozen=True, slots=True)
class Observable:
    """The value of a PV, from one update or several.

    :ivar samples: how many distinct updates are taken.
    :ivar reduce: mean, median, min, max, last, std, ``percentile 90``; for an array PV it reduces each array, and then
        the samples; ``none`` leaves an array as it is.
    :ivar timeout: seconds for all samples; None takes the interface's.
    :ivar fresh: whether only updates after the move count; False for a PV that never changes.
    :ivar at_least: how many samples suffice when the time is over; the result is then marked as partial. None: all.
    """

    pv: str
    samples: int = 1
    reduce: str = "mean"
    timeout: float | None = None
    fresh: bool = True
    at_least: int | None = None

    def __post_init__(self) -> None:
        _check(self)
        if not _is_count(self.samples):
            raise ValueError(f"{self.pv}: samples must be a whole number >= 1, not {self.samples!r}")
        if self.at_least is not None and not (_is_count(self.at_least) and self.at_least <= self.samples):
            raise ValueError(f"{self.pv}: at_least must be from 1 to samples ({self.samples}), not {self.at_least!r}")


@declaration
@dataclass(frozen=True, slots=True)
class Buffer:
    """The newest points of a beam-synchronous buffer, all taken after the move.

    Waits until the beam has refilled them: points / rate seconds, and then the next update.

    :ivar points: how many of the newest elements are taken.
    :ivar rate: the beam rate in Hz, or the PV that has it (a number, or an enum with labels like ``120 Hz``).
    :ivar reduce: as for ``Observable``.
    :ivar group: a point that is NaN in one buffer of a group is left out of all of them.
    """

    pv: str
    points: int
    rate: str | float
    reduce: str = "mean"
    group: str = ""
    timeout: float | None = None

    def __post_init__(self) -> None:
        _check(self)
        if not _is_count(self.points):
            raise ValueError(f"{self.pv}: points must be a whole number >= 1, not {self.points!r}")
        if not isinstance(self.rate, str) and not (is_number(self.rate) and self.rate > 0):
            raise ValueError(f"{self.pv}: the rate must be a number of Hz > 0, or a PV, not {self.rate!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _check(leaf: Observable | Buffer) -> None:
    if not isinstance(leaf.pv, str) or not leaf.pv.strip():
        raise ValueError(f"{type(leaf).__name__}: a PV must be a text, not {leaf.pv!r}")
    if leaf.timeout is not None and not is_number(leaf.timeout):
        raise ValueError(f"{leaf.pv}: the timeout must be a number of seconds, not {leaf.timeout!r}")
    try:
        reducer(leaf.reduce)
    except ValueError as error:
        raise ValueError(f"{leaf.pv}: {error}") from None


@dataclass(frozen=True)
class Expression:
    """A formula of other observables: ``Expression("sqrt(x * y)", x="SCREEN:X", y=Observable("SCREEN:Y", samples=5))``.

    :param formula: arithmetic, comparisons and the functions of ``tuning.formula``.
    :param parts: the observable that each name in it stands for; a text is a PV.
    :raises ValueError: for an invalid formula, or a name without a part.
    """

    formula: Formula
    parts: Mapping[str, Observable | Buffer]

    def __init__(self, formula: str, **parts: Observable | Buffer | str) -> None:
        for name, part in parts.items():
            if not isinstance(part, Observable | Buffer | str):
                raise ValueError(f"formula {formula!r}: {name} must be a PV, an Observable or a Buffer, not {part!r}")
        object.__setattr__(self, "formula", Formula(formula, parts))
        if unused := parts.keys() - self.formula.names:
            raise ValueError(f"formula {formula!r} has no {', '.join(sorted(unused))}")
        object.__setattr__(
            self, "parts", {name: Observable(part) if isinstance(part, str) else part for name, part in parts.items()}
        )

    def filled(self, fill: Callable[[Any], Any]) -> Expression:
        """Return the expression with its parts filled in."""
        return Expression(self.formula.text, **fill(dict(self.parts)))


Measurable = Observable | Buffer | Expression


@dataclass(frozen=True, slots=True)
class Sample:
    """A measured value.

    :ivar value: a number, or an unreduced array.
    :ivar readings: the readings that it was made of, oldest first.
    :ivar partial: whether fewer updates arrived than were asked for.
    :ivar skewed: whether it was not taken at the same instant as the others (``Skew``).
    """

    value: Any
    readings: tuple[Reading, ...] = ()
    partial: bool = False
    skewed: bool = False
