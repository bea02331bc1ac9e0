"""``Query`` and ``TagFilter``: which lines and which runs of a journal are wanted, and how a user writes that. Pure.

An unknown word is an error that says what was meant: it must never count as "no filter".
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
    """Which lines; what is None, or empty, asks for nothing in particular.

    :ivar first: the first line.
    :ivar end: the line after the last: ranges are half open.
    :ivar since_ns: nanoseconds since the Unix epoch.
    :ivar until_ns: the first time that is too late.
    :ivar run: the id of a run, whole.
    :ivar pvs: names, however they are written, or patterns (see ``names.fits``).
    :ivar level: the least.
    :ivar limit: the most lines.
    :ivar newest_first: in the order of falling numbers.
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
    """Read kinds: ``put``, ``run.begin``, or ``run`` for both ends of one.

    :raises NoSuchRecord: for a word that is none.
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
    """Read outcomes of puts; ``not-sent`` and ``not_sent`` are ``not sent``.

    :raises NoSuchRecord: for a word that is none.
    """
    known = {outcome.value: outcome for outcome in Outcome}
    return tuple(_known(re.sub("[-_]", " ", word.lower()), known, "outcome", "outcomes") for word in words)


def level(word: str) -> Level:
    """Read a level.

    :raises NoSuchRecord: for a word that is none.
    """
    known = {level.name.lower(): level for level in Level}
    found: Level = _known(word.lower(), known, "level", "levels")
    return found


def _known(word: str, known: dict[str, Any], what: str, plural: str) -> Any:
    if word not in known:
        raise NoSuchRecord(f"there is no {what} {word!r}; {did_you_mean(word, known, plural)}")
    return known[word]


def moment(text: str, now: float | None = None) -> int:
    """Read a point in time: ``2026-11-21 12:00``, ``12:00`` (today), ``today``, ``yesterday``, ``90min``, ``2 h ago``.

    A time without a zone is local time.

    :param now: seconds since the Unix epoch.
    :returns: nanoseconds since the Unix epoch.
    :raises NoSuchRecord: when it is none of these.
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
        raise NoSuchRecord(f"{text!r} is no time; {hint}") from None


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
        match = _TAG.fullmatch(words.strip())
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
