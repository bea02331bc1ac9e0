"""The files of a journal: how a segment is named, listed, and read from its end. Writes nothing.

A segment is named after the number of its first line and its creation time (``000000000001-20261121T111500Z.ndjson``):
the numbers alone give the order, whatever the clock did.
"""

from __future__ import annotations

import calendar
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from ..core.records import BadLine, Record, from_line

_NAME = re.compile(r"(\d{12,18})-(\d{8}T\d{6})Z\.ndjson")
_TIME = "%Y%m%dT%H%M%S"
_BLOCK = 1 << 13


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of a journal.

    :ivar first: the number of its first line.
    :ivar begun: when it was created, in seconds since the Unix epoch, by its writer's clock.
    """

    first: int
    path: Path
    begun: float


def name_of(first: int, time_ns: int) -> str:
    """Return the file name of the segment that begins with a line."""
    return f"{first:012d}-{time.strftime(_TIME, time.gmtime(time_ns / 1e9))}Z.ndjson"


def at(path: Path) -> Segment | None:
    """Return the segment that a file is, going by its name; None if it is not one."""
    match = _NAME.fullmatch(path.name)
    try:
        return Segment(int(match[1]), path, calendar.timegm(time.strptime(match[2], _TIME))) if match else None
    except ValueError:  # digits that are not a date
        return None


def listed(directory: Path) -> list[Segment]:
    """Return the segments of a journal in the order of their lines; none if the directory does not exist."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(segment for name in names if (segment := at(directory / name)) is not None)


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a segment.

    :ivar last: the newest intact record, or None.
    :ivar lines: complete lines after that one: edited by hand, or torn and closed since. Each has its own number.
    :ivar torn: bytes after the last newline: a line that was being written when its writer died.
    """

    last: Record | None
    lines: int
    torn: int

    def next_line(self, first: int) -> int:
        """Return the number of the line that would follow, in a segment that begins with ``first``."""
        return (first if self.last is None else self.last.line + 1) + self.lines


def tail_of(handle: int, size: int) -> Tail:
    """Read the end of an open segment of ``size`` bytes.

    :raises NewerSchema: when a newer version wrote to it.
    """
    text, start, torn = b"", size, 0
    while True:
        step = min(max(_BLOCK, len(text)), start)
        start -= step
        text = os.pread(handle, step, start) + text
        body, newline, rest = text.rpartition(b"\n")
        if not newline and start:
            continue
        torn = len(rest)
        lines = body.split(b"\n") if newline else []
        # The first line may begin in the block before.
        for after, line in enumerate(reversed(lines[1:] if start else lines)):
            if (last := _whole(line)) is not None:
                return Tail(last, after, torn)
        if start == 0:
            return Tail(None, len(lines), torn)


def _whole(line: bytes) -> Record | None:
    try:
        record = from_line(line)
    except BadLine:
        return None
    return record if record.intact else None
