"""Which runs have which tags: ``operator=Ada``, ``charge=0.2..0.5``, ``charge>0.2``, ``golden``. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..core.errors import NoSuchRecord

_FORM = re.compile(r"(?P<name>[^=<>]+?)\s*(?:(?P<sign><=|>=|<|>|=)\s*(?P<value>.+))?")


@dataclass(frozen=True, slots=True)
class TagFilter:
    """One condition on the tags of a run.

    :ivar text: a pattern for the text (``*``, ``?``); None where a range of numbers is asked for, or any value.
    :ivar low: inclusive, but for ``open``.
    :ivar open: whether the ends do not belong to it.
    """

    name: str
    text: str | None = None
    low: float = -math.inf
    high: float = math.inf
    ranged: bool = False
    open: bool = False

    @classmethod
    def parse(cls, words: str) -> TagFilter:
        """Read a condition.

        :raises NoSuchRecord: when it is none.
        """
        match = _FORM.fullmatch(words.strip())
        if match is None:
            raise NoSuchRecord(f"{words!r} is no condition on a tag; write NAME, NAME=TEXT, NAME=0.2..0.5 or NAME>0.2")
        name, sign, value = match["name"], match["sign"], match["value"]
        if sign is None:
            return cls(name)
        low, dots, high = value.partition("..")
        try:
            if sign != "=":
                number = float(value)
                ends = (-math.inf, number) if "<" in sign else (number, math.inf)
                return cls(name, low=ends[0], high=ends[1], ranged=True, open="=" not in sign)
            if dots:
                return cls(name, low=float(low or "-inf"), high=float(high or "inf"), ranged=True)
            return cls(name, low=float(value), high=float(value), ranged=True)
        except ValueError:
            if sign != "=" or dots:
                raise NoSuchRecord(f"{words!r}: a range of a tag needs numbers") from None
            return cls(name, text=value)

    def fits(self, tags: Mapping[str, str | float]) -> bool:
        """Whether a run with these tags is meant."""
        value = tags.get(self.name)
        if value is None:
            return False
        if self.ranged:
            if isinstance(value, str):
                return False
            return self.low < value < self.high if self.open else self.low <= value <= self.high
        return self.text is None or fnmatchcase(str(value), self.text)


def all_fit(filters: Iterable[TagFilter], tags: Mapping[str, str | float]) -> bool:
    """Whether every condition is met."""
    return all(each.fits(tags) for each in filters)
