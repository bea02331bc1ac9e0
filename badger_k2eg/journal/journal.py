"""``Journal``: a directory of recorded runs, to write to and to read from."""

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

#: Seconds between two checks for new lines.
_LOOK = 0.25


class Journal:
    """The journal in one directory, which is created by the first write.

    Safe to use from many threads and many processes at once; a forked child opens its own files.

    ::

        journal = Journal.open()
        begin = journal.write(Record(kind=RecordKind.RUN_BEGIN, run=run, data=manifest), required=True).start
        baseline = [Record(kind=RecordKind.BASELINE, run=run, pv=pv, value=value) for pv, value in ...]
        journal.write(*baseline, required=True, sync=True)
        evaluation = journal.write(Record(kind=RecordKind.EVALUATION_BEGIN, run=run, evaluation=1)).start
        ...
        journal.write(Record(kind=RecordKind.EVALUATION_END, run=run, evaluation=1, begin=evaluation), sync=True)
        journal.write(Record(kind=RecordKind.RUN_END, run=run, begin=begin, name="success"), sync=True)

    Every ``….end`` has the line of its ``….begin`` in ``begin``: this defines an event and its half-open range of
    lines, which includes both. The end of a run closes what is still open in it. ``core/records.py`` defines the kinds.

    :param directory: where the segments are.
    :param settings: sizes, ages, and what to do on a full disk; ``enabled`` is for the caller.
    """

    def __init__(self, directory: Path, settings: JournalSettings | None = None) -> None:
        """Remember the directory."""
        self.directory = directory
        self.settings = settings or JournalSettings()
        self._writer = Writer(directory, self.settings)
        # Whoever only imports the journal, for instance to list plugins, needs no database.
        from .index import Index

        self._reader = Reader(Index(directory, lambda: options.index_path(directory)))

    @classmethod
    def open(cls, settings: JournalSettings | None = None) -> Journal:
        """Return this user's journal, in the directory set by ``journal_dir`` or the platform's own.

        :raises SettingsError: for an invalid option.
        """
        found = settings or options.load()
        return cls(found.directory, found)

    @staticmethod
    def new_run_id() -> str:
        """Return a new run id: the time in UTC, and four random hex digits."""
        return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, *records: Record, required: bool = False, sync: bool = False) -> range:
        """Append lines in a single write, so that no line of another process is between them.

        Line number, time and origin are filled in unless given. One call with many lines is cheaper than many calls.

        :param required: whether a failure is an error (the baseline: nothing may be set without it). Otherwise a
            failure is logged once, lost lines are counted, and the journal resumes, with a line of kind ``lost``, as
            soon as it can be written again; ``journal_on_error = raise`` makes every write required.
        :param sync: whether to flush them to the disk (baseline, end of an evaluation, end of a run).
        :returns: their line numbers; ``range(0)`` when they were lost (a ``begin`` of 0 closes nothing).
        :raises JournalWriteError: when they are required and cannot be written; then none of them is written.
        """
        return self._writer.write(records, required=required, sync=sync)

    def begin_mark(self, name: str) -> int:
        """Begin a mark (a shift, a fault), and return its line.

        :raises JournalWriteError: when it cannot be written.
        """
        return self._writer.write([Record(kind=RecordKind.MARK_BEGIN, name=name)], required=True).start

    def end_mark(self, name: str) -> Event:
        """End the newest open mark of that name, and return it.

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
        """Close the newest segment, and move all closed ones to another directory; line numbers continue.

        That directory is a journal, and can be read as one.

        :param place: ``archive`` in the journal by default.
        :param force: whether to archive while a run is going, which splits it between the two journals.
        :returns: where the segments are now.
        :raises JournalError: while a run is going.
        :raises OSError: when a segment cannot be moved; earlier ones have been.
        """
        running = [run.id for run in self.runs() if run.open and run.alive]
        if running and not force:
            raise JournalError(f"run {running[0]} is still going: archive after its end, or split it with --force")
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
        """Close all files; the next call opens them again."""
        self._writer.close()
        self._reader.index.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def runs(self) -> list[RecordedRun]:
        """Return the runs, the newest last."""
        return all_runs(self._reader)

    def run(self, text: str) -> RecordedRun:
        """Return a run by its id, the unique beginning of one, its name, or ``last``.

        :raises NoSuchRecord: when no run matches, or more than one.
        """
        return find_run(self._reader, text)

    def records(self, query: Query | None = None) -> Iterator[Record]:
        """Yield the lines that a query asks for (by default all), in the order of their numbers.

        :raises NoSuchRecord: for a PV, host or user that no line has.
        :raises JournalError: for a journal of a newer version.
        """
        return self._reader.records(query or Query())

    def events(
        self, kinds: Sequence[str] = (), *, run: str | None = None, name: str | None = None, only_open: bool = False
    ) -> list[Event]:
        """Return runs, evaluations, sets, restores, marks and annotations, with their ranges of lines."""
        return self._reader.events(kinds, run=run, name=name, only_open=only_open)

    def around(self, line: int) -> list[Event]:
        """Return the events that contain a line, the outermost first."""
        return self._reader.around(line)

    def follow(
        self,
        query: Query | None = None,
        deadline: Deadline | None = None,
        *,
        tail: int = 0,
        ended: Callable[[], bool] = lambda: False,
    ) -> Iterator[Record]:
        """Yield lines as they are written, without end; waits for a journal that does not exist yet.

        :param tail: how many existing lines to yield first.
        :param deadline: ends it, at once when cancelled.
        :param ended: whether to stop; called after each line and each check for new ones.
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
        """Rebuild the index from the segments, and return the number of lines."""
        return self._reader.index.rebuild()

    @property
    def index_path(self) -> Path | None:
        """The file of the index; None while it is in memory."""
        return self._reader.index.path
