"""Two processes write one journal, and are killed at random moments, again and again: only torn lines are lost."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from badger_k2eg.core.records import BadLine, Record, RecordKind, from_line
from badger_k2eg.journal import Journal, Query
from badger_k2eg.journal.segments import listed

KILLS = 100

# Forks a writer as soon as the one before is dead, so that a kill costs no start of an interpreter. Each writer says on
# its pipe what it knows to be written: those lines must be there.
_NURSERY = """
import os, sys
from pathlib import Path
from badger_k2eg.journal import Journal, JournalSettings
from badger_k2eg.core.records import Record, RecordKind

folder, name = Path(sys.argv[1]), sys.argv[2]
journal = Journal(folder, JournalSettings(segment_size=5_000_000))
for life in range(10_000):
    child = os.fork()
    if child == 0:
        for count in range(100_000_000):
            text = f"{name} {life} {count} " + "x" * (300_000 if count % 4 == 0 else count * 37 % 3000)
            records = [Record(kind=RecordKind.NOTE, name=name, message=text) for _ in range(1 + count % 3)]
            lines = journal.write(*records, sync=count % 50 == 0)
            os.write(1, f"{lines.start} {lines.stop}\\n".encode())
    os.write(2, f"{child}\\n".encode())
    os.waitpid(child, 0)
"""


def _lines(path: Path) -> list[Record | None]:
    """Every row of a segment; None for one that is no record."""
    found: list[Record | None] = []
    for row in path.read_bytes().splitlines():
        try:
            found.append(from_line(row))
        except BadLine:
            found.append(None)
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_kills_lose_at_most_the_line_being_written(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    said = [(tmp_path / name).open("w+b") for name in ("a", "b")]
    command = [sys.executable, "-W", "ignore", "-c", _NURSERY, str(folder)]
    processes = [
        subprocess.Popen([*command, name], stdout=out, stderr=subprocess.PIPE, start_new_session=True)
        for name, out in zip("ab", said, strict=True)
    ]
    chance = random.Random(1)
    try:
        for _, process in zip(range(KILLS), itertools.cycle(processes), strict=False):
            assert process.stderr is not None
            writer = int(process.stderr.readline())
            time.sleep(chance.uniform(0.002, 0.08))
            os.kill(writer, signal.SIGKILL)
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
    after = Journal(folder)
    last = after.write(Record(kind=RecordKind.NOTE, name="after")).start

    expected, torn, marks = 1, [], []
    whole: dict[int, Record] = {}
    for segment in listed(folder):
        assert segment.first == expected
        for record in _lines(segment.path):
            if record is None:
                torn.append(expected)
            else:
                assert (record.line, record.intact) == (expected, True)
                whole[expected] = record
                if record.kind is RecordKind.TORN:
                    marks.append(expected)
            expected += 1
    assert expected == last + 1 and len(listed(folder)) > 1
    # Every torn line is marked by the writer that came next, and at most one for each kill.
    assert marks == [line + 1 for line in torn] and len(torn) <= KILLS + 2
    print(len(torn), "torn of", len(whole))
    known = 0
    for name, out in zip("ab", said, strict=True):
        out.seek(0)
        # The last line of what a killed writer said may be torn itself.
        for line in out.read().decode().splitlines():
            first, stop = map(int, line.split())
            known += stop - first
            assert all(whole[number].name == name for number in range(first, stop))
        out.close()
    assert known > KILLS
    assert [record.line for record in after.records(Query(kinds=(RecordKind.TORN,)))] == marks
    assert {record.line for record in after.records()} == set(whole)
    after.close()
