"""What is in the segments of a journal, read without it."""

from __future__ import annotations

from pathlib import Path

from badger_k2eg.core.records import Record, RecordKind, from_line
from badger_k2eg.journal.segments import listed

SAY = Record(kind=RecordKind.NOTE, message="x" * 50)


def lines_of(folder: Path) -> list[Record]:
    """Every line of every segment; each must be whole."""
    return [from_line(line) for segment in listed(folder) for line in segment.path.read_bytes().splitlines()]


def numbers(folder: Path) -> list[int]:
    return [record.line for record in lines_of(folder)]


def rows_fit(folder: Path) -> bool:
    """Row k of a segment is line first + k, and the segments follow on one another."""
    expected = listed(folder)[0].first
    for segment in listed(folder):
        assert segment.first == expected
        expected += len(segment.path.read_bytes().splitlines())
    return True
