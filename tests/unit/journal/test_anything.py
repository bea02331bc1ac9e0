"""Whatever happens to a journal, in whatever order: numbers stay unique and rising, and nothing written is lost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from badger_k2eg.core.records import BadLine, Record, RecordKind, from_line, to_line
from badger_k2eg.errors import JournalError
from badger_k2eg.journal import Journal, JournalSettings, Query
from badger_k2eg.journal.segments import listed


class JournalMachine(RuleBasedStateMachine):
    """Two writers, kills, archiving, an index that is taken away; against a plain dict of what was written."""

    writers = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.place = self.folder / "journal"
        self.journals: list[Journal] = []
        self.written: dict[int, str] = {}
        self.archived: set[int] = set()

    @initialize(target=writers, size=st.sampled_from([300, 1500, 100_000]))
    def first(self, size: int) -> Journal:
        return self._open(size)

    @rule(target=writers, size=st.sampled_from([300, 1500, 100_000]))
    def another(self, size: int) -> Journal:
        return self._open(size)

    def _open(self, size: int) -> Journal:
        self.journals.append(Journal(self.place, JournalSettings(segment_size=size)))
        return self.journals[-1]

    @rule(journal=writers, texts=st.lists(st.text(max_size=50), min_size=1, max_size=5))
    def write(self, journal: Journal, texts: list[str]) -> None:
        lines = journal.write(*(Record(kind=RecordKind.NOTE, message=f"- {text}") for text in texts), required=True)
        assert lines.start > max(self.written, default=0)
        self.written.update(zip(lines, (f"- {text}" for text in texts), strict=True))

    @rule(keep=st.integers(1, 150))
    def die_while_writing(self, keep: int) -> None:
        if self.written and (found := listed(self.place)):
            text = to_line(Record(kind=RecordKind.NOTE, line=10**9, message="z" * 200))
            with found[-1].path.open("ab") as file:
                file.write(text[:keep])

    @rule()
    def scribble_by_hand(self) -> None:
        if self.written and (found := listed(self.place)):
            with found[-1].path.open("ab") as file:
                file.write(b"what is this?\n")

    @rule(journal=writers)
    def restart(self, journal: Journal) -> None:
        journal.close()

    @rule(journal=writers)
    def archive(self, journal: Journal) -> None:
        if self.written:
            moved = journal.archive()
            assert moved
            end = listed(self.place)[0].first
            self.archived |= {line for line in self.written if line < end}

    @rule()
    def lose_the_index(self) -> None:
        (self.place / "index.sqlite3").unlink(missing_ok=True)

    @rule(journal=writers)
    def everything_is_found(self, journal: Journal) -> None:
        found = {r.line: r.message for r in journal.records(Query(kinds=(RecordKind.NOTE,)))}
        assert found == {line: text for line, text in self.written.items() if line not in self.archived}

    @invariant()
    def rows_fit(self) -> None:
        for segment in [*listed(self.place / "archive"), *listed(self.place)]:
            for row, text in enumerate(segment.path.read_bytes().splitlines()):
                try:
                    record = from_line(text)
                except BadLine:
                    continue
                assert record.line == segment.first + row

    def teardown(self) -> None:
        for journal in self.journals:
            journal.close()
        shutil.rmtree(self.folder)


TestJournal = pytest.mark.slow(JournalMachine.TestCase)
TestJournal.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_KEYS = ("v", "line", "time", "kind", "level", "run", "evaluation", "begin", "pv", "value", "outcome", "data", "host")


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from(_KEYS), value=_json)
def test_a_line_edited_into_anything_never_stops_the_reading_of_others(key: str, value: Any) -> None:
    import json

    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        begin = journal.write(Record(kind=RecordKind.RUN_BEGIN, run="r")).start
        journal.write(Record(kind=RecordKind.RUN_END, run="r", begin=begin, name="success"))
        journal.write(Record(kind=RecordKind.NOTE, run="r", message="after"))
        (segment,) = listed(Path(folder))
        rows = segment.path.read_bytes().splitlines()
        for row in (1, 2):
            edited = {**json.loads(rows[row]), key: value}
            segment.path.write_bytes(b"\n".join([*rows[:row], json.dumps(edited).encode(), *rows[row + 1 :]]) + b"\n")
            try:
                found = [record.message for record in journal.records()]
            except JournalError as error:
                assert key == "v" and "a newer version" in str(error)
            else:
                assert found[-1] == "after"
                [run.state for run in journal.runs()]
        journal.close()
