"""Addresses of PVs, the canonical name of each however it is written, and patterns of names. Pure.

``X``, ``X.``, ``X.VAL``, ``X.{}``, ``X.VAL{...}``, ``X.[0]``, ``X.VAL$``, ``pva://X`` and ``ca://X`` all write to the
same value (measured with EPICS 7 over both protocols): ``own_name`` returns ``X`` for all of them. ``X.HIHI`` is
another PV.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from .base_errors import PvNameError

SCHEMES = ("pva", "ca")

# What EPICS sites use in names, without what can only be a mistake: white space, quotes, wildcards, commas.
_NAME = re.compile(r"[A-Za-z0-9_:;<>\[\]{}()/#@%=&!~^|+.-]+\$?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# What an IOC reads as a field of a record: no name stands for VAL; "$" asks for it as a long text, "[...]" and "{...}"
# are filters on what is read. They come after the dot alone: a record's own name may have brackets and braces too.
_OF_RECORD = re.compile(r"(?P<record>.+?)\.(?P<field>[A-Za-z_]\w*)?\$?(?:\[[^\]]*\])?(?:\{.*\})?", re.ASCII)
_READS_ALIKE = re.compile(r"(?P<name>.+?)\.(?:VAL)?(?:\{\})?")
# "[[]" is a bracket too, as in shells.
_WILDCARD = re.compile(r"\*|\?|\[\[\]|\[!?(?:[A-Za-z0-9]-[A-Za-z0-9])+\]")


@dataclass(frozen=True, slots=True)
class PvAddress:
    """The address of a PV: ``pva://NAME``, ``ca://NAME``, or a bare ``NAME`` that uses the interface's transport.

    :ivar text: as the caller wrote it; the key that comes back in answers.
    :ivar name: the PV's name alone.
    :ivar scheme: ``pva``, ``ca``, or None for a bare name.
    :ivar real: if the name is an alias of a record, the PV by the record's own name.
    """

    text: str
    name: str
    scheme: str | None = None
    real: str | None = None

    @classmethod
    def parse(cls, text: object) -> PvAddress:
        """Return the address that a text means.

        :raises PvNameError: if it cannot be one; nothing is sent for it.
        """
        if not isinstance(text, str):
            raise PvNameError(str(text), f"the name of a PV is a text, not {type(text).__name__}")
        scheme, name = None, text
        if match := _SCHEME.fullmatch(text):
            scheme, name = match[1], match[2]
            if scheme not in SCHEMES:
                hint = " (schemes are lower case)" if scheme.lower() in SCHEMES else ""
                raise PvNameError(text, f"unknown scheme {scheme!r}; use pva:// or ca://{hint}")
        if "$(" in name or "${" in name:
            raise PvNameError(text, "malformed name: it contains a macro that was not expanded")
        if not _NAME.fullmatch(name) or "://" in name:
            wrong = sorted({c for c in name if not _NAME.fullmatch(c)})
            reason = f"it contains {' '.join(map(repr, wrong))}" if wrong else "it is empty" if not name else "bad form"
            raise PvNameError(text, f"malformed name: {reason}")
        return cls(text, name, scheme)

    @property
    def own_name(self) -> str:
        """The canonical name of the value that a put goes to, by which it is guarded, locked and compared."""
        return self.real or own_name(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the PV: its own, and the alias that was written."""
        return (self.real, own_name(self.name)) if self.real else (own_name(self.name),)

    @property
    def read_name(self) -> str:
        """The name without what makes no difference to a read, like ``.VAL``."""
        return read_name(self.name)

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def record_and_field(name: str) -> tuple[str, str]:
    """Split a PV's name into the record and the field that a put goes to; empty for the record's value, VAL.

    >>> record_and_field("QUAD:1.VAL{}"), record_and_field("QUAD:1.DRVH"), record_and_field("XF{IOC-1}Val")
    (('QUAD:1', ''), ('QUAD:1', 'DRVH'), ('XF{IOC-1}Val', ''))
    """
    record, field = name, ""
    # Repeated: the rest may end like the value of a record again (X.VAL.).
    while not field and (match := _OF_RECORD.fullmatch(record)) is not None:
        record, field = match["record"], "" if match["field"] in (None, "VAL") else match["field"]
    return record, field


def own_name(text: str) -> str:
    """Return the canonical name of the value that a put goes to, however it is written."""
    return joined(*record_and_field(without_scheme(text)))


def joined(record: str, field: str) -> str:
    """Return the name of a record's field; the inverse of ``record_and_field``."""
    return f"{record}.{field}" if field else record


def read_name(name: str) -> str:
    """Remove what makes no difference to a read: ``X.VAL`` reads the same as ``X``, but ``X.[0:2]`` does not."""
    return match["name"] if (match := _READS_ALIKE.fullmatch(name)) is not None else name


def without_scheme(text: str) -> str:
    """Remove ``pva://`` or ``ca://``."""
    scheme, mark, name = text.partition("://")
    return name if mark and scheme in SCHEMES else text


# -- patterns -------------------------------------------------------------------------------------------------------


def fits(name: str, pattern: str) -> bool:
    """Return whether a PV's own name matches a pattern; case counts.

    ``*`` stands for any text, ``?`` for one character, ``[1-4]`` for one of a range, ``[!1-4]`` for one that is not.
    All else is literal, other brackets too: ``Q[1]`` is the PV of that name, and not ``Q1``. A name always matches
    itself, and the pattern may be written in every way that a name may.
    """
    exact, whole, value = _expressions(pattern)
    return name == exact or whole.fullmatch(name) is not None or (value is not None and value(name))


def covers(name: str, pattern: str) -> bool:
    """Return whether a restriction on a pattern applies to a PV: if it matches, by our rules or by those of a shell.

    For a permission, which must not be wider than intended, ``QUAD:[12]`` is the PV of that name. A restriction must
    not be narrower than intended: it applies to ``QUAD:1`` and ``QUAD:2`` too.
    """
    if fits(name, pattern) or "[" not in pattern:
        return fits(name, pattern)
    wanted, is_field = own_name(pattern), record_and_field(name)[1] == record_and_field(pattern)[1]
    return fnmatchcase(name, pattern) or (is_field and fnmatchcase(name, wanted))


def is_pattern(text: str) -> bool:
    """Return whether a text has a wildcard, and is not just the name of a PV."""
    return _WILDCARD.search(text) is not None


@lru_cache(maxsize=4096)
def _expressions(pattern: str) -> tuple[str, re.Pattern[str], Callable[[str], bool] | None]:
    """Return a pattern as a name, as an expression, and as a test for one field if it ends like a field."""
    pattern, wanted = without_scheme(pattern), own_name(pattern)
    if wanted == pattern:
        return wanted, _expression(pattern), None
    field, of_field = record_and_field(pattern)[1], _expression(wanted)
    # Q*.VAL is Q* without the other fields.
    return (
        wanted,
        _expression(pattern),
        lambda name: record_and_field(name)[1] == field and of_field.fullmatch(name) is not None,
    )


def _expression(pattern: str) -> re.Pattern[str]:
    parts, end = [], 0
    for wildcard in _WILDCARD.finditer(pattern):
        parts += [re.escape(pattern[end : wildcard.start()]), _meaning(wildcard[0])]
        end = wildcard.end()
    return re.compile("".join([*parts, re.escape(pattern[end:])]), re.DOTALL)


def _meaning(wildcard: str) -> str:
    if wildcard in ("*", "?", "[[]"):
        return {"*": ".*", "?": ".", "[[]": r"\["}[wildcard]
    ends = wildcard.strip("[!]").replace("-", "")
    if any(low > high for low, high in zip(ends[::2], ends[1::2], strict=True)):
        return re.escape(wildcard)  # not a range
    return wildcard.replace("!", "^")
