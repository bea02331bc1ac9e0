"""Many numbers into one: the reducers by name. Pure; imports numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

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
    """Find a reducer: mean, median, min, max, std (of the whole population), last, none, ``percentile 90``.

    :raises ValueError: for an unknown one, listing them.
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
