"""Taking time: several ways to do the same, in turn, round by round, so that all of them meet the same machine."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Series:
    """The seconds that one way took, one for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """Seconds."""
        return min(self.seconds)

    @property
    def most(self) -> float:
        """Seconds."""
        return max(self.seconds)

    def over(self, other: Series) -> float:
        """Give the median of the ratios to another series, round by round."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

    def plus(self, seconds: float) -> Series:
        """Give the series with so much added to each."""
        return Series(tuple(each + seconds for each in self.seconds))


def take_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    after: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Series]:
    """Time every way once in each round.

    The order goes round too: who comes first finds colder caches, and what the one before left behind.

    :param warm_up: rounds that do not count: channels are connected, and code is imported, in the first.
    :param after: what is done after each call of a way, and not timed.
    """
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()  # the garbage of one is not to be collected in another's time
            began = time.perf_counter()
            ways[name]()
            seconds = time.perf_counter() - began
            if number >= 0:
                taken[name].append(seconds)
            if after and name in after:
                after[name]()
    return {name: Series(tuple(seconds)) for name, seconds in taken.items()}
