"""Misspelt words: which one was meant, in the one line that tells the mistake. Pure; imports errors alone."""

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
    """Find the known word that was probably meant, whatever its case; None where none is close."""
    by_folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str], what: str = "known") -> str:
    """Say which of the known words was meant, or name them all: ``did you mean 'run'?``.

    :param what: the known words in the plural, for the latter.
    """
    known = list(known)
    close = close_to(word, known)
    return f"did you mean {close!r}?" if close is not None else f"{what} are {', '.join(known) or 'none'}"


def is_number(value: object) -> bool:
    """Whether it is a real number, finite or not; a NaN or a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def declaration(cls: C) -> C:
    """Let a dataclass tell a word that it does not know in one line; stands above ``@dataclass``.

    :raises SettingsError: (a ValueError) from its constructor, naming the declaration, the word and what was meant.
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
    """Tell an error that names PVs, one in each line; of one PV alone it is one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) if len(lines) == 2 and lines[0].endswith(":") else "\n".join(lines)
