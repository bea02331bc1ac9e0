r"""``printable``: names, values and messages as text that a terminal shows and does not obey. Imports nothing of ours.

A name or a value comes from a machine, a broker or a file that somebody edited: it may hold the codes that move a
cursor, clear a line, ring a bell or turn the direction of writing. For people these are written as ``repr`` writes
them (``\x1b``, ``\n``, ``\u202e``), and everything else as it is. JSON for machines is as exact as it was.
"""

from __future__ import annotations

import json
import logging
import math
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Control codes, directions and joiners, halves of a surrogate pair, separators of lines and paragraphs.
_OBEYED = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def printable(value: object) -> str:
    """Write a value on one line, with what a terminal would obey written out."""
    text = str(value)
    return text if text.isprintable() else "".join(_written(c) if _is_obeyed(c) else c for c in text)


def printable_lines(value: object) -> str:
    r"""Write a text of several lines of our own: all that ``printable`` writes out but for ``\n``."""
    return "\n".join(map(printable, str(value).split("\n")))


def json_text(value: Any, *, indent: int | None = None) -> str:
    r"""Write JSON; what a terminal would obey, or cannot show, is ``\u202e`` in it: for a reader of JSON the same."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if c != "\n" and _is_obeyed(c) else c for c in text)


def finite(value: Any) -> Any:
    """Return a plain value with a text in the place of each NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def plain_labels() -> Iterator[None]:
    """Let matplotlib draw names as they are: a ``$`` in one begins no formula."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):
        yield


class PrintableFormatter(logging.Formatter):
    """Writes a log record on one line, whatever its names and values hold; a traceback has its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of logging
        """Write the line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name of logging
        """Write the traceback."""
        return printable_lines(super().formatException(ei))


def _is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in _OBEYED


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()
