"""``Query`` and ``TagFilter``: which lines and which runs of a journal are wanted, and how a user writes that. Pure.

An unknown word is an error with a suggestion: it must never count as "no filter".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from ..core import clock
from ..core.errors import NoSuchRecord
from ..core.model import Outcome
from ..core.records import Level, RecordKind
from ..core.suggestions import did_you_mean

E = TypeVar("E", bound=Enum)

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)(?:\s+ago)?")
_TAG = re.compile(r"(?P<name>[^=<>]+?)\s*(?:(?P<sign><=|>=|<|>|=)\s*(?P<value>.+))?")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which lines to return; an attribute that is None or empty does not restrict them.

    :ivar first: the first line.
    :ivar end: the line after the last: ranges are half open.
    :ivar since_ns: nanoseconds since the Unix epoch.
    :ivar until_ns: the end of the time range, exclusive.
    :ivar run: the id of a run, whole.
    :ivar pvs: names in any spelling, or patterns (see ``core.pv_names.fits``).
    :ivar level: the lowest.
    :ivar limit: how many lines at most.
    :ivar newest_first: in descending order of their numbers.
    """

    first: int | None = None
    end: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    run: str | None = None
    evaluation: int | None = None
    pvs: tuple[str, ...] = ()
    level: Level | None = None
    outcomes: tuple[Outcome, ...] = ()
    kinds: tuple[RecordKind, ...] = ()
    exclude: tuple[RecordKind, ...] = ()
    host: str | None = None
    user: str | None = None
    process: int | None = None
    limit: int | None = None
    newest_first: bool = False


def kinds(words: Iterable[str]) -> tuple[RecordKind, ...]:
    """Return the kinds that words name: ``put``, ``run.begin``, or ``run`` for both its begin and its end.

    :raises NoSuchRecord: for an unknown word.
    """
    found: list[RecordKind] = []
    known = {**{kind.value: [kind] for kind in RecordKind}}
    for kind in RecordKind:
        if kind.value.endswith(".begin"):
            stem = kind.value.removesuffix(".begin")
            known[stem] = [kind, RecordKind(f"{stem}.end")]
    for word in words:
        found += _known(word, known, "kind of line", "kinds")
    return tuple(found)


def outcomes(words: Iterable[str]) -> tuple[Outcome, ...]:
    """Return the outcomes that words name; ``not-sent`` and ``not_sent`` are ``not sent``.

    :raises NoSuchRecord: for an unknown word.
    """
    known = {outcome.value: outcome for outcome in Outcome}
    return tuple(_known(re.sub("[-_]", " ", word.lower()), known, "outcome", "outcomes") for word in words)


def level(word: str) -> Level:
    """Return the level that a word names.

    :raises NoSuchRecord: for an unknown word.
    """
    known = {level.name.lower(): level for level in Level}
    found: Level = _known(word.lower(), known, "level", "levels")
    return found


def _known(word: str, known: dict[str, Any], what: str, plural: str) -> Any:
    if word not in known:
        raise NoSuchRecord(f"there is no {what} {word!r}; {did_you_mean(word, known, plural)}")
    return known[word]


def moment(text: str, now: float | None = None) -> int:
    """Parse a time: ``2026-11-21 12:00``, ``12:00`` (today), ``today``, ``yesterday``, ``90min``, ``2 h ago``.

    A time without a zone is local time.

    :param now: seconds since the Unix epoch.
    :returns: nanoseconds since the Unix epoch.
    :raises NoSuchRecord: for any other text.
    """
    now = clock.time() if now is None else now
    words = text.strip().lower()
    midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    if match := _AGO.fullmatch(words):
        return int((now - float(match[1]) * _SECONDS[match[2]]) * 1e9)
    if words == "now":
        return int(now * 1e9)
    try:
        if words in ("today", "yesterday"):
            found = midnight - timedelta(days=words == "yesterday")
        elif re.match(r"\d{1,2}:\d\d", words):
            of_day = datetime.fromisoformat(f"2000-01-01T{words:0>5}" if len(words) < 5 else f"2000-01-01T{words}")
            found = midnight.replace(hour=of_day.hour, minute=of_day.minute, second=of_day.second)
        else:
            found = datetime.fromisoformat(text.strip())
        return round(found.timestamp() * 1e6) * 1000
    except (ValueError, OverflowError, OSError):
        hint = "write 2026-11-21 12:00, 12:00, today, yesterday, or how long ago: 90min, 2h, 3d"
        raise NoSuchRecord(f"{text!r} is not a time; {hint}") from None


@dataclass(frozen=True, slots=True)
class TagFilter:
    """A condition on one tag of a run: ``operator=Ada``, ``charge=0.2..0.5``, ``charge>0.2``, ``golden``.

    :ivar text: a pattern for the text (``*``, ``?``); None asks for a range of numbers, or any value.
    :ivar low: inclusive, unless ``open``.
    :ivar open: whether the range excludes its ends.
    """

    name: str
    text: str | None = None
    low: float = -math.inf
    high: float = math.inf
    ranged: bool = False
    open: bool = False

    @classmethod
    def parse(cls, words: str) -> TagFilter:
        """Parse a condition.

        :raises NoSuchRecord: for any other text.
        """
        match = _TAG.fullmatch(words.strip())
        if match is None:
            raise NoSuchRecord(f"{words!r} is not a tag condition; write NAME, NAME=TEXT, NAME=0.2..0.5 or NAME>0.2")
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
                raise NoSuchRecord(f"{words!r}: the range of a tag needs numbers") from None
            return cls(name, text=value)

    def fits(self, tags: Mapping[str, str | float]) -> bool:
        """Whether a run with these tags meets it."""
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
