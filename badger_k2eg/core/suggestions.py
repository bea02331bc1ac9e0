"""Suggestions for misspelt words, in the one line that reports the mistake. Pure."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from numbers import Real
from typing import Any, TypeVar

from .base_errors import SettingsError

C = TypeVar("C", bound=type)


def close_to(word: str, known: Iterable[str]) -> str | None:
    """Return the known word closest to an unknown one, ignoring case; None if none is close."""
    by_folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str], what: str = "known") -> str:
    """Suggest the closest known word (``did you mean 'run'?``), or list them all.

    :param what: a plural noun for the known words, for the list.
    """
    known = list(known)
    close = close_to(word, known)
    return f"did you mean {close!r}?" if close is not None else f"{what} are {', '.join(known) or 'none'}"


def is_number(value: object) -> bool:
    """Return whether a value is a real number, finite or not; a NaN or a bool is not."""
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def declaration(cls: C) -> C:
    """Make a dataclass report an unknown argument in one line; a decorator above ``@dataclass``.

    :raises SettingsError: (a ValueError) from its constructor, naming the class, the word and the closest known one.
    """
    init: Callable[..., None] = cls.__init__  # type: ignore[misc] # of this very class, not of a subclass
    known = [field.name for field in fields(cls) if field.init]

    @functools.wraps(init)
    def checked(self: Any, *values: Any, **named: Any) -> None:
        first = values[0] if values else named.get(known[0])
        what = cls.__name__ if first is None else f"{cls.__name__} {first}"
        for word in named:
            if word not in known:
                raise SettingsError(f"{what}: there is no {word!r}; {did_you_mean(word, known)}")
        try:
            init(self, *values, **named)
        except TypeError as error:
            # Too many values, or too few; what they are is checked by the class itself.
            raise SettingsError(f"{what}: {str(error).partition('() ')[2] or error}") from None

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def in_lines(error: BaseException) -> str:
    """Return the text of an error with one line for each PV; the error of a single PV is one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) if len(lines) == 2 and lines[0].endswith(":") else "\n".join(lines)
