r"""``printable``: names, values and messages as text that a terminal displays and does not interpret.

A name or a value comes from a machine, a broker or an edited file: it may hold the codes that move a cursor, clear a
line, ring a bell or change the direction of writing. For people these are written as ``repr`` writes them (``\x1b``,
``\n``, ``\u202e``), and everything else as it is. JSON for programs stays exact.
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
    """Return a value as one line, with the characters that a terminal interprets escaped."""
    text = str(value)
    return text if text.isprintable() else "".join(_written(c) if _is_obeyed(c) else c for c in text)


def printable_lines(value: object) -> str:
    r"""Return a text of several lines with everything escaped that ``printable`` escapes, except for ``\n``."""
    return "\n".join(map(printable, str(value).split("\n")))


def json_text(value: Any, *, indent: int | None = None) -> str:
    r"""Return a value as JSON, in which what a terminal interprets or cannot show is escaped (``\u202e``)."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if c != "\n" and _is_obeyed(c) else c for c in text)


def finite(value: Any) -> Any:
    """Return a value as JSON has it: arrays are lists, and a text is in the place of each NaN and infinity."""
    # By its method: this module is loaded before numpy.
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def plain_labels() -> Iterator[None]:
    """Make matplotlib draw names as they are inside the ``with`` block: a ``$`` does not begin a formula."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):
        yield


class PrintableFormatter(logging.Formatter):
    """A formatter that writes each log record on one line, whatever its names and values hold; tracebacks follow."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of logging
        """Return the line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name of logging
        """Return the traceback."""
        return printable_lines(super().formatException(ei))


def _is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in _OBEYED


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()
