"""Addresses of PVs, the one name of each however it is written, and patterns of names. Pure; imports errors.

``X``, ``X.``, ``X.VAL``, ``X.{}``, ``X.VAL{...}``, ``X.[0]``, ``X.VAL$``, ``pva://X`` and ``ca://X`` are ways to write
to one and the same value [M, EPICS 7, over both protocols]: ``own_name`` gives ``X`` for all of them. ``X.HIHI`` is
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

# What EPICS sites really use in names, less what can only be a slip: white space, quotes, wildcards, commas.
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
    """Where a PV is: ``pva://NAME``, ``ca://NAME``, or a bare ``NAME`` that takes the interface's own way.

    :ivar text: as the caller wrote it; the key that comes back in answers.
    :ivar name: the PV's name alone.
    :ivar scheme: ``pva``, ``ca``, or None for a bare name.
    :ivar real: where the name is an alias of a record, the PV by the record's own name.
    """

    text: str
    name: str
    scheme: str | None = None
    real: str | None = None

    @classmethod
    def parse(cls, text: object) -> PvAddress:
        """Read an address.

        :raises PvNameError: when it cannot be one; nothing is sent for it.
        """
        if not isinstance(text, str):
            raise PvNameError(str(text), f"a PV is named by a text, not by {type(text).__name__}")
        scheme, name = None, text
        if match := _SCHEME.fullmatch(text):
            scheme, name = match[1], match[2]
            if scheme not in SCHEMES:
                hint = " (schemes are lower case)" if scheme.lower() in SCHEMES else ""
                raise PvNameError(text, f"unknown scheme {scheme!r}; use pva:// or ca://{hint}")
        if "$(" in name or "${" in name:
            raise PvNameError(text, "malformed name: it holds a macro that nobody expanded")
        if not _NAME.fullmatch(name) or "://" in name:
            wrong = sorted({c for c in name if not _NAME.fullmatch(c)})
            reason = f"it holds {' '.join(map(repr, wrong))}" if wrong else "it is empty" if not name else "bad form"
            raise PvNameError(text, f"malformed name: {reason}")
        return cls(text, name, scheme)

    @property
    def own_name(self) -> str:
        """The one name of what a put to it goes to, by which it is guarded, locked and told from others."""
        return self.real or own_name(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the PV is known by: its own, and the alias that was written."""
        return (self.real, own_name(self.name)) if self.real else (own_name(self.name),)

    @property
    def read_name(self) -> str:
        """The name without what changes nothing for a reader, like ``.VAL``."""
        return read_name(self.name)

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def record_and_field(name: str) -> tuple[str, str]:
    """Take a PV's name apart: the record, and the field that a put goes to; empty for the record's value, VAL.

    >>> record_and_field("QUAD:1.VAL{}"), record_and_field("QUAD:1.DRVH"), record_and_field("XF{IOC-1}Val")
    (('QUAD:1', ''), ('QUAD:1', 'DRVH'), ('XF{IOC-1}Val', ''))
    """
    record, field = name, ""
    # More than once: what is left may end like the value of a record again (X.VAL.).
    while not field and (match := _OF_RECORD.fullmatch(record)) is not None:
        record, field = match["record"], "" if match["field"] in (None, "VAL") else match["field"]
    return record, field


def own_name(text: str) -> str:
    """Give the one name of what a put goes to, however it is written."""
    return joined(*record_and_field(without_scheme(text)))


def joined(record: str, field: str) -> str:
    """Put a name together again."""
    return f"{record}.{field}" if field else record


def read_name(name: str) -> str:
    """Take off what changes nothing for a reader: ``X.VAL`` reads the very same as ``X``, and ``X.[0:2]`` does not."""
    return match["name"] if (match := _READS_ALIKE.fullmatch(name)) is not None else name


def without_scheme(text: str) -> str:
    """Take ``pva://`` or ``ca://`` off."""
    scheme, mark, name = text.partition("://")
    return name if mark and scheme in SCHEMES else text


# -- patterns -------------------------------------------------------------------------------------------------------


def fits(name: str, pattern: str) -> bool:
    """Whether the own name of a PV fits a pattern; case counts.

    ``*`` stands for any text, ``?`` for one character, ``[1-4]`` for one of a range, ``[!1-4]`` for one that is not.
    All else is literal, other brackets too: ``Q[1]`` is the PV of that name, and not ``Q1``. A name always fits itself,
    and the pattern may be written in every way that a name may.
    """
    exact, whole, value = _expressions(pattern)
    return name == exact or whole.fullmatch(name) is not None or (value is not None and value(name))


def covers(name: str, pattern: str) -> bool:
    """Whether a restriction on a pattern holds for a PV: where the pattern fits, and where a shell says that it does.

    ``QUAD:[12]`` is the PV of that name for a permission, which must not be wider than it was meant. A restriction must
    not be narrower: it holds for ``QUAD:1`` and ``QUAD:2`` too.
    """
    if fits(name, pattern) or "[" not in pattern:
        return fits(name, pattern)
    wanted, is_field = own_name(pattern), record_and_field(name)[1] == record_and_field(pattern)[1]
    return fnmatchcase(name, pattern) or (is_field and fnmatchcase(name, wanted))


def is_pattern(text: str) -> bool:
    """Whether it has a wildcard, and is not just the name of a PV."""
    return _WILDCARD.search(text) is not None


@lru_cache(maxsize=4096)
def _expressions(pattern: str) -> tuple[str, re.Pattern[str], Callable[[str], bool] | None]:
    """Read a pattern once: as a name, as it stands, and as a pattern of one field, where it ends like one."""
    pattern, wanted = without_scheme(pattern), own_name(pattern)
    if wanted == pattern:
        return wanted, _expression(pattern), None
    field, of_field = record_and_field(pattern)[1], _expression(wanted)
    # Q*.VAL is Q* without its other fields.
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
        return re.escape(wildcard)  # no range
    return wildcard.replace("!", "^")
