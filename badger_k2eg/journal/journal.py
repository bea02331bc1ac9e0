"""``Journal``: one directory of recorded runs, to write into and to read from."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..core import futures
from ..core.deadline import Deadline
from ..core.errors import CallCancelled, JournalError, NoSuchRecord
from ..core.records import Record, RecordKind
from ..core.suggestions import did_you_mean
from . import settings as options
from .lookup import Event, Reader
from .query import Query
from .recorded_run import RecordedRun, all_runs, find_run
from .settings import JournalSettings
from .writer import Writer

#: Seconds between two looks for new lines.
_LOOK = 0.25


class Journal:
    """The journal of one directory. Nothing happens in the constructor; nothing is on disk before the first write.

    Safe to use from many threads and many processes at once; a forked child goes on with handles of its own.

    ::

        journal = Journal.open()
        begin = journal.write(Record(kind=RecordKind.RUN_BEGIN, run=run, data=manifest), required=True).start
        baseline = [Record(kind=RecordKind.BASELINE, run=run, pv=pv, value=value) for pv, value in ...]
        journal.write(*baseline, required=True, sync=True)
        evaluation = journal.write(Record(kind=RecordKind.EVALUATION_BEGIN, run=run, evaluation=1)).start
        ...
        journal.write(Record(kind=RecordKind.EVALUATION_END, run=run, evaluation=1, begin=evaluation), sync=True)
        journal.write(Record(kind=RecordKind.RUN_END, run=run, begin=begin, name="success"), sync=True)

    Every ``….end`` names the line of its ``….begin`` in ``begin``: that makes the event and its range of lines, half
    open, both lines within. The end of a run closes what is still open in it. Kinds, and what belongs into each, are in
    ``records.py``.

    :param directory: where the segments are.
    :param settings: sizes, ages, and what a full disk means; whether runs are recorded at all is for them to see.
    """

    def __init__(self, directory: Path, settings: JournalSettings | None = None) -> None:
        """Keep the place."""
        self.directory = directory
        self.settings = settings or JournalSettings()
        self._writer = Writer(directory, self.settings)
        # Whoever only imports the journal, to list plugins say, needs no database.
        from .index import Index

        self._reader = Reader(Index(directory, lambda: options.index_path(directory)))

    @classmethod
    def open(cls, settings: JournalSettings | None = None) -> Journal:
        """Give the journal of this user: the place of the setting ``journal_dir``, or of the platform.

        :raises SettingsError: for a wrong option.
        """
        found = settings or options.load()
        return cls(found.directory, found)

    @staticmethod
    def new_run_id() -> str:
        """Make the id of a run: when it began, UTC, and four letters that make it one of its kind."""
        return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, *records: Record, required: bool = False, sync: bool = False) -> range:
        """Append lines, all of them in one write, so that no other process's line is between them.

        Line, time and origin are filled in, unless they are given. One call for many is cheaper than many calls.

        :param required: whether it is an error when they cannot be written (the baseline: without it nothing may be
            moved). Otherwise it is warned of once, what was lost is counted, and the journal resumes, with a line of
            kind ``lost``, when there is room again; ``journal_on_error = raise`` makes every write required.
        :param sync: whether they must be on the disk itself at return (baseline, end of an evaluation, of a run).
        :returns: the numbers of their lines; ``range(0)`` when they were lost (a ``begin`` of 0 closes nothing).
        :raises JournalWriteError: when they are required and cannot be written: nothing of them is there.
        """
        return self._writer.write(records, required=required, sync=sync)

    def begin_mark(self, name: str) -> int:
        """Begin a stretch of one's own (a shot, a fault); gives its line.

        :raises JournalWriteError: when it cannot be written.
        """
        return self._writer.write([Record(kind=RecordKind.MARK_BEGIN, name=name)], required=True).start

    def end_mark(self, name: str) -> Event:
        """End the newest open stretch of that name; gives it.

        :raises NoSuchRecord: when none of that name is open.
        """
        found = self.events(("mark",), name=name, only_open=True)
        if not found:
            names = dict.fromkeys(event.name or "" for event in self.events(("mark",), only_open=True))
            raise NoSuchRecord(f"no mark {name!r} is open; {did_you_mean(name, names, 'open ones')}")
        start = found[-1].start
        self._writer.write([Record(kind=RecordKind.MARK_END, name=name, begin=start)], required=True)
        return next(event for event in self.events(("mark",), name=name) if event.start == start)

    def archive(self, place: Path | None = None, *, force: bool = False) -> list[Path]:
        """Close the newest segment, and move all that are closed to another place; numbers go on.

        What is moved is a journal of its own, to be read there.

        :param place: ``archive`` in the journal by default.
        :param force: whether a run that goes on may be torn apart.
        :returns: where the segments are now.
        :raises JournalError: while a run goes on.
        :raises OSError: when a segment cannot be moved; those before it are.
        """
        running = [run.id for run in self.runs() if run.open and run.alive]
        if running and not force:
            raise JournalError(f"run {running[0]} goes on; archive when it has ended (or --force: it is torn apart)")
        place = place or self.directory / "archive"
        place.mkdir(parents=True, exist_ok=True)
        moved = []
        for segment in self._writer.seal():
            target = place / segment.path.name
            if target.exists():
                raise FileExistsError(17, "exists already", str(target))
            shutil.move(segment.path, target)
            moved.append(target)
        return moved

    def close(self) -> None:
        """Put the handles down; they are taken up again by the next call."""
        self._writer.close()
        self._reader.index.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def runs(self) -> list[RecordedRun]:
        """List the runs, the newest last."""
        return all_runs(self._reader)

    def run(self, text: str) -> RecordedRun:
        """Find a run by its id, the unique beginning of one, the name it was given, or ``last``.

        :raises NoSuchRecord: when there is none, or more than one; in one line.
        """
        return find_run(self._reader, text)

    def records(self, query: Query | None = None) -> Iterator[Record]:
        """Give the lines that a query asks for (all of them by default), in the order of their numbers.

        :raises NoSuchRecord: for a PV, host or user that no line has.
        :raises JournalError: for a journal of a newer version.
        """
        return self._reader.records(query or Query())

    def events(
        self, kinds: Sequence[str] = (), *, run: str | None = None, name: str | None = None, only_open: bool = False
    ) -> list[Event]:
        """Give runs, evaluations, sets, restores, marks and what was said of runs, with their ranges of lines."""
        return self._reader.events(kinds, run=run, name=name, only_open=only_open)

    def around(self, line: int) -> list[Event]:
        """Give the events that a line lies in, the outermost first."""
        return self._reader.around(line)

    def follow(
        self,
        query: Query | None = None,
        deadline: Deadline | None = None,
        *,
        tail: int = 0,
        ended: Callable[[], bool] = lambda: False,
    ) -> Iterator[Record]:
        """Give lines as they are written, for ever; a journal that is not there yet is waited for.

        :param tail: how many of those already there come first.
        :param deadline: ends it; a cancel is seen at once.
        :param ended: whether it is to end; asked after each line and each look.
        """
        query, deadline = replace(query or Query(), limit=None), deadline or Deadline()
        last = self._reader.index.ask("SELECT max(line) FROM records")[0][0] or 0
        first = max(last + 1, query.first or 0)
        if tail:
            end = min(first, query.end or first)
            before = self._reader.records(replace(query, end=end, limit=tail, newest_first=True), strict=False)
            yield from reversed(list(before))
        while not (deadline.expired or ended()):
            for record in self._reader.records(replace(query, first=first), strict=False):
                first = record.line + 1
                yield record
                if ended():
                    return
            with contextlib.suppress(CallCancelled):
                futures.sleep(_LOOK, deadline)

    def reindex(self) -> int:
        """Throw the index away and make it anew; gives the number of lines."""
        return self._reader.index.rebuild()

    @property
    def index_path(self) -> Path | None:
        """Where the index is; None while it is in memory."""
        return self._reader.index.path
