"""Observables from readings: masks, reducers, formulas, and their errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import PvError, PvInvalid, ReadError, read_failure
from ..core.model import Reading
from ..core.printable import printable
from .observables import Buffer, Expression, Measurable, Observable, Sample, reducer

#: The name of an observable, and of one of its parts.
Key = tuple[str, str]


def is_single(what: Measurable) -> bool:
    """Whether it needs only one reading of each of its PVs."""
    return all(isinstance(leaf, Observable) and leaf.samples == 1 for leaf in leaves_of(what).values())


def newest_of(leaves: Mapping[Key, Observable | Buffer], taken: Mapping[Key, Sequence[Reading]]) -> dict[str, Reading]:
    """Return the newest reading of each PV that must be fresh."""
    fresh = {key for key, leaf in leaves.items() if isinstance(leaf, Buffer) or leaf.fresh}
    return {leaves[key].pv: taken[key][-1] for key in fresh if taken.get(key)}


def leaves_of(what: Measurable) -> dict[str, Observable | Buffer]:
    """Return its parts, by the names in its formula."""
    return dict(what.parts) if isinstance(what, Expression) else {"": what}


def masks_of(
    leaves: Mapping[Key, Observable | Buffer],
    taken: Mapping[Key, list[Reading]],
    errors: dict[Key, PvError],
) -> dict[tuple[str, int], Any]:
    """Return, for each group of buffers, which points are finite in all; add an error for a buffer too short."""
    masks: dict[tuple[str, int], Any] = {}
    for key, leaf in leaves.items():
        if not isinstance(leaf, Buffer) or key not in taken:
            continue
        try:
            good = np.isfinite(_tail(leaf, taken[key][0]))
        except PvError as error:
            errors[key] = error
            continue
        if leaf.group:
            group = leaf.group, leaf.points
            masks[group] = masks[group] & good if group in masks else good
    return masks


def _tail(leaf: Buffer, reading: Reading) -> Any:
    """Return the newest points of a buffer.

    :raises PvInvalid: when the buffer has fewer.
    """
    values = np.asarray(reading.value, dtype=float)
    if values.ndim != 1 or len(values) < leaf.points:
        raise PvInvalid(leaf.pv, f"the buffer has {values.size} points, and {leaf.points} are needed")
    return values[-leaf.points :]


def sample_of(
    name: str,
    what: Measurable,
    leaves: Mapping[Key, Observable | Buffer],
    taken: Mapping[Key, list[Reading]],
    errors: Mapping[Key, PvError],
    masks: Mapping[tuple[str, int], Any],
) -> Sample:
    """Return the value of an observable, from the readings of its parts.

    :raises PvError: when a part is missing, or the formula fails.
    """
    values: dict[str, Any] = {}
    readings: list[Reading] = []
    partly = False
    for part in leaves_of(what):
        if (name, part) in errors:
            raise errors[name, part]
        leaf, got = leaves[name, part], taken[name, part]
        readings += got
        values[part] = _reduced(leaf, got, masks)
        partly |= isinstance(leaf, Observable) and leaf.fresh and len(got) < leaf.samples
    if isinstance(what, Expression):
        try:
            value = what.formula(**values)
        except ArithmeticError as error:
            raise PvInvalid(name, f"{what.formula.text}: {error}, with {values}") from None
    else:
        value = values[""]
    return Sample(value.item() if isinstance(value, np.generic) else value, tuple(readings), partly)


def _reduced(leaf: Observable | Buffer, got: Sequence[Reading], masks: Mapping[tuple[str, int], Any]) -> Any:
    reduce = reducer(leaf.reduce)
    if isinstance(leaf, Buffer):
        values = _tail(leaf, got[0])
        good = values[masks.get((leaf.group, leaf.points), np.isfinite(values))]
        if not len(good):
            raise PvInvalid(leaf.pv, f"none of its last {leaf.points} points is a number")
        return reduce(good)
    values = [reading.value for reading in got]
    if leaf.reduce == "none":
        return values[-1]
    try:
        # Each array is reduced by itself, and then the results.
        return reduce([reduce(value) if np.ndim(value) else value for value in values])
    except (TypeError, ValueError):
        raise PvInvalid(leaf.pv, f"{values[-1]!r} cannot be reduced by {leaf.reduce}") from None


def hertz(pv: str, reading: Reading) -> float:
    """Return a rate in Hz, from a number or a label like ``120 Hz``.

    :raises ReadError: when it is zero: there is no beam to wait for.
    """
    text = reading.label if reading.label is not None else str(reading.value)
    number = re.match(r"\s*([0-9.]+)", text)
    rate = float(number[1]) if number else 0.0
    if rate <= 0.0:
        raise failure_of({pv: PvInvalid(pv, f"the beam rate is {text!r}")}, {})
    return rate


def failure_of(errors: Mapping[str, PvError], values: Mapping[str, Any]) -> ReadError:
    """Return the error of a measurement, with one line for each observable."""
    lines = [str(error) if error.pv in (name, "") else printable(f"{name}: {error}") for name, error in errors.items()]
    return read_failure(errors, values, "\n".join(lines))
